"""Rotation and failover self-test the key that an administrator names."""

from typing import Any

import pytest
import structlog

from signer.audit.log import AuditLog
from signer.errors import (
    AccessDeniedError,
    BackendError,
    HotWalletError,
    InvalidInputError,
    KeyNotFoundError,
    KeyUnusableError,
    NewKeyUnhealthyError,
    StoreUnavailableError,
)
from signer.keys.rotation import RotationOptions
from tests.support.refunds import altered
from tests.support.ring import ALICE, ELSEWHERE, NEW, OLD, OTHER, SILENCE, System
from tests.unit.signer.keys.conftest import Hang


CANDIDATES = {"key-rotate": NEW, "key-failover": ELSEWHERE}

pytestmark = pytest.mark.parametrize("operation", CANDIDATES)


@pytest.fixture
def system(system: System) -> System:
    """A system whose active key has a replica."""
    system.replicate(OLD, ELSEWHERE)
    return system


def _run(
    system: System, operation: str, name: str | None = None, *, dry_run: bool = False
) -> Any:
    """Rotate or fail over to *name*, by default to the candidate."""
    name = name or CANDIDATES[operation]
    if operation == "key-rotate":
        options = RotationOptions(dry_run=dry_run)
        return system.rotation().rotate(name, ALICE, options)
    return system.failover().fail_over(name, ALICE, dry_run=dry_run)


def _refused(system: System, operation: str) -> NewKeyUnhealthyError:
    """Require that the candidate is refused, and that the old key stays active."""
    with pytest.raises(NewKeyUnhealthyError) as raised:
        _run(system, operation)
    rejected = {NEW: "rejected"} if operation == "key-rotate" else {}
    assert system.store.active_key() == system.old
    assert system.states == {OLD: "active", **rejected}
    assert (f"{operation}-refused", raised.value.reason) in system.outcomes
    return raised.value


def test_success_is_audited(system: System, operation: str) -> None:
    """The records name actor, token and keys, but contain no whole key ids."""
    result = _run(system, operation)
    records = system.records
    (done,) = (each for each in records if each["event"] == f"{operation}-succeeded")
    name = {"key-rotate": "key-rotation", "key-failover": "key-relocation"}[operation]
    details: dict[str, dict[str, Any]] = {
        "key-rotate": {
            "previous_key_address": system.old.address,
            "compromised": False,
        },
        "key-failover": {"state": "active"},
    }

    assert system.outcomes == [
        ("digest-sign-requested", None),
        ("digest-sign-succeeded", "success"),
        (f"{operation}-requested", "success"),
        (f"{operation}-succeeded", "success"),
    ]
    assert {
        (each["operation"], each["actor"], each["token_id"], each["request_id"])
        for each in records
    } == {(name, "alice", "token-1", "req-1")}
    assert done["details"] == {
        "key": CANDIDATES[operation][:8] + "...",
        "key_address": result.key.address,
        "previous_key": "11111111...",
        **details[operation],
    }
    assert OLD not in str(records)
    assert CANDIDATES[operation] not in str(records)


FAILURES: dict[str, tuple[HotWalletError, str]] = {
    "denied": (AccessDeniedError("AccessDeniedException"), "backend-access-denied"),
    "disabled": (KeyUnusableError("DisabledException"), "key-unusable"),
    "deleted": (KeyNotFoundError("NotFoundException"), "key-not-found"),
    "broken": (BackendError("the device failed"), "backend-failed"),
}


@pytest.mark.parametrize(("error", "reason"), FAILURES.values(), ids=FAILURES)
def test_key_that_does_not_sign_is_refused(
    system: System, operation: str, error: HotWalletError, reason: str
) -> None:
    """O1: 503; the refusal raises one alert and is audited."""
    system.directory.failure = error
    refused = _refused(system, operation)

    assert refused.reason == reason
    assert CANDIDATES[operation] not in str(refused)
    assert [alert["alert"] for alert in system.alerts] == ["rotation-refused"]
    assert system.alerts[0]["facts"] == {"code": reason, "actor": "alice"}
    assert dict(system.store.alert_counts()) == {"rotation-refused": 1}
    assert system.outcomes == [
        ("digest-sign-refused", reason),
        ("digest-sign-requested", None),
        (f"{operation}-refused", reason),
        (f"{operation}-requested", "success"),
    ]


def test_signature_of_another_key_raises_its_own_alert(
    system: System, operation: str
) -> None:
    """A signature that does not recover to the key raises `key-mismatch` as well."""
    devices = system.directory.devices
    devices[CANDIDATES[operation]]._answer = devices[OTHER]._answer

    assert _refused(system, operation).reason == "signature-recovery"
    assert [alert["alert"] for alert in system.alerts] == [
        "key-mismatch",
        "rotation-refused",
    ]


def test_hanging_device_costs_five_seconds(
    system: System, operation: str, hang: Hang
) -> None:
    """All time limits together are less than 5 s."""
    system.directory.devices[CANDIDATES[operation]]._answer = hang

    assert _refused(system, operation).reason == "backend-unavailable"
    assert sum(hang.waits) < 5


def test_malformed_name_is_refused(system: System, operation: str) -> None:
    """The refusal is audited, and raises no alert."""
    with pytest.raises(InvalidInputError):
        _run(system, operation, " ")

    assert system.outcomes == [
        (f"{operation}-refused", "invalid-input"),
        (f"{operation}-requested", "success"),
    ]
    assert system.alerts == []


def test_intent_must_be_recorded(system: System, operation: str) -> None:
    """If the intent cannot be recorded, the candidate's device is not asked."""
    broken = altered(system.store, append=StoreUnavailableError("gone"))
    system.audit = AuditLog(SILENCE, journal=broken)
    with (
        structlog.testing.capture_logs() as events,
        pytest.raises(StoreUnavailableError),
    ):
        _run(system, operation)

    assert [event["event"] for event in events] == ["refusal-not-recorded"]
    assert system.directory.devices[CANDIDATES[operation]].calls == 0
    assert list(system.store.keys()) == [system.old]


def test_dry_run_of_the_active_key(system: System, operation: str) -> None:
    """A dry run to the active key self-tests it, changes nothing, can be refused."""
    dry_run = _run(system, operation, OLD, dry_run=True)
    self_tests = system.directory.devices[OLD].calls
    system.directory.failure = KeyUnusableError("DisabledException")
    with pytest.raises(NewKeyUnhealthyError):
        _run(system, operation, OLD, dry_run=True)

    status = {"key-rotate": "would-rotate", "key-failover": "would-relocate"}[operation]
    assert (dry_run.status, dry_run.key) == (status, system.old)
    assert "already" in dry_run.warnings[0]
    assert self_tests == 1
    assert list(system.store.keys()) == [system.old]
