"""Spending limits per hour and day hold under concurrent reservations."""

from datetime import UTC, datetime, timedelta

import pytest

from backends.sql import SQLStore
from signer.errors import LimitReachedError, StaleStateError
from signer.model.refund import Status
from signer.model.spending_limits import Limits
from tests.fixtures.ledger import OTHER_WALLET, WALLET, accepted, reserved, stored
from tests.fixtures.races import race


NOON = datetime(2026, 1, 2, 12, 30, tzinfo=UTC)
AMOUNT = 12_500_000


def _give(store: SQLStore, limits: Limits, at: datetime, **changes: object) -> bool:
    """Return whether a new refund gets its nonce."""
    refund = accepted(store, created_at=at, **changes)
    try:
        reserved(store, refund, limits=limits, at=at)
    except LimitReachedError:
        assert stored(store, refund) == refund
        return False
    return True


def test_an_hour_has_a_limit(store: SQLStore) -> None:
    """A refund within the limit gets a nonce; the next one waits for the next hour."""
    limits = Limits(hourly=2 * AMOUNT)

    given = [_give(store, limits, NOON) for _ in range(3)]
    later = _give(store, limits, NOON + timedelta(hours=1))

    assert given == [True, True, False]
    assert later


def test_a_day_is_this_hour_and_the_previous_23(store: SQLStore) -> None:
    """The daily limit is a sliding window of whole hours."""
    limits = Limits(daily=AMOUNT)

    assert _give(store, limits, NOON)
    assert not _give(store, limits, NOON + timedelta(hours=23))
    assert _give(store, limits, NOON + timedelta(hours=24))


def test_a_recipient_has_a_limit_of_its_own(store: SQLStore) -> None:
    limits = Limits(daily_per_recipient=AMOUNT)

    assert _give(store, limits, NOON)
    assert not _give(store, limits, NOON + timedelta(hours=2))
    assert _give(store, limits, NOON, recipient=OTHER_WALLET)
    assert _give(store, limits, NOON + timedelta(hours=24))


def test_tokens_and_chains_have_separate_limits(store: SQLStore) -> None:
    limits = Limits(hourly=AMOUNT)

    assert _give(store, limits, NOON)
    assert _give(store, limits, NOON, token_address=WALLET)
    assert _give(store, limits, NOON, chain_id=7)
    assert not _give(store, limits, NOON)


def test_wallets_share_the_limit(store: SQLStore) -> None:
    """Two wallets of one chain share its limit (R27)."""
    limits = Limits(hourly=AMOUNT)
    first, second = accepted(store), accepted(store)

    reserved(store, first, limits=limits, at=NOON)
    with pytest.raises(LimitReachedError, match="hourly_limit"):
        reserved(store, second, limits=limits, at=NOON, sender=OTHER_WALLET)

    assert stored(store, second).status is Status.QUEUED


def test_amounts_of_a_fast_clock_count(store: SQLStore) -> None:
    """Amounts counted under a later hour, by a fast clock, count as well (R30)."""
    limits = Limits(hourly=AMOUNT, daily=AMOUNT)

    assert _give(store, limits, NOON + timedelta(hours=1))
    assert not _give(store, limits, NOON)


def test_amounts_are_exact(store: SQLStore) -> None:
    """Amounts with 18 decimals exceed 64 bits."""
    large = 10**30
    limits = Limits(daily=2 * large)

    assert _give(store, limits, NOON, amount=large + 1)
    assert not _give(store, limits, NOON, amount=large)
    assert _give(store, limits, NOON, amount=large - 1)


def test_a_failed_reservation_spends_nothing(store: SQLStore) -> None:
    limits = Limits(hourly=2 * AMOUNT)
    refund = accepted(store)
    reserved(store, refund, limits=limits, at=NOON)

    with pytest.raises(StaleStateError):
        reserved(store, refund, limits=limits, at=NOON)
    assert _give(store, limits, NOON)


def _take(store: SQLStore, index: int) -> int:
    """Reserve ten times, in one of several processes; return how many succeeded."""
    limits = Limits(daily=20 * AMOUNT)
    return sum(_give(store, limits, NOON) for _ in range(10))


def test_processes_share_the_limit(database_url: str) -> None:
    """Four concurrent processes use the limit exactly (R27)."""
    assert sum(race(_take, database_url, 4)) == 20
