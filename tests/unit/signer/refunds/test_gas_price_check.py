"""Fees far above those that the wallet recently paid: refunds wait, and alert."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from signer.errors import FeesAboveRecentError
from signer.model.refund import Refund, Status
from signer.model.transaction import Kind
from signer.ports.chain import Fees
from signer.refunds.gas_price_check import FEWEST, RECENT, SAMPLE
from tests.support.refunds import AMOUNT, CUSTOMER, World


GWEI = 10**9
NORMAL = Fees(GWEI, GWEI // 10)
HIGH = Fees(11 * GWEI, GWEI // 10)
"""A max fee of 22.1 gwei, and the median of NORMAL is 2.1 gwei."""


@pytest.fixture
def seasoned(world: World) -> World:
    """A wallet that has paid just enough refunds for a median."""
    for _ in range(FEWEST):
        world.paid()
    return world


def _alerts(logs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [entry for entry in logs if entry["event"] == "alert"]


def _wait(world: World, minutes: int) -> None:
    for _ in range(2 * minutes):
        world.work(after=RECENT / 2880)


@pytest.mark.parametrize("has_nonce", [False, True])
def test_a_refund_waits_for_normal_fees(seasoned: World, has_nonce: bool) -> None:
    """It has a code, signs nothing, and continues by itself."""
    refund = seasoned.accepted()
    if has_nonce:
        seasoned.step(refund)
    seasoned.chain.answers = HIGH

    _wait(seasoned, minutes=5)

    status = Status.RESERVED if has_nonce else Status.QUEUED
    assert seasoned.blocked(refund) == (status, "fees-above-recent")
    assert seasoned.store.transactions(refund.id) == ()
    seasoned.chain.answers = NORMAL
    (confirmed,) = seasoned.finish(refund)
    assert confirmed.status is Status.CONFIRMED
    assert seasoned.chain.payouts() == [(CUSTOMER, AMOUNT)] * (FEWEST + 1)


@pytest.mark.parametrize(("base_fee", "waits"), [(10_450_000_000, False), (HIGH, True)])
def test_the_limit_is_a_multiple_of_the_median(
    seasoned: World, base_fee: int | Fees, waits: bool
) -> None:
    """Ten times the median is still normal."""
    fees = base_fee if isinstance(base_fee, Fees) else Fees(base_fee, GWEI // 10)
    reserved = seasoned.step(seasoned.accepted())
    seasoned.chain.answers = fees

    if waits:
        with pytest.raises(FeesAboveRecentError, match=r"22\.1 gwei .* recent 2\.1"):
            seasoned.step(reserved)
    else:
        signed = seasoned.step(reserved)
        assert seasoned.sent(signed).max_fee_per_gas == 21 * GWEI


def test_the_factor_is_configurable(seasoned: World) -> None:
    """With 0, only the cap bounds a fee."""
    seasoned.network = seasoned.network.model_copy(update={"max_fee_factor": 0})
    seasoned.chain.answers = Fees(200 * GWEI, GWEI)

    assert seasoned.broadcast().status is Status.BROADCAST


@pytest.mark.parametrize("paid", [0, FEWEST - 1])
def test_a_new_wallet_has_no_median(world: World, paid: int) -> None:
    """A few transfers are no basis."""
    for _ in range(paid):
        world.paid()
    world.chain.answers = Fees(200 * GWEI, GWEI)

    assert world.broadcast().status is Status.BROADCAST


def test_a_market_that_stays_higher_is_accepted_after_a_day(seasoned: World) -> None:
    """Old transfers do not count, so that no refund waits without end."""
    waiting = seasoned.step(seasoned.accepted())
    seasoned.chain.answers = HIGH
    with pytest.raises(FeesAboveRecentError):
        seasoned.step(waiting)

    seasoned.clock.now += RECENT
    seasoned.work()

    assert seasoned.stored(waiting).status is Status.BROADCAST


def test_the_last_transfers_count(seasoned: World) -> None:
    """The median follows the market."""
    for base_fee in (4 * GWEI, 16 * GWEI):
        seasoned.chain.answers = Fees(base_fee, GWEI // 10)
        seasoned.clock.advance(minutes=1)
        for _ in range(SAMPLE):
            seasoned.paid()
    seasoned.clock.advance(minutes=1)

    seasoned.chain.answers = Fees(64 * GWEI, GWEI // 10)

    assert seasoned.broadcast().status is Status.BROADCAST


def test_one_alert_per_episode(seasoned: World) -> None:
    """It is sounded once while fees are high, and again in the next episode."""
    lifecycle = seasoned.lifecycle
    reserved = [seasoned.step(seasoned.accepted()) for _ in range(3)]

    with capture_logs() as logs:
        for fees in (HIGH, NORMAL, HIGH):
            seasoned.chain.answers = fees
            seasoned.clock.advance(seconds=2)  # Fees are read again.
            for refund in reserved[:2]:
                if fees is HIGH:
                    with pytest.raises(FeesAboveRecentError):
                        lifecycle.step(refund)
            if fees is NORMAL:
                lifecycle.step(reserved[2])

    assert [entry["alert"] for entry in _alerts(logs)] == ["fees-above-recent"] * 2
    first = _alerts(logs)[0]
    assert {name: first[name] for name in ("network", "factor")} == {
        "network": "local",
        "factor": 10,
    }
    assert (first["max_fee_gwei"], first["median_gwei"]) == ("22.1", "2.1")


def test_no_refund_of_a_batch_takes_a_nonce(seasoned: World) -> None:
    """They may still be cancelled; the fees are read once for all of them."""
    lifecycle = seasoned.lifecycle
    refunds = [seasoned.accepted() for _ in range(3)]
    seasoned.chain.answers = HIGH
    seasoned.chain.calls.clear()

    outcomes = lifecycle.step_all(refunds)

    assert [type(each) for each in outcomes] == [FeesAboveRecentError] * 3
    assert seasoned.statuses(refunds) == [Status.QUEUED] * 3
    assert seasoned.chain.calls["fees"] == 1
    seasoned.chain.answers = NORMAL
    lifecycle.step_all(refunds)
    assert seasoned.statuses(refunds) == [Status.RESERVED] * 3


def test_a_stuck_transaction_is_not_raised_to_high_fees(seasoned: World) -> None:
    """The same bytes are sent again."""
    refund = seasoned.broadcast()
    seasoned.chain.answers = HIGH
    seasoned.clock.advance(seconds=seasoned.network.stuck_after_seconds)

    after = seasoned.step(refund)

    assert after.status is Status.BROADCAST
    assert len(seasoned.store.transactions(refund.id)) == 1
    assert seasoned.chain.broadcasts[-1] == seasoned.sent(refund).raw


def test_a_noop_does_not_wait(seasoned: World) -> None:
    """It frees the nonce of a refund that must not be paid."""
    reserved = seasoned.step(seasoned.accepted())
    seasoned.clock.advance(seconds=60)
    seasoned.chain.revert = "blocked"
    seasoned.chain.answers = HIGH

    signed: Refund = seasoned.step(reserved)

    assert seasoned.sent(signed).kind is Kind.NOOP
