"""K18: a failover changes a key's id only after a self-test under the new id."""

import secrets
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
import structlog

from backends.sql import SQLStore
from signer.audit.log import AuditAction, AuditLog
from signer.errors import (
    AccessDeniedError,
    BackendError,
    ConflictError,
    HotWalletError,
    InvalidInputError,
    KeyNotFoundError,
    KeyUnusableError,
    NewKeyUnhealthyError,
    NotFoundError,
    RotationInProgressError,
    StoreUnavailableError,
)
from signer.model.key import Key, KeyState, is_same_key
from tests.support.keys import key_at, made_active
from tests.support.refunds import altered
from tests.support.ring import ALICE, ELSEWHERE, NEW, OLD, OTHER, System


KEY = "mrk-1234abcd12ab34cd56ef1234567890ab"
HERE = f"arn:aws:kms:eu-central-1:111122223333:key/{KEY}"
THERE = HERE.replace("eu-central-1", "eu-west-1")


@pytest.fixture
def system(sqlite_store: SQLStore) -> System:
    """A system whose active key has a replica."""
    system = System(sqlite_store)
    system.replicate(OLD, ELSEWHERE)
    return system


def test_failover_changes_only_the_key_id(system: System) -> None:
    """The replica is self-tested; address, state and epoch stay as they are."""
    result = system.failover().fail_over(ELSEWHERE, ALICE)

    assert result.status == "relocated"
    assert result.previous == system.old
    assert result.key == replace(
        system.old, key_id=ELSEWHERE, version=1, updated_at=system.clock()
    )
    assert list(system.store.keys()) == [result.key]
    assert "old key id" in result.warnings[0]
    assert system.directory.devices[ELSEWHERE].calls == 1
    assert system.directory.devices[OLD].calls == 0
    assert system.told == []


def test_failover_is_audited(system: System) -> None:
    """The records name actor, token and keys, but contain no whole key ids."""
    system.failover().fail_over(ELSEWHERE, ALICE)
    records = system.records
    (done,) = (each for each in records if each["event"] == "key-failover-succeeded")

    assert system.outcomes == [
        ("digest-sign-requested", None),
        ("digest-sign-succeeded", "success"),
        ("key-failover-requested", "success"),
        ("key-failover-succeeded", "success"),
    ]
    assert {each["operation"] for each in records} == {"key-relocation"}
    assert {(each["actor"], each["token_id"]) for each in records} == {
        ("alice", "token-1")
    }
    assert done["details"] == {
        "key": "44444444...",
        "key_address": system.old.address,
        "previous_key": "11111111...",
        "state": "active",
    }
    assert ELSEWHERE not in str(records)
    assert OLD not in str(records)


def test_repeated_failover_returns_the_result_again(system: System) -> None:
    """A caller that missed the response can repeat the call; nothing is changed."""
    first = system.failover().fail_over(ELSEWHERE, ALICE)
    again = system.failover().fail_over(ELSEWHERE, ALICE)

    assert (again.status, again.key, again.previous) == (
        "relocated",
        first.key,
        first.key,
    )
    assert "already" in again.warnings[0]
    assert system.directory.devices[ELSEWHERE].calls == 1


def test_failover_back(system: System) -> None:
    """A key can fail over back to its first id, after a self-test there."""
    system.failover().fail_over(ELSEWHERE, ALICE)
    back = system.failover().fail_over(OLD, ALICE)

    assert (back.key.key_id, back.key.version) == (OLD, 2)
    assert system.directory.devices[OLD].calls == 1


def test_dry_run_changes_nothing(system: System) -> None:
    """A dry run self-tests the replica, and the ring is unchanged."""
    result = system.failover().fail_over(ELSEWHERE, ALICE, dry_run=True)

    assert result.status == "would-relocate"
    assert (result.key.key_id, result.previous) == (ELSEWHERE, system.old)
    assert list(system.store.keys()) == [system.old]
    assert system.directory.devices[ELSEWHERE].calls == 1
    assert "key-failover-succeeded" not in {event for event, _ in system.outcomes}


def test_dry_run_of_the_current_id(system: System) -> None:
    """A dry run with the current key id self-tests it, and can be refused."""
    dry_run = system.failover().fail_over(OLD, ALICE, dry_run=True)
    self_tests = system.directory.devices[OLD].calls
    system.directory.failure = KeyUnusableError("DisabledException")
    with pytest.raises(NewKeyUnhealthyError):
        system.failover().fail_over(OLD, ALICE, dry_run=True)

    assert (dry_run.status, dry_run.key) == ("would-relocate", system.old)
    assert "already" in dry_run.warnings[0]
    assert self_tests == 1
    assert list(system.store.keys()) == [system.old]
    assert [alert["alert"] for alert in system.told] == ["rotation-refused"]


def test_draining_and_retired_keys_fail_over(system: System) -> None:
    """A key that may still sign can fail over, and keeps its state."""
    made_active(system.store, key_at(system.address(NEW), key_id=NEW))
    draining = system.failover().fail_over(ELSEWHERE, ALICE)
    retire = system.store.retire
    ((retired, _),) = retire([system.old.address], system.clock(), _drafted(system))
    again = system.failover().fail_over(OLD, ALICE)

    assert draining.key.state is KeyState.DRAINING
    assert (again.key.state, again.key.key_id) == (KeyState.RETIRED, OLD)
    assert again.previous == retired


def _drafted(system: System) -> Any:
    def draft(key: Key) -> Any:
        return system.audit.result(AuditAction.KEY_RETIRE, "key-rotation", ALICE)  # type: ignore[arg-type]

    return draft


def test_waiting_key_fails_over(system: System) -> None:
    """A pending key without a hold can fail over, and keeps waiting for funds."""
    pending = system.store.begin_rotation(
        key_at(system.address(NEW), key_id=NEW), system.clock()
    )
    system.store.wait_for(pending, "awaiting-funds", system.clock())
    system.replicate(NEW, "replica-of-the-new")
    result = system.failover().fail_over("replica-of-the-new", ALICE)

    assert result.key.state is KeyState.PENDING
    assert result.key.blocked_by == "awaiting-funds"


@pytest.mark.parametrize("end", ["rejected", "blocked"])
def test_key_that_may_not_sign_does_not_fail_over(system: System, end: str) -> None:
    """409: a rejected or blocked key does not return under another id."""
    new = key_at(system.address(NEW), key_id=NEW)
    if end == "blocked":
        made_active(system.store, new, block=True)
        there = ELSEWHERE
    else:
        pending = system.store.begin_rotation(new, system.clock())
        system.store.reject(pending, "key-unusable", system.clock())
        there = system.replicate(NEW, "replica-of-the-new")
    before = list(system.store.keys())
    with pytest.raises(ConflictError, match=end):
        system.failover().fail_over(there, ALICE)

    assert list(system.store.keys()) == before
    assert ("key-failover-refused", "conflict") in system.outcomes


def test_key_outside_the_ring_is_not_found(system: System) -> None:
    """404: another address is another key; the message says to rotate instead."""
    with pytest.raises(NotFoundError, match="use rotate"):
        system.failover().fail_over(OTHER, ALICE)

    assert list(system.store.keys()) == [system.old]
    assert ("key-failover-refused", "not-found") in system.outcomes
    assert system.told == []


def test_key_of_another_backend_is_a_conflict(system: System) -> None:
    """409: a failover cannot move a key to another backend."""
    elsewhere = replace(system.old, backend="pkcs11")
    ledger = altered(system.store, keys=lambda: (elsewhere,))
    with pytest.raises(ConflictError, match="the configuration opens"):
        system.failover(ledger).fail_over(ELSEWHERE, ALICE)


def test_malformed_name_is_the_callers_mistake(system: System) -> None:
    """A malformed key name is refused and audited, and raises no alert."""
    with pytest.raises(InvalidInputError):
        system.failover().fail_over(" ", ALICE)

    assert ("key-failover-refused", "invalid-input") in system.outcomes
    assert system.told == []


def test_rotation_in_progress_is_a_conflict(system: System) -> None:
    """409 while a rotation holds the pending key."""
    system.store.begin_rotation(key_at(system.address(NEW), key_id=NEW), system.clock())
    with pytest.raises(RotationInProgressError):
        system.failover().fail_over(ELSEWHERE, ALICE)

    assert system.store.active_key() == system.old


def test_concurrent_failovers_have_one_winner(system: System) -> None:
    """409 if another failover commits during the self-test."""
    third = system.replicate(OLD, "a-third-place")
    relocate = system.store.relocate

    def overtaken(*given: Any) -> Key:
        system.failover().fail_over(third, ALICE)
        return relocate(*given)

    slow = system.failover(altered(system.store, relocate=overtaken))
    with pytest.raises(RotationInProgressError, match="another process"):
        slow.fail_over(ELSEWHERE, ALICE)

    active = system.store.active_key()
    assert active is not None
    assert active.key_id == third


FAILURES: dict[str, tuple[HotWalletError, str]] = {
    "denied": (AccessDeniedError("AccessDeniedException"), "backend-access-denied"),
    "disabled": (KeyUnusableError("DisabledException"), "key-unusable"),
    "deleted": (KeyNotFoundError("NotFoundException"), "key-not-found"),
    "broken": (BackendError("the device failed"), "backend-failed"),
}


@pytest.mark.parametrize(("error", "reason"), FAILURES.values(), ids=FAILURES)
def test_replica_that_does_not_sign_is_refused(
    system: System, error: HotWalletError, reason: str
) -> None:
    """503: the old key id stays; an alert is raised, and the refusal is audited."""
    system.directory.failure = error
    with pytest.raises(NewKeyUnhealthyError) as raised:
        system.failover().fail_over(ELSEWHERE, ALICE)

    assert raised.value.reason == reason
    assert list(system.store.keys()) == [system.old]
    assert [alert["alert"] for alert in system.told] == ["rotation-refused"]
    assert ("key-failover-refused", reason) in system.outcomes


def test_signature_of_another_key_raises_its_own_alert(system: System) -> None:
    """A signature that does not recover to the key raises `key-mismatch` as well."""
    device, other = (system.directory.devices[name] for name in (ELSEWHERE, OTHER))
    device._answer = other._answer
    with pytest.raises(NewKeyUnhealthyError) as raised:
        system.failover().fail_over(ELSEWHERE, ALICE)

    assert raised.value.reason == "signature-recovery"
    assert list(system.store.keys()) == [system.old]
    assert [alert["alert"] for alert in system.told] == [
        "key-mismatch",
        "rotation-refused",
    ]


def test_hanging_device_costs_five_seconds(system: System) -> None:
    """A device that never answers costs 5 s at most; the old key id stays."""
    release = threading.Event()

    def hang(digest: bytes) -> bytes:
        release.wait(30)
        return secrets.token_bytes(70)

    system.directory.devices[ELSEWHERE]._answer = hang
    began = time.monotonic()
    with pytest.raises(NewKeyUnhealthyError) as raised:
        system.failover().fail_over(ELSEWHERE, ALICE)
    seconds = time.monotonic() - began
    release.set()

    assert raised.value.reason == "backend-unavailable"
    assert seconds < 5
    assert list(system.store.keys()) == [system.old]


def test_failover_needs_a_recorded_intent(
    system: System, sqlite_store: SQLStore
) -> None:
    """If the intent cannot be recorded, the replica's device is not asked."""
    silent = structlog.wrap_logger(structlog.PrintLogger(), processors=[])
    system.audit = AuditLog(
        silent,
        journal=altered(sqlite_store, append=StoreUnavailableError("no room")),
    )
    with (
        structlog.testing.capture_logs() as events,
        pytest.raises(StoreUnavailableError),
    ):
        system.failover().fail_over(ELSEWHERE, ALICE)

    assert [event["event"] for event in events] == ["refusal-not-recorded"]
    assert system.directory.devices[ELSEWHERE].calls == 0
    assert list(system.store.keys()) == [system.old]


PAIRS: dict[str, tuple[str, str, bool]] = {
    "replicas": (HERE, THERE, True),
    "itself": (THERE, THERE, True),
    "itself, of one region": ("a-key", "a-key", True),
    "another replica": (HERE, THERE.replace("1234", "5678"), False),
    "of one region": (HERE.replace("mrk-", ""), THERE.replace("mrk-", ""), False),
    "another account": (HERE, THERE.replace("1111", "4444"), False),
    "another partition": (HERE, THERE.replace("arn:aws:", "arn:aws-cn:"), False),
    "a bare id": (KEY, THERE, False),
    "an alias": (f"{HERE.partition('key/')[0]}alias/{KEY}", THERE, False),
    "with a suffix": (f"{HERE}/x", f"{THERE}/x", False),
}


@pytest.mark.parametrize(("one", "other", "same"), PAIRS.values(), ids=PAIRS)
def test_which_arns_name_the_same_key(one: str, other: str, *, same: bool) -> None:
    """Only replicas of a multi-Region key are the same key in two regions."""
    assert is_same_key(one, other) is same
    assert is_same_key(other, one) is same
