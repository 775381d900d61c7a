"""What the console reads of the ledger, and the indexes that it uses."""

from datetime import timedelta

from api.extras.console import refunds
from api.extras.console.refunds import ConsoleTables
from backends.sql import SQLStore
from signer.model.refund import Status, new_refund_id
from tests.fixtures.ledger import (
    accepted,
    bound,
    broadcast,
    filled,
    later,
    moved,
    now,
    queued,
)
from tests.support.ledgers import query_plan


def test_results_of_a_period(store: SQLStore) -> None:
    """By the time of acceptance; sweeps and fillers are no refunds."""
    began = now()
    hour = timedelta(hours=1)
    for at in (began - hour, began, began + timedelta(seconds=1)):
        accepted(store, id=new_refund_id(at))
    moved(store, accepted(store, id=new_refund_id(began)), Status.CANCELLED)
    accepted(store, id=new_refund_id(began + hour))
    filled(store, [queued(id=new_refund_id(began), **bound())])

    read = store.tables(ConsoleTables)
    assert dict(read.results_between(began, began + hour, 10)) == {
        Status.QUEUED: 2,
        Status.CANCELLED: 1,
    }
    assert sum(read.results_between(began, began + hour, 2).values()) == 2
    assert dict(read.results_between(began + 2 * hour, began + 3 * hour, 9)) == {}


def test_times_to_the_first_broadcast(store: SQLStore) -> None:
    """A refund that was never broadcast, or before the period, has none."""
    began = now()
    minute = timedelta(minutes=1)
    for seconds in (30, 1, 200):
        broadcast(store, id=new_refund_id(began - timedelta(seconds=seconds)))
    accepted(store, id=new_refund_id(began))

    read = store.tables(ConsoleTables)
    fast, slow = read.broadcast_seconds(began - minute, began + minute, 10)
    assert 1 <= fast < 30 <= slow < 60
    assert len(read.broadcast_seconds(began - minute, began + minute, 1)) == 1


def test_a_reference_is_found_for_each_tenant(store: SQLStore) -> None:
    found = [accepted(store, tenant=name, reference="order").id for name in "acb"]
    accepted(store, tenant="b", reference="other")

    read = store.tables(ConsoleTables)
    listed = [each.id for each in read.find_by_reference("order", 10)]
    assert listed == sorted(found, reverse=True)
    assert len(read.find_by_reference("order", 2)) == 2
    assert read.find_by_reference("order\0", 10) == ()


def test_a_reference_is_looked_up_once_per_tenant(filled_store: SQLStore) -> None:
    plan = query_plan(
        filled_store, refunds.BY_REFERENCE, {"name": "order", "at_most": 10}
    )

    assert "Seq Scan on refunds" not in plan
    assert "SCAN refunds" not in plan.replace("SCAN refunds USING COVERING", "")


def test_results_come_from_the_primary_key(filled_store: SQLStore) -> None:
    """A chart costs the same in a ledger of any size."""
    given = {"first": queued().id, "at_most": 20}
    given["last"] = queued(id=new_refund_id(later(60))).id
    plan = query_plan(filled_store, refunds.RESULTS, given)

    # SQLite names the index of a primary key after the table.
    assert "pk_refunds" in plan or "sqlite_autoindex_refunds_1" in plan
    assert "Seq Scan" not in plan
    assert "SCAN refunds\n" not in plan


def test_broadcasts_come_from_the_primary_key(sqlite_store: SQLStore) -> None:
    given = {"first": "rf_0", "last": "rf_1", "at_most": 20}
    plan = query_plan(sqlite_store, refunds.FIRST_BROADCASTS, given)

    assert "SEARCH refund_moves" in plan
    assert "TEMP B-TREE" not in plan
