"""Wrong, differing and changed clocks do not affect what is paid."""

from datetime import UTC, datetime, timedelta

import pytest

from signer.errors import StaleStateError, StoreUnavailableError
from signer.model.refund import Status
from signer.model.transaction import CLAIM_TIME
from signer.ports.clock import READ_EVERY_SECONDS, LedgerClock
from signer.refunds.saved_steps import REBROADCAST_AFTER
from tests.fixtures.ledger import claimed as claimed_from
from tests.support.refunds import ACTOR, AMOUNT, CUSTOMER, World


HOUR = timedelta(hours=1)


def test_a_clock_that_is_set_back_delays_nothing(world: World) -> None:
    """A refund that waits for a retry or a rebroadcast is due at once (R30)."""
    refund = world.broadcast()
    world.chain.forget()
    world.clock.now -= HOUR

    world.worker.work()

    assert len(world.chain.pool) == 1
    assert world.stored(refund).moving.due_at == world.clock() + REBROADCAST_AFTER


def test_workers_with_different_clocks_pay_once(world: World) -> None:
    """If a worker claims a refund too early, the step of another is stale (R30)."""
    refund = world.accepted()
    (claimed,) = claimed_from(world.store, world.clock(), world.clock() + CLAIM_TIME, 1)
    assert claimed.id == refund.id
    world.clock.now -= HOUR
    stolen = world.worker.work()
    world.clock.now += HOUR

    with pytest.raises(StaleStateError):
        world.step(claimed)

    assert stolen == 3
    assert world.stored(refund).status is Status.BROADCAST
    assert len(world.chain.broadcasts) == 1


@pytest.mark.parametrize("skew", [-HOUR, timedelta(seconds=-1), HOUR])
def test_an_accepted_refund_is_due_on_every_host(world: World, skew: timedelta) -> None:
    """A worker whose clock differs from that of the API finds it at once (R30)."""
    refund = world.accepted()
    world.clock.now += skew

    assert world.worker.advance() == 3
    assert world.stored(refund).status is Status.BROADCAST


@pytest.mark.parametrize("skew", [HOUR, -HOUR])
def test_a_request_to_cancel_of_a_host_with_another_clock(
    world: World, skew: timedelta
) -> None:
    """Its time is a fact for an operator, and no condition (R26, R30)."""
    refund = world.accepted()
    world.clock.now += skew
    asked = world.service.request_cancellation("gateway", refund.id, ACTOR)
    world.clock.now -= skew

    assert world.worker.advance() == 1
    cancelled = world.stored(asked)
    assert cancelled.status is Status.CANCELLED
    assert cancelled.cancel_requested_at == world.clock() + skew


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_a_broadcast_dated_in_the_future_is_replaced(
    world: World, step: timedelta
) -> None:
    """A transaction that was sent an hour from now counts as stuck (R15, R30)."""
    refund = world.broadcast()
    world.clock.now += step

    world.worker.work()

    assert len(world.store.transactions(refund.id)) == 2
    assert world.stored(refund).status is Status.BROADCAST


def test_clocks_that_jump_pay_once(world: World) -> None:
    """The clock jumps before every pass; three refunds are paid in order (R30)."""
    refunds = [world.accepted() for _ in range(3)]

    for hours in (1, -2, 3, -1, 0, -1, 1, 1, -2, 2, -1, -1):
        world.work(after=hours * HOUR)
        world.chain.mine()
        world.chain.mine_empty(1)

    assert [world.stored(refund).status for refund in refunds] == [Status.CONFIRMED] * 3
    assert [world.stored(refund).nonce for refund in refunds] == [0, 1, 2]
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 3
    for refund in refunds:
        versions = [move.version for move in world.store.history(refund.id)]
        assert versions == sorted(versions)


NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


class Host:
    """A host's monotonic timer, and a ledger that may not answer."""

    def __init__(self) -> None:
        self.seconds = 7000.0
        self.ledger = NOON
        self.answers = True
        self.reads = 0
        self.clock = LedgerClock(self._read, lambda: self.seconds)

    def sleep(self, seconds: float, ledger_seconds: float | None = None) -> None:
        """Let time pass here, and another time at the ledger."""
        self.seconds += seconds
        passed = seconds if ledger_seconds is None else ledger_seconds
        self.ledger += timedelta(seconds=passed)

    def _read(self) -> datetime:
        self.reads += 1
        if not self.answers:
            raise StoreUnavailableError("the ledger does not answer")
        return self.ledger


@pytest.fixture
def host() -> Host:
    """Return a host that was started long ago."""
    return Host()


def test_the_time_is_the_ledgers(host: Host) -> None:
    """It goes on between two reads, which are a minute apart."""
    times = []
    for _ in range(4):
        times.append(host.clock())
        host.sleep(READ_EVERY_SECONDS / 2)

    assert times == [NOON + timedelta(seconds=30 * n) for n in range(4)]
    assert host.reads == 2


def test_a_difference_is_corrected_within_a_minute(host: Host) -> None:
    """The ledger's clock may be set, or run faster."""
    host.clock()
    host.sleep(READ_EVERY_SECONDS - 1, ledger_seconds=3600)
    before = host.clock()
    host.sleep(1)

    assert before == NOON + timedelta(seconds=59)
    assert host.clock() == host.ledger


def test_the_last_read_counts_while_the_ledger_does_not_answer(host: Host) -> None:
    """A ledger that does not answer is not asked for every time."""
    host.clock()
    host.answers = False
    host.sleep(READ_EVERY_SECONDS)

    assert [host.clock() for _ in range(9)] == [host.ledger] * 9
    assert host.reads == 2


def test_without_any_read_there_is_no_time(host: Host) -> None:
    """The next call asks again."""
    host.answers = False
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            host.clock()
    host.answers = True

    assert host.clock() == NOON
