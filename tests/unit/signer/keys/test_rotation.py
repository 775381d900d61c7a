"""A rotation step by step: if a step fails, the old key keeps signing."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import structlog

from api.http.problems import problem_of
from backends.sql import SQLStore
from signer.alerts import Alerts
from signer.errors import (
    ConflictError,
    KeyUnusableError,
    NewKeyUnhealthyError,
    RotationInProgressError,
    SelfTestPendingError,
    StoreUnavailableError,
)
from signer.keys.key_proofs import CandidateTester
from signer.keys.rotation import KeyRetirement, RotationOptions
from signer.keys.signer import SignerFactory
from signer.model.hold import EVERYTHING
from signer.model.key import Key, KeyState
from tests.fixtures.ledger import stopped
from tests.support.devices import recording
from tests.support.keys import key_at, made_active
from tests.support.ledgers import seal
from tests.support.refunds import SECOND, FakeClock, World, altered
from tests.support.ring import ALICE, ELSEWHERE, NEW, OLD, OTHER, POOR, RICH, System
from tests.support.waiting import eventually
from tests.unit.signer.keys.conftest import Hang


DRY_RUN = RotationOptions(dry_run=True)


def test_rotation_activates_the_new_key(system: System) -> None:
    """The new key is self-tested and active; the result names the replaced key."""
    rotated = system.rotation().rotate(NEW, ALICE)
    active = system.store.active_key()

    assert (rotated.status, rotated.key, rotated.previous) == (
        "rotated",
        active,
        system.old,
    )
    assert rotated.key.address == system.address(NEW)
    assert (rotated.key.epoch, rotated.key.requested_by) == (2, "alice")
    assert rotated.holdings == (RICH,)
    assert "address has changed" in rotated.warnings[0]
    assert system.states == {NEW: "active", OLD: "draining"}
    assert system.directory.devices[NEW].calls == 1
    assert system.alerts == []


def test_keys_are_replaced_while_everything_is_stopped(system: System) -> None:
    """A stop must not protect a stolen key: rotate, revoke and fail over (R27)."""
    stopped(system.store, EVERYTHING)
    options = RotationOptions(compromised=True, active_address=system.address(OLD))
    rotated = system.rotation().rotate(NEW, ALICE, options)
    system.replicate(NEW, ELSEWHERE)
    system.failover().fail_over(ELSEWHERE, ALICE)

    assert rotated.status == "rotated"
    assert system.states == {ELSEWHERE: "active", OLD: "blocked"}


def test_each_audit_record_is_logged_once(system: System) -> None:
    """Rotation, failover and revocation write each of their records to the log once."""
    system.rotation().rotate(NEW, ALICE)
    system.revocation().revoke(system.address(OLD), ALICE)
    system.replicate(NEW, ELSEWHERE)
    system.failover().fail_over(ELSEWHERE, ALICE)
    heard = [entry["event"] for entry in system.log.entries]

    assert sorted(heard) == [event for event, _ in system.outcomes]
    assert {
        "key-rotate-succeeded",
        "key-revoke-succeeded",
        "key-failover-succeeded",
    } <= set(heard)


def test_rotation_to_the_only_key_changes_nothing(system: System) -> None:
    """A rotation to the active key changes nothing and reports no previous key."""
    rotated = system.rotation().rotate(OLD, ALICE)

    assert (rotated.key, rotated.previous) == (system.old, None)
    assert system.store.active_key() == system.old


def test_dry_run_changes_nothing(system: System) -> None:
    """A dry run self-tests the new key and is audited; the ring is unchanged."""
    rotated = system.rotation().rotate(NEW, ALICE, DRY_RUN)

    assert rotated.status == "would-rotate"
    assert (rotated.key.address, rotated.previous) == (system.address(NEW), system.old)
    assert rotated.holdings == (RICH,)
    assert list(system.store.keys()) == [system.old]
    assert ("digest-sign-succeeded", "success") in system.outcomes
    intent = next(e for e in system.records if e["event"] == "key-rotate-requested")
    assert intent["details"]["rehearsal"] is True


def test_device_that_swaps_the_key_is_refused(system: System) -> None:
    """The device must still have the public key that was found before."""
    pending = system.begin_rotation(NEW)
    system.store.wait_for(pending, "awaiting-funds", system.clock())
    begin = system.store.begin_rotation

    def begin_and_swap(*given: Any) -> Key:
        pending = begin(*given)
        system.directory.devices[NEW].becomes(system.directory.devices[OTHER])
        return pending

    rotation = system.rotation(altered(system.store, begin_rotation=begin_and_swap))
    with pytest.raises(NewKeyUnhealthyError) as raised:
        rotation.rotate(NEW, ALICE)

    assert raised.value.reason == "key-unusable"
    assert system.store.active_key() == system.old


def test_alias_is_resolved_once(system: System) -> None:
    """O7: moving the alias after the rotation does not move the wallet."""
    system.directory.aliases["alias/wallet"] = NEW
    rotated = system.rotation().rotate("alias/wallet", ALICE)
    system.directory.aliases["alias/wallet"] = OTHER

    assert rotated.key.key_id == NEW
    assert system.store.active_key() == rotated.key


def test_new_key_waits_for_funds(system: System) -> None:
    """O3, O6: with `needs_funds`, until a call finds them; else it is a warning."""
    system.holdings = (POOR,)
    waiting = system.rotation(needs_funds=True).rotate(NEW, ALICE)
    meanwhile = (system.store.active_key(), system.states[NEW])
    system.holdings = (RICH,)
    rotated = system.rotation(needs_funds=True).rotate(NEW, ALICE)

    assert (waiting.status, waiting.key.blocked_by) == ("awaiting-funds",) * 2
    assert len(waiting.warnings) == 3
    assert meanwhile == (system.old, "pending")
    assert (rotated.status, rotated.key.blocked_by) == ("rotated", None)
    assert ("key-fund-requested", "success") in system.outcomes
    system.holdings = (POOR,)
    back = system.rotation().rotate(OLD, ALICE)  # O6: the former key, the next epoch.
    assert (back.status, back.key.epoch, len(back.warnings)) == ("rotated", 3, 3)


def test_concurrent_rotations_have_one_winner(system: System) -> None:
    """O2: of two rotations in one process, one succeeds and the other is refused."""
    refused = threading.Event()

    def last(*given: Any, **how: Any) -> Key:
        assert refused.wait(60)  # Until then, the other one has not begun.
        return system.store.activate(*given, **how)

    rotation = system.rotation(altered(system.store, activate=last))

    def rotate(name: str) -> str:
        try:
            return rotation.rotate(name, ALICE).status
        except RotationInProgressError as e:
            refused.set()
            return e.code

    with ThreadPoolExecutor(2) as threads:
        answers = sorted(threads.map(rotate, (NEW, OTHER)))

    assert answers == ["rotated", "rotation-in-progress"]
    assert sorted(system.states.values()) == ["active", "draining"]
    assert system.alerts == []


@pytest.mark.parametrize("step", ["activate", "wait_for"])
def test_rotation_that_outlives_its_hold_is_refused(system: System, step: str) -> None:
    """O2: a rotation whose hold has expired does not overwrite a resumed one."""
    if step == "wait_for":
        system.holdings = (POOR,)

    def slow(*given: Any, **how: Any) -> Key:
        system.clock.advance(seconds=21)
        system.begin_rotation(NEW)
        changed: Key = getattr(system.store, step)(*given, **how)
        return changed

    rotation = system.rotation(altered(system.store, **{step: slow}), needs_funds=True)
    with pytest.raises(RotationInProgressError, match="another process"):
        rotation.rotate(NEW, ALICE)

    assert system.states == {OLD: "active", NEW: "pending"}
    assert ("key-rotate-refused", "rotation-in-progress") in system.outcomes


STEPS = ("keys", "begin_rotation", "wait_for", "activate")


@pytest.mark.parametrize("step", STEPS)
def test_rotation_resumes_after_a_crash(system: System, step: str) -> None:
    """O1: after a crash at any step, a repeated call continues."""

    class DeadError(BaseException):
        """The process is gone: nothing that follows is done."""

    def die(*_: object, **__: object) -> None:
        raise DeadError

    if step == "wait_for":
        system.holdings = (POOR,)
    dying = altered(system.store, **{step: die})
    with pytest.raises(DeadError):
        system.rotation(dying, needs_funds=True).rotate(NEW, ALICE)
    left = system.store.active_key()
    system.holdings = (RICH,)
    system.clock.advance(seconds=20)
    rotated = system.rotation().rotate(NEW, ALICE)

    assert left == system.old
    assert rotated.status == "rotated"
    assert system.states == {NEW: "active", OLD: "draining"}


@pytest.mark.parametrize("step", ["keys", "begin_rotation", "activate"])
def test_unavailable_ledger_leaves_the_old_key_active(
    system: System, step: str
) -> None:
    """O1: the old key keeps signing; the error is raised and audited."""
    failing = altered(system.store, **{step: StoreUnavailableError("gone")})
    with pytest.raises(StoreUnavailableError):
        system.rotation(failing).rotate(NEW, ALICE)

    assert system.store.active_key() == system.old
    assert ("key-rotate-refused", "store-unavailable") in system.outcomes


def test_alert_is_raised_if_the_refusal_cannot_be_stored(system: System) -> None:
    """The caller gets the first error, even if the ledger fails afterwards."""
    system.directory.failure = KeyUnusableError("DisabledException")
    failing = altered(system.store, reject=StoreUnavailableError("gone"))
    with pytest.raises(NewKeyUnhealthyError) as raised:
        system.rotation(failing).rotate(NEW, ALICE)

    assert raised.value.reason == "key-unusable"
    assert [alert["alert"] for alert in system.alerts] == ["rotation-refused"]
    assert system.store.active_key() == system.old


def test_hanging_key_does_not_block_another(system: System, hang: Hang) -> None:
    """A fifth self-test of a hanging key is refused; another key can be used."""
    hang.limit = 0
    device = system.directory.devices[NEW]
    device._answer = hang
    system.directory.aliases["alias/wallet"] = NEW
    rotation = system.rotation()

    def dry_run(_: int) -> str:
        with pytest.raises(NewKeyUnhealthyError) as raised:
            rotation.rotate(NEW, ALICE, DRY_RUN)
        return raised.value.reason

    with ThreadPoolExecutor(4) as threads:
        dry_runs = threads.map(dry_run, range(4))
        hanging = eventually(lambda: device.calls == 4, 60)
        refused = []
        for name in (NEW, "alias/wallet"):
            with pytest.raises(SelfTestPendingError) as raised:
                rotation.rotate(name, ALICE)
            refused.append(problem_of(raised.value))
        pending, other = system.states[NEW], rotation.rotate(OTHER, ALICE)
        hang.expired.set()
        reasons = list(dry_runs)

    assert hanging
    assert reasons == ["backend-unavailable"] * 4
    assert {(p.status, p.headers["Retry-After"]) for p in refused} == {(503, "5")}
    assert "Try again" in (refused[0].detail or "")
    assert (pending, other.status) == ("rejected", "rotated")
    assert ("key-rotate-refused", "proofs-pending") in system.outcomes
    assert system.alerts == []


def test_hanging_threads_are_bounded_over_all_names(system: System, hang: Hang) -> None:
    """However many names callers use, at most twenty threads hang in devices."""
    hang.limit = 20
    hanging = altered(system.directory, resolve=hang)
    tester = CandidateTester(
        SignerFactory(hanging, system.audit), Alerts(), system.clock
    )

    def find(n: int) -> str:
        try:
            return tester.find(f"name-{n}", ALICE).address
        except (NewKeyUnhealthyError, SelfTestPendingError) as e:
            return e.code

    with ThreadPoolExecutor(25) as threads:
        answers = list(threads.map(find, range(25)))

    assert answers.count("new-key-unhealthy") == 20
    assert answers.count("proofs-pending") == 5


def test_rotation_to_a_replica_is_refused(system: System) -> None:
    """K18: a replica of the active key is refused with a hint at failover."""
    replica = system.replicate(OLD, ELSEWHERE)
    with pytest.raises(ConflictError, match="keys failover"):
        system.rotation().rotate(replica, ALICE)

    assert list(system.store.keys()) == [system.old]
    assert system.directory.devices[replica].calls == 0


ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef"


@pytest.fixture
def world(sqlite_store: SQLStore) -> World:
    """A service with an open refund of a draining key."""
    world = World(sqlite_store)
    world.broadcast()
    made_active(sqlite_store, key_at(SECOND.address, key_id=f"{ARN}99"))
    return world


def _states(world: World) -> list[str]:
    ring = world.store.keys()
    return [str(key.state) for key in ring]


def test_key_retires_after_its_last_refund(world: World) -> None:
    """O4: the worker completes the old key's refunds, and then retires the key."""
    world.work()
    waiting = _states(world)
    world.mine_deep()
    for _ in range(20):
        world.work()

    assert waiting == ["active", "draining"]
    assert _states(world) == ["active", "retired"]


def test_retirement_is_audited_once(world: World) -> None:
    """The record names key, address and epoch, and contains no whole key id."""
    _finish(world)
    audit, events = recording(journal=world.store)
    retirement = KeyRetirement(world.store, audit, FakeClock())
    for _ in range(2):
        retirement.retire([key.address for key in world.ring.cached_keys()])
    seal(world.store)
    last = world.store.sealed(0, 1000)[-1].record.fields
    retired = world.store.keys()[-1]

    assert [event["event"] for event in events] == ["key-retire-succeeded"]
    assert (last["event"], last["operation"]) == (
        "key-retire-succeeded",
        "key-rotation",
    )
    assert (last["actor"], last["outcome"]) == ("worker", "success")
    assert last["details"] == {
        "key_id": "1234abcd...",
        "address": retired.address,
        "epoch": 1,
    }


def test_unavailable_ledger_does_not_stop_the_worker(world: World) -> None:
    """The failure is logged, and the worker continues."""
    _finish(world)
    retirement = KeyRetirement(
        altered(world.store, retire=StoreUnavailableError("gone")),
        recording()[0],
        world.clock,
    )
    with structlog.testing.capture_logs() as events:
        retirement.retire([key.address for key in world.ring.cached_keys()])

    assert [(event["event"], event["code"]) for event in events] == [
        ("key-retirement-failed", "store-unavailable")
    ]
    assert world.store.keys()[-1].state is KeyState.DRAINING


def _finish(world: World) -> None:
    """Complete the refund without retiring its key."""
    world.mine_deep()
    for _ in range(3):
        world.confirmation_tracker.track()
