"""Proofs that the active key signs, for the processes that have no key."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from structlog.testing import capture_logs

from backends.sql import SQLStore
from signer.errors import (
    BackendUnavailableError,
    HotWalletError,
    KeyUnusableError,
    StoreUnavailableError,
)
from signer.keys.key_proofs import (
    PROVE_EVERY_SECONDS,
    KeyProof,
)
from tests.support.keys import key_at, made_active
from tests.support.refunds import SECOND, World, altered


@pytest.fixture
def world(sqlite_store: SQLStore) -> World:
    """A worker whose key is active."""
    return World(sqlite_store)


def _proof(world: World, check: Callable[[], object] = lambda: None) -> KeyProof:
    """Return the proof of a worker that starts now."""
    return KeyProof(
        world.store, world.ring, check, world.clock, lambda: world.clock().timestamp()
    )


def _proved_at(world: World) -> datetime | None:
    return world.key.proved_at


def _fail(errors: list[HotWalletError]) -> Callable[[], None]:
    """Return a check that fails with each of *errors* in turn, and then succeeds."""

    def check() -> None:
        if errors:
            raise errors.pop(0)

    return check


def test_a_key_is_proved_every_ten_seconds(world: World) -> None:
    """A worker calls it before each claim; a check costs the device a signature."""
    checks: list[float] = []
    begun = world.clock()
    before = world.ring.active().key
    proof = _proof(
        world, lambda: checks.append((world.clock() - begun).total_seconds())
    )

    for _ in range(60):
        proof()
        world.clock.advance(seconds=0.5)

    assert checks == [0, PROVE_EVERY_SECONDS, 2 * PROVE_EVERY_SECONDS]
    proved_at = _proved_at(world)
    assert proved_at is not None
    assert (proved_at - begun).total_seconds() == checks[-1]
    assert world.key == before  # Nothing else of the row changes.
    assert world.key.version == before.version


@pytest.mark.parametrize(
    "error", [BackendUnavailableError("u:p@host"), KeyUnusableError("u:p@host")]
)
def test_a_key_that_does_not_sign_is_not_proved(
    world: World, error: HotWalletError
) -> None:
    """The error is logged by its code, and the next check is ten seconds later."""
    proof = _proof(world, _fail([error, error]))

    with capture_logs() as logs:
        for _ in range(2):
            proof()
            proof()
            assert _proved_at(world) is None
            world.clock.advance(seconds=PROVE_EVERY_SECONDS)
        proof()

    assert (
        logs
        == [{"event": "key-not-proved", "log_level": "warning", "code": error.code}] * 2
    )
    assert _proved_at(world) == world.clock()


@pytest.mark.parametrize("method", ["prove", "active"])
def test_a_failing_ledger_does_not_stop_the_worker(world: World, method: str) -> None:
    """The proof is tried again ten seconds later."""
    gone = StoreUnavailableError("gone")
    proof = _proof(world)
    if method == "prove":
        proof.store = altered(world.store, prove=gone)
    else:
        proof.ring = altered(world.ring, active=gone)

    with capture_logs() as logs:
        proof()

    assert [entry["code"] for entry in logs] == ["store-unavailable"]
    assert _proved_at(world) is None


def test_the_key_that_is_active_now_is_proved(world: World) -> None:
    """A former key keeps its last proof, which nothing reads (O4)."""
    proof = _proof(world)
    proof()
    begun = world.clock()
    made_active(world.store, key_at(SECOND.address))
    world.clock.advance(seconds=PROVE_EVERY_SECONDS)
    proof.ring.refresh()

    proof()

    active, former = world.store.keys()
    assert (active.address, active.proved_at) == (SECOND.address, world.clock())
    assert (former.address, former.proved_at) == (world.signer.address, begun)


@pytest.mark.parametrize("errors", [[], [BackendUnavailableError("gone")]])
def test_a_new_active_key_is_proved_at_once(
    world: World, errors: list[HotWalletError]
) -> None:
    """Until then, the processes that accept refunds are not ready (O4)."""
    failing: list[HotWalletError] = []
    proof = _proof(world, _fail(failing))
    proof()
    made_active(world.store, key_at(SECOND.address))
    failing.extend(errors)

    for _ in range(5):
        world.clock.advance(seconds=1)
        proof()

    expected = None if errors else world.clock() - timedelta(seconds=4)
    active = world.store.active_key()
    assert active is not None
    assert (active.address, active.proved_at) == (SECOND.address, expected)


def test_an_unreadable_ring_is_no_new_key(world: World) -> None:
    """The proof itself, when it is due, reports the error."""
    proof = _proof(world)
    proof()
    begun = world.clock()
    proof.store = altered(world.store, active_key=StoreUnavailableError("gone"))
    world.clock.advance(seconds=1)

    with capture_logs() as logs:
        proof()

    assert logs == []
    assert _proved_at(world) == begun


def test_a_worker_proves_its_key_when_it_is_idle(world: World) -> None:
    """Also a worker without refunds keeps the other processes ready."""
    worker = world.worker

    assert worker.work() == 0

    assert _proved_at(world) == world.clock()
