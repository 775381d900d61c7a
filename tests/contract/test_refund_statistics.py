"""Contract of ``RefundReports``: counts for metrics, and for the runway."""

from contextlib import closing
from dataclasses import replace
from datetime import timedelta

from backends.sql import SQLStore
from signer.model.refund import Status, new_refund_id
from signer.ports.refund_reports import (
    GAS,
    OpenRefunds,
    RecentPayment,
    SpentLately,
)
from tests.fixtures.ledger import (
    OTHER_WALLET,
    accepted,
    adopted,
    as_if,
    bound,
    broadcast,
    filled,
    mined,
    moved,
    now,
    queued,
    reserved,
    save,
)
from tests.support.ledgers import open_ledger
from tests.support.refunds import FakeClock


CHAIN = 31337
TOKEN = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


def test_open_refunds_are_grouped(store: SQLStore) -> None:
    """By everything that a label has, with the oldest of each; final ones are out."""
    old, new = queued(), queued()
    old = replace(old, updated_at=old.updated_at - timedelta(hours=1))
    filled(store, [old, new])
    waiting = accepted(store, tenant="shop")
    code = "limit-reached"
    save(store, waiting, waiting.with_due_at(now(), attempts=1, blocked_by=code))
    moved(store, accepted(store), Status.CANCELLED)

    found = sorted(store.open_refunds(), key=lambda each: each.tenant)

    assert found == [
        OpenRefunds("local", "gateway", Status.QUEUED, None, 2, old.updated_at),
        OpenRefunds("local", "shop", Status.QUEUED, code, 1, waiting.updated_at),
    ]


def test_accepted_refunds_are_counted_by_their_ids(store: SQLStore) -> None:
    began = now()
    hour = timedelta(hours=1)
    for at in (began - hour, began, began + timedelta(seconds=1)):
        accepted(store, id=new_refund_id(at))
    accepted(store, id=new_refund_id(began), tenant="shop", network="other")

    assert dict(store.accepted_since(began)) == {
        ("local", "gateway"): 2,
        ("other", "shop"): 1,
    }
    assert store.accepted_since(began - hour)["local", "gateway"] == 3


def test_the_last_payments_are_confirmed_refunds(store: SQLStore) -> None:
    for amount in (5, 7, 9):
        sent = mined(store, broadcast(store, amount=amount))
        moved(store, sent, Status.CONFIRMED)
    moved(store, mined(store, broadcast(store)), Status.FAILED, failure_code="reverted")
    sweep = adopted(queued(**bound()), 99)
    filled(store, [as_if(sweep, status=Status.CONFIRMED)])

    expected = [RecentPayment(OTHER_WALLET, amount, 65_000) for amount in (9, 7)]
    assert list(store.last_payments(CHAIN, 2)) == expected
    assert len(store.last_payments(CHAIN, 10)) == 3
    assert store.last_payments(7, 10) == ()


def test_spendings_of_a_day_are_exact(store: SQLStore) -> None:
    """Beyond the integers of databases; only the tokens that were asked for."""
    large = 2**200 + 1
    for amount in (large, large):
        reserved(store, accepted(store, amount=amount))
    reserved(store, accepted(store, amount=3, token_address=TOKEN))

    gas, amount = 3 * 65_000, 2 * large
    assert dict(store.spent_lately(CHAIN, [GAS, OTHER_WALLET])) == {
        GAS: SpentLately(gas, gas),
        OTHER_WALLET: SpentLately(amount, amount),
    }
    assert dict(store.spent_lately(7, [GAS])) == {}


def test_spendings_of_a_tenant(store: SQLStore) -> None:
    reserved(store, accepted(store, tenant="shop", amount=3))
    reserved(store, accepted(store, tenant="other", amount=4))

    assert store.spent_lately(CHAIN, [OTHER_WALLET])[OTHER_WALLET].day == 7
    assert dict(store.spent_lately(CHAIN, [GAS, OTHER_WALLET], "shop")) == {
        GAS: SpentLately(65_000, 65_000),
        OTHER_WALLET: SpentLately(3, 3),
    }


def test_earlier_hours_count_for_the_day_only(database_url: str) -> None:
    clock = FakeClock()
    with closing(open_ledger(database_url, clock=clock)) as store:
        reserved(store, accepted(store, amount=3))
        clock.advance(hours=23)
        reserved(store, accepted(store, amount=4))

        assert store.spent_lately(CHAIN, [OTHER_WALLET])[OTHER_WALLET] == (4, 7)
        clock.advance(hours=1)
        assert store.spent_lately(CHAIN, [OTHER_WALLET])[OTHER_WALLET] == (0, 4)
