"""Contract of ``RefundStatistics``: counts for metrics, and for the runway."""

from dataclasses import replace
from datetime import timedelta

from backends.sql import SQLStore
from signer.model.refund import SWEEPER, Status, new_refund_id
from signer.ports import RefundStatistics
from signer.ports.refund_statistics import GAS, OpenRefunds, Payment
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accepted,
    adopted,
    broadcast,
    filled,
    mined,
    moved,
    now,
    queued,
    reserved,
)


CHAIN = 31337
TOKEN = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


def test_fits_the_port(store: SQLStore) -> None:
    """The tables are ``RefundStatistics``, which mypy verifies here."""
    fits: RefundStatistics = store

    assert fits.open_refunds() == ()
    assert dict(fits.accepted_since(now())) == {}
    assert fits.last_payments(CHAIN, 10) == ()
    assert dict(fits.spent_in_a_day(CHAIN, [GAS])) == {}


def test_open_refunds_are_grouped(store: SQLStore) -> None:
    """By everything that a label has, with the oldest of each; final ones are out."""
    old, new = queued(), queued()
    old = replace(old, updated_at=old.updated_at - timedelta(hours=1))
    filled(store, [old, new])
    waiting = accepted(store, tenant="shop")
    code = "limit-reached"
    store.save(waiting, waiting.with_due_at(now(), attempts=1, blocked_by=code))
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
    sweep = adopted(queued(tenant=SWEEPER, payment_session_id=WALLET), 99)
    filled(store, [replace(sweep, status=Status.CONFIRMED)])

    expected = [Payment(OTHER_WALLET, amount, 65_000) for amount in (9, 7)]
    assert list(store.last_payments(CHAIN, 2)) == expected
    assert len(store.last_payments(CHAIN, 10)) == 3
    assert store.last_payments(7, 10) == ()


def test_spendings_of_a_day_are_exact(store: SQLStore) -> None:
    """Beyond the integers of databases; only the tokens that were asked for."""
    large = 2**200 + 1
    for amount in (large, large):
        reserved(store, accepted(store, amount=amount))
    reserved(store, accepted(store, amount=3, token_address=TOKEN))

    assert dict(store.spent_in_a_day(CHAIN, [GAS, OTHER_WALLET])) == {
        GAS: 3 * 65_000,
        OTHER_WALLET: 2 * large,
    }
    assert dict(store.spent_in_a_day(7, [GAS])) == {}
