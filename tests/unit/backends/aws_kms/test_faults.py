"""Failures of KMS: which are retried, how often, and the resulting errors."""

import pytest

from backends.aws_kms.backend import KMSBackend
from dev import kms_faults as faults
from dev.kms_emulator import KMSEmulator
from dev.kms_wire import Fault, Faults
from signer.errors import (
    AccessDeniedError,
    BackendError,
    BackendThrottledError,
    BackendUnavailableError,
    KeyNotFoundError,
    KeyUnusableError,
)
from signer.ports.key_backend import KeyId
from tests.fixtures.kms import OpenKMS, Wire


DIGEST = bytes(range(32))

TRANSIENT = {
    "throttle": (faults.throttle(), BackendThrottledError),
    "HTTP 429": (faults.html(429), BackendThrottledError),
    "internal": (faults.kms_internal(), BackendUnavailableError),
    "dependency": (faults.dependency_timeout(), BackendUnavailableError),
    "unavailable": (faults.key_unavailable(), BackendUnavailableError),
    "HTTP 500": (faults.html(500), BackendUnavailableError),
    "HTTP 503": (faults.html(503), BackendUnavailableError),
    "lost reply": (faults.drop_reply(), BackendUnavailableError),
}
PERMANENT = {
    "access denied": (faults.access_denied(), AccessDeniedError),
    "expired": (faults.expired_token(), AccessDeniedError),
    "unrecognized": (faults.unrecognized_client(), AccessDeniedError),
    "HTTP 403": (faults.html(403), AccessDeniedError),
    "disabled": (faults.disabled(), KeyUnusableError),
    "pending deletion": (faults.pending_deletion(), KeyUnusableError),
    "key usage": (faults.invalid_key_usage(), KeyUnusableError),
    "not found": (faults.not_found(), KeyNotFoundError),
    "validation": (faults.refuse("ValidationException"), BackendError),
    "unknown": (faults.refuse("UnknownException"), BackendError),
    "HTTP 404": (faults.html(404), BackendError),
    "a list": (faults.body(b"[]"), BackendError),
}


@pytest.mark.parametrize(
    ("fault", "error"), (TRANSIENT | PERMANENT).values(), ids=TRANSIENT | PERMANENT
)
def test_only_transient_faults_are_retried(
    *,
    open_kms: OpenKMS,
    kms_key: KeyId,
    kms_faults: Faults,
    wire: Wire,
    fault: Fault,
    error: type[BackendError],
) -> None:
    """K2, K3, K4: three attempts at most; the error says whether to try later."""
    kms_faults.always("Sign", fault)

    with pytest.raises(BackendError) as raised:
        open_kms().sign_digest(kms_key, DIGEST)

    is_transient = (fault, error) in TRANSIENT.values()
    assert type(raised.value) is error
    assert raised.value.retryable is is_transient
    assert wire() == ["Sign"] * (3 if is_transient else 1)


def test_two_throttles_cost_two_attempts(
    open_kms: OpenKMS,
    kms_key: KeyId,
    kms_faults: Faults,
    kms_emulator: KMSEmulator,
    wire: Wire,
) -> None:
    """K1: the third attempt makes the only signature."""
    kms_faults.on("Sign", faults.throttle(), times=2)
    signed = len(kms_emulator.trail)

    signature = open_kms().sign_digest(kms_key, DIGEST)

    assert wire() == ["Sign"] * 3
    assert (signature.attempts, signature.throttled) == (3, 2)
    assert len(kms_emulator.trail) == signed + 1


def test_a_lost_reply_is_retried(
    open_kms: OpenKMS, kms_key: KeyId, kms_faults: Faults, kms_emulator: KMSEmulator
) -> None:
    """K5: KMS signs again, which moves no money."""
    kms_faults.on("Sign", faults.drop_reply())
    signed = len(kms_emulator.trail)

    signature = open_kms().sign_digest(kms_key, DIGEST)

    assert len(kms_emulator.trail) == signed + 2
    assert kms_emulator.trail[-1].request_id == signature.request_id


@pytest.mark.parametrize(("configured", "attempts"), [(0, 1), (1, 1), (2, 2)])
def test_max_retries_counts_attempts(
    *,
    open_kms: OpenKMS,
    kms_key: KeyId,
    kms_faults: Faults,
    wire: Wire,
    configured: int,
    attempts: int,
) -> None:
    """KMS_MAX_RETRIES is the total number of attempts, and at least one."""
    kms_faults.always("Sign", faults.kms_internal())

    with pytest.raises(BackendUnavailableError):
        open_kms(max_retries=configured).sign_digest(kms_key, DIGEST)

    assert len(wire()) == attempts


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(faults.cut_off(), id="cut off"),
        pytest.param(faults.body(b"<html>"), id="html"),
        pytest.param(faults.body(b"{}"), id="empty"),
        pytest.param(faults.body(b'{"Signature": 5, "PublicKey": 5}'), id="number"),
        pytest.param(faults.body(b'{"Signature": "a", "PublicKey": "a"}'), id="text"),
        pytest.param(faults.body(b"\xff\xfe"), id="bytes"),
    ],
)
def test_malformed_responses_are_unavailability(
    kms: KMSBackend, kms_key: KeyId, kms_faults: Faults, fault: Fault
) -> None:
    """Truncated or invalid responses are retryable."""
    kms_faults.on("Sign", fault)
    kms_faults.on("GetPublicKey", fault)

    with pytest.raises(BackendUnavailableError):
        kms.sign_digest(kms_key, DIGEST)
    with pytest.raises(BackendUnavailableError):
        kms.public_key(kms_key)


def test_missing_credentials_are_an_error(
    open_kms: OpenKMS, kms_key: KeyId, monkeypatch: pytest.MonkeyPatch, wire: Wire
) -> None:
    """K4: nothing is sent."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(AccessDeniedError, match="NoCredentialsError"):
        open_kms().sign_digest(kms_key, DIGEST)

    assert wire() == []
