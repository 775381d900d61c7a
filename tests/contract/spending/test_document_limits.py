"""What signed documents let leave counts for the limits, as a refund does."""

from collections.abc import Sequence

import pytest
from sqlalchemy import select

from backends.sql import SQLStore
from backends.sql.tables import spendings
from signer.errors import LimitReachedError
from signer.model.audit_record import Record
from signer.model.key import SERVING, SigningCondition
from signer.model.spending_limits import NO_LIMITS, Limits, Spending
from tests.fixtures.ledger import OTHER_WALLET, WALLET, accepted, now, reserved
from tests.fixtures.races import race
from tests.support.keys import key_at, made_active
from tests.support.refunds import FakeClock


AMOUNT = 12_500_000
HOURLY = Limits(hourly=2 * AMOUNT)


def _spending(limits: Limits = HOURLY, chain_id: int = 31337) -> Spending:
    refund = ("TUSD", WALLET, "shop", OTHER_WALLET)
    token, token_address, tenant, recipient = refund
    return Spending(chain_id, token, token_address, tenant, recipient, AMOUNT, limits)


def _sign(store: SQLStore, *spent: Spending) -> bool:
    """Return whether the intent to sign a document that lets *spent* leave is kept."""
    key = key_at(WALLET)
    made_active(store, key)
    condition = SigningCondition(WALLET, key.key_id, SERVING, spendings=spent)
    intent = Record.of({"event": "intent"}, now())
    try:
        store.append([intent], condition=condition)
    except LimitReachedError:
        assert store.missing_records([intent]) == [intent]
        return False
    return True


@pytest.mark.parametrize(
    "limits",
    [
        HOURLY,
        Limits(daily=2 * AMOUNT),
        Limits(daily_per_recipient=2 * AMOUNT),
        Limits(tenant=HOURLY),
        Limits(gas_per_hour=1, hourly=2 * AMOUNT),
    ],
)
def test_each_limit_counts_documents(
    store: SQLStore, clock: FakeClock, limits: Limits
) -> None:
    """The third is not signed, and its intent is not kept; a day later it is."""
    assert [_sign(store, _spending(limits)) for _ in range(3)] == [True, True, False]
    clock.advance(hours=24)
    assert _sign(store, _spending(limits))


def test_refunds_and_documents_share_a_limit(store: SQLStore) -> None:
    refund = accepted(
        store, token_address=WALLET, recipient=OTHER_WALLET, tenant="shop"
    )
    limits = Limits(daily_per_recipient=3 * AMOUNT)
    reserved(store, refund, limits=limits)
    used = store.payment_totals(refund).spent.recipient

    assert used == refund.amount
    assert _sign(store, _spending(Limits(hourly=used + AMOUNT)))
    assert not _sign(store, _spending(Limits(hourly=used + AMOUNT)))
    assert store.payment_totals(refund).of_tenant.recipient == used + AMOUNT


def test_a_document_is_counted_as_a_whole(store: SQLStore) -> None:
    """Valid on two networks, it counts on both, or on none of them."""
    full = _spending(Limits(hourly=AMOUNT), chain_id=1)
    assert _sign(store, full)

    assert not _sign(store, _spending(), full)
    assert [_sign(store, _spending(), _spending(chain_id=2)) for _ in range(3)] == [
        True,
        True,
        False,
    ]
    assert not _sign(store, *[_spending(Limits(hourly=AMOUNT), 3)] * 2)
    rows = store._database.rows(
        select(spendings.c.chain_id).where(spendings.c.token_address == WALLET)
    )
    assert {row.chain_id for row in rows} == {1, 2, 31337}


def test_a_document_without_limits_is_counted_as_well(store: SQLStore) -> None:
    assert all(_sign(store, _spending(NO_LIMITS)) for _ in range(2))
    assert not _sign(store, _spending())


def _race(store: SQLStore, index: int) -> int:
    outcomes: Sequence[bool] = [
        _sign(store, _spending(Limits(daily=20 * AMOUNT))) for _ in range(10)
    ]
    return sum(outcomes)


def test_processes_share_the_limit(database_url: str) -> None:
    """Four processes that sign at once use the limit exactly (R27)."""
    assert sum(race(_race, database_url, 4)) == 20
