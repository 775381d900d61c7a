"""Spending limits per hour and day hold under concurrent reservations."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from backends.sql import SQLStore
from backends.sql.tables import spendings
from signer.errors import LimitReachedError, StaleStateError
from signer.model.audit_record import Record
from signer.model.key import SERVING, SigningCondition
from signer.model.refund import Status
from signer.model.spending_limits import NO_LIMITS, Limits, Spending, Spent, hour_number
from tests.fixtures.ledger import OTHER_WALLET, WALLET, accepted, now, reserved, stored
from tests.fixtures.races import race
from tests.support.keys import key_at, made_active
from tests.support.ledgers import open_ledger
from tests.support.refunds import NOON, FakeClock


AMOUNT = 12_500_000

GAS = 65_000


def _give(
    store: SQLStore,
    limits: Limits = NO_LIMITS,
    *,
    gas_limit: int = GAS,
    **changes: object,
) -> bool:
    """Return whether a new refund gets its nonce."""
    refund = accepted(store, **changes)
    try:
        reserved(store, refund, limits=limits, gas_limit=gas_limit)
    except LimitReachedError:
        assert stored(store, refund) == refund
        return False
    return True


def test_an_hour_has_a_limit(store: SQLStore, clock: FakeClock) -> None:
    """A refund within the limit gets a nonce; the next one waits for the next hour."""
    limits = Limits(hourly=2 * AMOUNT)

    given = [_give(store, limits) for _ in range(3)]
    clock.advance(hours=1)
    later = _give(store, limits)

    assert given == [True, True, False]
    assert later


def test_a_day_is_this_hour_and_the_previous_23(
    store: SQLStore, clock: FakeClock
) -> None:
    """The daily limit is a sliding window of whole hours."""
    limits = Limits(daily=AMOUNT)

    assert _give(store, limits)
    clock.advance(hours=23)
    assert not _give(store, limits)
    clock.advance(hours=1)
    assert _give(store, limits)


def test_a_recipient_has_a_limit_of_its_own(store: SQLStore, clock: FakeClock) -> None:
    limits = Limits(daily_per_recipient=AMOUNT)

    assert _give(store, limits)
    assert _give(store, limits, recipient=OTHER_WALLET)
    clock.advance(hours=2)
    assert not _give(store, limits)
    clock.advance(hours=22)
    assert _give(store, limits)


def test_tokens_and_chains_have_separate_limits(store: SQLStore) -> None:
    limits = Limits(hourly=AMOUNT)

    assert _give(store, limits)
    assert _give(store, limits, token_address=WALLET)
    assert _give(store, limits, chain_id=7)
    assert not _give(store, limits)


def test_wallets_share_the_limit(store: SQLStore) -> None:
    """Two wallets of one chain share its limit (R27)."""
    limits = Limits(hourly=AMOUNT)
    first, second = accepted(store), accepted(store)

    reserved(store, first, limits=limits)
    with pytest.raises(LimitReachedError, match="hourly_limit"):
        reserved(store, second, limits=limits, sender=OTHER_WALLET)

    assert stored(store, second).status is Status.QUEUED


def test_amounts_of_a_fast_clock_count(store: SQLStore, clock: FakeClock) -> None:
    """Amounts counted under a later hour, by a fast clock, count as well (R30)."""
    limits = Limits(hourly=AMOUNT, daily=AMOUNT)

    assert _give(store, limits)
    clock.advance(hours=-1)
    assert not _give(store, limits)


def test_amounts_are_exact(store: SQLStore) -> None:
    """Amounts with 18 decimals exceed 64 bits."""
    large = 10**30
    limits = Limits(daily=2 * large)

    assert _give(store, limits, amount=large + 1)
    assert not _give(store, limits, amount=large)
    assert _give(store, limits, amount=large - 1)


def test_gas_has_a_limit_per_hour(store: SQLStore, clock: FakeClock) -> None:
    """All tokens of a chain share its gas, however small their amounts are."""
    limits = Limits(gas_per_hour=2 * GAS)

    assert _give(store, limits, amount=1)
    assert _give(store, limits, amount=1, token_address=WALLET, gas_limit=GAS - 1)
    assert not _give(store, limits, amount=1, gas_limit=2)
    assert _give(store, limits, amount=1, gas_limit=1)
    assert _give(store, limits, amount=1, chain_id=7)
    clock.advance(hours=1)
    assert _give(store, limits, amount=1)


@pytest.mark.parametrize(
    "limits",
    [
        Limits(hourly=AMOUNT),
        Limits(daily=AMOUNT),
        Limits(daily_per_recipient=AMOUNT),
        Limits(gas_per_hour=GAS),
    ],
    ids=["hourly", "daily", "recipient", "gas"],
)
def test_a_tenant_has_limits_of_its_own(store: SQLStore, limits: Limits) -> None:
    """What one tenant spends leaves another tenant's limits as they were."""
    all_tenants = Limits(hourly=3 * AMOUNT)
    both = replace(all_tenants, tenant=limits)

    assert _give(store, both, tenant="first")
    assert not _give(store, both, tenant="first")
    assert _give(store, both, tenant="second")
    assert _give(store, all_tenants, tenant="third")
    assert not _give(store, all_tenants, tenant="fourth")


def test_a_new_limit_counts_what_was_spent_before_it(store: SQLStore) -> None:
    """Refunds without limits are counted too."""
    assert _give(store)

    assert not _give(store, Limits(daily=AMOUNT))
    assert not _give(store, Limits(gas_per_hour=GAS))
    assert not _give(store, Limits(tenant=Limits(daily=AMOUNT)))
    assert not _give(store, Limits(tenant=Limits(gas_per_hour=GAS)))


def test_the_error_names_the_limit(store: SQLStore) -> None:
    """A tenant's limit is named as such."""
    with pytest.raises(LimitReachedError, match=r"^the gas_per_hour of TUSD is reach"):
        reserved(store, accepted(store), limits=Limits(gas_per_hour=1))
    with pytest.raises(LimitReachedError, match=r"^the tenant's daily_limit of TUSD"):
        reserved(store, accepted(store), limits=Limits(tenant=Limits(daily=1)))


def test_a_failed_reservation_spends_nothing(store: SQLStore) -> None:
    limits = Limits(hourly=2 * AMOUNT)
    refund = accepted(store)
    reserved(store, refund, limits=limits)

    with pytest.raises(StaleStateError):
        reserved(store, refund, limits=limits)
    assert _give(store, limits)


def _take(store: SQLStore, index: int) -> int:
    """Reserve ten times, in one of several processes; return how many succeeded."""
    limits = Limits(daily=20 * AMOUNT)
    return sum(_give(store, limits) for _ in range(10))


def test_processes_share_the_limit(database_url: str) -> None:
    """Four concurrent processes use the limit exactly (R27)."""
    assert sum(race(_take, database_url, 4)) == 20


def test_the_store_has_a_clock(store: SQLStore, database_url: str) -> None:
    """Of the injected clock, or of the database's host, which is this one."""
    with closing(open_ledger(database_url)) as other:
        before = now()
        moment = other.now()
        after = now()

    assert store.now() == NOON
    assert before <= moment <= after
    assert moment.utcoffset() == timedelta(0)


def test_the_hours_are_the_databases(database_url: str) -> None:
    """Without an injected clock, the time of a reservation does not count."""
    before = hour_number(now())
    with closing(open_ledger(database_url)) as store:
        reserved(store, accepted(store), at=NOON)
        hours = {row.hour for row in store._database.rows(select(spendings))}

    assert hours <= {before, hour_number(now())}
    assert len(hours) == 1


def test_what_was_spent_is_shown(store: SQLStore, clock: FakeClock) -> None:
    """By all tenants and by one, in this hour and this day, and to one recipient."""
    refund = accepted(store)
    none = Spent(0, 0, 0, 0)
    assert store.spent(refund) == (none, none)

    assert _give(store, recipient=OTHER_WALLET)
    clock.advance(hours=1)
    assert _give(store)
    assert _give(store, tenant="other")

    everyone, own = store.spent(refund)
    assert everyone == Spent(2 * AMOUNT, 3 * AMOUNT, 2 * AMOUNT, 2 * GAS)
    assert own == Spent(AMOUNT, 2 * AMOUNT, AMOUNT, GAS)


# What signed documents let leave counts for the limits, as a refund does.

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


def test_processes_share_the_limit_of_documents(database_url: str) -> None:
    """Four processes that sign at once use the limit exactly (R27)."""
    assert sum(race(_race, database_url, 4)) == 20
