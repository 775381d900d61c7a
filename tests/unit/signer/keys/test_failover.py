"""K18: a key is pinned to a place only where it has proved itself, and nothing else."""

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
    """A system whose active key is in another place as well."""
    system = System(sqlite_store)
    system.replicate(OLD, ELSEWHERE)
    return system


def test_a_relocation(system: System) -> None:
    """The key has signed in the new place; address, state and epoch are as before."""
    relocated = system.relocation().relocate(ELSEWHERE, ALICE)

    assert relocated.status == "relocated"
    assert relocated.previous == system.old
    assert relocated.key == replace(
        system.old, key_id=ELSEWHERE, version=1, updated_at=system.clock()
    )
    assert list(system.store.keys()) == [relocated.key]
    assert "old place" in relocated.warnings[0]
    assert system.directory.devices[ELSEWHERE].calls == 1
    assert system.directory.devices[OLD].calls == 0
    assert system.told == []


def test_a_relocation_is_on_record(system: System) -> None:
    """Intent, proof and outcome name who, which key, and the token; no whole ids."""
    system.relocation().relocate(ELSEWHERE, ALICE)
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


def test_asking_again_is_answered_again(system: System) -> None:
    """Whoever did not hear of the success hears of it, and nothing is changed."""
    first = system.relocation().relocate(ELSEWHERE, ALICE)
    again = system.relocation().relocate(ELSEWHERE, ALICE)

    assert (again.status, again.key, again.previous) == (
        "relocated",
        first.key,
        first.key,
    )
    assert "already" in again.warnings[0]
    assert system.directory.devices[ELSEWHERE].calls == 1


def test_back_again(system: System) -> None:
    """A key goes back to its first place as it came, by proving itself there."""
    system.relocation().relocate(ELSEWHERE, ALICE)
    back = system.relocation().relocate(OLD, ALICE)

    assert (back.key.key_id, back.key.version) == (OLD, 2)
    assert system.directory.devices[OLD].calls == 1


def test_a_rehearsal_changes_nothing(system: System) -> None:
    """The key has signed in the new place, and the ring is as it was."""
    relocated = system.relocation().relocate(ELSEWHERE, ALICE, rehearse=True)

    assert relocated.status == "would-relocate"
    assert (relocated.key.key_id, relocated.previous) == (ELSEWHERE, system.old)
    assert list(system.store.keys()) == [system.old]
    assert system.directory.devices[ELSEWHERE].calls == 1
    assert "key-failover-succeeded" not in {event for event, _ in system.outcomes}


def test_a_rehearsal_of_the_pinned_place(system: System) -> None:
    """The key has signed there, and would stay; one that does not sign is told."""
    rehearsed = system.relocation().relocate(OLD, ALICE, rehearse=True)
    proofs = system.directory.devices[OLD].calls
    system.directory.failure = KeyUnusableError("DisabledException")
    with pytest.raises(NewKeyUnhealthyError):
        system.relocation().relocate(OLD, ALICE, rehearse=True)

    assert (rehearsed.status, rehearsed.key) == ("would-relocate", system.old)
    assert "already" in rehearsed.warnings[0]
    assert proofs == 1
    assert list(system.store.keys()) == [system.old]
    assert [alert["alert"] for alert in system.told] == ["rotation-refused"]


def test_every_key_that_may_sign_is_relocated(system: System) -> None:
    """What a draining key began must be finished elsewhere too; its state stays."""
    made_active(system.store, key_at(system.address(NEW), key_id=NEW))
    draining = system.relocation().relocate(ELSEWHERE, ALICE)
    retire = system.store.retire
    ((retired, _),) = retire([system.old.address], system.clock(), _drafted(system))
    again = system.relocation().relocate(OLD, ALICE)

    assert draining.key.state is KeyState.DRAINING
    assert (again.key.state, again.key.key_id) == (KeyState.RETIRED, OLD)
    assert again.previous == retired


def _drafted(system: System) -> Any:
    def draft(key: Key) -> Any:
        return system.audit.result(AuditAction.KEY_RETIRE, "key-rotation", ALICE)  # type: ignore[arg-type]

    return draft


def test_a_key_that_waits_for_funds(system: System) -> None:
    """A pending key that nobody holds is relocated, and goes on waiting."""
    pending = system.store.begin_rotation(
        key_at(system.address(NEW), key_id=NEW), system.clock()
    )
    system.store.wait_for(pending, "awaiting-funds", system.clock())
    system.replicate(NEW, "replica-of-the-new")
    relocated = system.relocation().relocate("replica-of-the-new", ALICE)

    assert relocated.key.state is KeyState.PENDING
    assert relocated.key.blocked_by == "awaiting-funds"


@pytest.mark.parametrize("end", ["rejected", "blocked"])
def test_a_key_that_signs_nothing(system: System, end: str) -> None:
    """409: what was rejected or given up does not come back in another place."""
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
        system.relocation().relocate(there, ALICE)

    assert list(system.store.keys()) == before
    assert ("key-failover-refused", "conflict") in system.outcomes


def test_a_key_that_is_not_in_the_ring(system: System) -> None:
    """404: another address is another key, and the way to it is named."""
    with pytest.raises(NotFoundError, match="use rotate"):
        system.relocation().relocate(OTHER, ALICE)

    assert list(system.store.keys()) == [system.old]
    assert ("key-failover-refused", "not-found") in system.outcomes
    assert system.told == []


def test_a_key_of_another_backend(system: System) -> None:
    """409: a place is one of the device that the ring's key is in."""
    elsewhere = replace(system.old, backend="pkcs11")
    ledger = altered(system.store, keys=lambda: (elsewhere,))
    with pytest.raises(ConflictError, match="another backend"):
        system.relocation(ledger).relocate(ELSEWHERE, ALICE)


def test_a_malformed_name(system: System) -> None:
    """What is no key's name is the caller's mistake, on record, and no alert."""
    with pytest.raises(InvalidInputError):
        system.relocation().relocate(" ", ALICE)

    assert ("key-failover-refused", "invalid-input") in system.outcomes
    assert system.told == []


def test_a_rotation_that_is_under_way(system: System) -> None:
    """409 while somebody rotates, to whatever key."""
    system.store.begin_rotation(key_at(system.address(NEW), key_id=NEW), system.clock())
    with pytest.raises(RotationInProgressError):
        system.relocation().relocate(ELSEWHERE, ALICE)

    assert system.store.active_key() == system.old


def test_another_relocation_was_faster(system: System) -> None:
    """409 for whoever proved a place while another one was committed."""
    third = system.replicate(OLD, "a-third-place")
    relocate = system.store.relocate

    def overtaken(*given: Any) -> Key:
        system.relocation().relocate(third, ALICE)
        return relocate(*given)

    slow = system.relocation(altered(system.store, relocate=overtaken))
    with pytest.raises(RotationInProgressError, match="somebody else"):
        slow.relocate(ELSEWHERE, ALICE)

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
def test_a_place_in_which_the_key_does_not_sign(
    system: System, error: HotWalletError, reason: str
) -> None:
    """503: the old place stays in use; an alert, and it is on record."""
    system.directory.failure = error
    with pytest.raises(NewKeyUnhealthyError) as raised:
        system.relocation().relocate(ELSEWHERE, ALICE)

    assert raised.value.reason == reason
    assert list(system.store.keys()) == [system.old]
    assert [alert["alert"] for alert in system.told] == ["rotation-refused"]
    assert ("key-failover-refused", reason) in system.outcomes


def test_a_place_in_which_another_key_signs(system: System) -> None:
    """A signature that does not recover is an alert of its own, and changes nothing."""
    device, other = (system.directory.devices[name] for name in (ELSEWHERE, OTHER))
    device._answer = other._answer
    with pytest.raises(NewKeyUnhealthyError) as raised:
        system.relocation().relocate(ELSEWHERE, ALICE)

    assert raised.value.reason == "signature-recovery"
    assert list(system.store.keys()) == [system.old]
    assert [alert["alert"] for alert in system.told] == [
        "key-mismatch",
        "rotation-refused",
    ]


def test_a_place_that_hangs(system: System) -> None:
    """A device that never answers costs 5 s at most, and the old place is in use."""
    release = threading.Event()

    def hang(digest: bytes) -> bytes:
        release.wait(30)
        return secrets.token_bytes(70)

    system.directory.devices[ELSEWHERE]._answer = hang
    began = time.monotonic()
    with pytest.raises(NewKeyUnhealthyError) as raised:
        system.relocation().relocate(ELSEWHERE, ALICE)
    seconds = time.monotonic() - began
    release.set()

    assert raised.value.reason == "backend-unavailable"
    assert seconds < 5
    assert list(system.store.keys()) == [system.old]


def test_no_journal_no_relocation(system: System, sqlite_store: SQLStore) -> None:
    """Without a record of the intent nothing is asked of the new place."""

    def unavailable(*_: Any, **__: Any) -> None:
        raise StoreUnavailableError("no room")

    silent = structlog.wrap_logger(structlog.PrintLogger(), processors=[])
    system.audit = AuditLog(silent, journal=altered(sqlite_store, append=unavailable))
    with (
        structlog.testing.capture_logs() as events,
        pytest.raises(StoreUnavailableError),
    ):
        system.relocation().relocate(ELSEWHERE, ALICE)

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
    "more behind it": (f"{HERE}/x", f"{THERE}/x", False),
}


@pytest.mark.parametrize(("one", "other", "same"), PAIRS.values(), ids=PAIRS)
def test_which_arns_are_one_key(one: str, other: str, *, same: bool) -> None:
    """Only replicas of a multi-Region key are one key in two regions."""
    assert is_same_key(one, other) is same
    assert is_same_key(other, one) is same
