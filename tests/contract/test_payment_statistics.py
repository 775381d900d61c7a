"""Contract of ``RefundReports``: what was signed, and how refunds ended."""

from datetime import datetime, timedelta

from backends.sql import SQLStore
from signer.model.refund import OPERATOR, Refund, Status
from signer.model.transaction import Kind, TransactionStatus
from signer.ports.refund_reports import SignedTotals
from tests.fixtures.ledger import (
    OTHER_WALLET,
    a_filler,
    accepted,
    broadcast,
    mined,
    moved,
    now,
    reserved,
    save,
    step_to,
    transaction,
)


CHAIN = 31337
PAST = timedelta(minutes=10)


def _signed_at(store: SQLStore, at: datetime, **changes: object) -> Refund:
    refund = reserved(store, accepted(store, **changes))
    first = transaction(refund, signed_at=at, gas_limit=65_000)
    after = step_to(refund, Status.SIGNED, at, tx_hash=first.tx_hash)
    save(store, refund, after, first)
    return after


def test_signed_refunds_are_counted_since_a_time(store: SQLStore) -> None:
    """On their chain; queued and reserved ones do not count."""
    began = now()
    for at in (began - PAST, began, began + PAST):
        _signed_at(store, at)
    _signed_at(store, began, chain_id=7)
    reserved(store, accepted(store))
    accepted(store)

    def count(chain_id: int, since: datetime) -> int:
        return store.signed_by_tenant(chain_id, since)["gateway"].refunds

    assert count(CHAIN, began) == 2
    assert count(CHAIN, began - PAST) == 3
    assert count(7, began) == 1


def test_amounts_are_exact(store: SQLStore) -> None:
    """Beyond the integers of databases, and by token."""
    began, large = now(), 2**200 + 1
    for amount in (large, large, 1):
        _signed_at(store, began, amount=amount)
    other = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
    _signed_at(store, began, amount=5, token_address=other)

    assert store.signed_by_tenant(CHAIN, began)["gateway"].amounts == {
        OTHER_WALLET: 2 * large + 1,
        other: 5,
    }


def test_each_tenant_has_its_share(store: SQLStore) -> None:
    began, large = now(), 2**200 + 1
    for tenant, amount in (("shop", large), ("shop", large), ("shop", 1), ("other", 2)):
        _signed_at(store, began, tenant=tenant, amount=amount)

    assert store.signed_by_tenant(CHAIN, began) == {
        "shop": SignedTotals(3, 3 * 65_000, {OTHER_WALLET: 2 * large + 1}),
        "other": SignedTotals(1, 65_000, {OTHER_WALLET: 2}),
    }
    assert store.signed_by_tenant(CHAIN, began + PAST) == {}


def test_a_replacement_counts_for_its_gas_only(store: SQLStore) -> None:
    began = now()
    refund = _signed_at(store, began, amount=5)
    sent = moved(store, refund, Status.BROADCAST)
    again = transaction(
        sent, attempt=1, kind=Kind.NOOP, signed_at=began, gas_limit=21_000
    )
    save(store, sent, step_to(sent, Status.SIGNED, began, tx_hash=again.tx_hash), again)

    assert store.signed_by_tenant(CHAIN, began) == {
        "gateway": SignedTotals(1, 86_000, {OTHER_WALLET: 5})
    }


def test_a_filler_counts_for_the_gas_of_the_operator(store: SQLStore) -> None:
    began = now()
    _signed_at(store, began, amount=5)
    filler = a_filler(store, 7, began)
    noop = transaction(filler, kind=Kind.NOOP, signed_at=began)
    status = TransactionStatus.SIGNED
    store.save(filler, filler.with_status(status, began, tx_hash=noop.tx_hash), noop)

    assert store.signed_by_tenant(CHAIN, began) == {
        "gateway": SignedTotals(1, 65_000, {OTHER_WALLET: 5}),
        OPERATOR: SignedTotals(0, 21_000),
    }


def test_results_are_the_newest(store: SQLStore) -> None:
    """Refused and cancelled refunds used no nonce, and do not count."""
    began = now()
    for status in (Status.CONFIRMED, Status.FAILED, Status.FAILED):
        sent = mined(store, broadcast(store))
        codes = {"failure_code": "reverted"} if status is Status.FAILED else {}
        moved(store, sent, status, **codes)
    moved(store, accepted(store), Status.CANCELLED)
    broadcast(store)

    newest = [Status.FAILED, Status.FAILED, Status.CONFIRMED]
    found = store.last_results(CHAIN, began, 10)
    assert [status for _, status, _ in found] == newest
    assert {tenant for tenant, _, _ in found} == {"gateway"}
    assert all(at >= began for _, _, at in found)
    assert store.last_results(CHAIN, began, 2) == found[:2]
    assert store.last_results(CHAIN, began + PAST, 10) == ()
    assert store.last_results(7, began, 10) == ()
