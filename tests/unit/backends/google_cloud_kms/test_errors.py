"""The errors of Google Cloud KMS are ours, without Google's words."""

import json

import pytest

from backends.google_cloud_kms.backend import GoogleCloudKMSBackend
from dev import google_kms_faults as google
from dev import kms_faults as faults
from dev.google_kms_emulator import SIGN, GoogleKMSEmulator
from dev.kms_wire import Fault, Faults, Reply
from signer.errors import (
    AccessDeniedError,
    BackendError,
    BackendThrottledError,
    BackendUnavailableError,
    KeyNotFoundError,
    KeyUnusableError,
)
from signer.ports.key_backend import KeyId


DIGEST = bytes(range(32))


def _sign_calls(emulator: GoogleKMSEmulator) -> int:
    return sum(call.operation == SIGN for call in list(emulator.journal))


STATES = ("DISABLED", "DESTROY_SCHEDULED", "DESTROYED", "PENDING_GENERATION")


@pytest.mark.parametrize("state", STATES)
def test_only_an_enabled_version_is_used(
    google_cloud_kms: GoogleCloudKMSBackend,
    google_kms_emulator: GoogleKMSEmulator,
    state: str,
) -> None:
    name = KeyId(google_kms_emulator.create_version())
    google_kms_emulator.set_state(name, state)

    for ask in (
        lambda: google_cloud_kms.resolve(name),
        lambda: google_cloud_kms.sign_digest(name, DIGEST),
    ):
        with pytest.raises(KeyUnusableError, match="FAILED_PRECONDITION") as caught:
            ask()
        assert name not in str(caught.value)
        assert caught.value.attempts == 1


ERRORS: dict[str, tuple[Fault, type[BackendError], int]] = {
    "quota": (google.quota_exceeded(), BackendThrottledError, 3),
    "quota, with a pause": (google.quota_exceeded(0.05), BackendThrottledError, 3),
    "quota, with a long pause": (google.quota_exceeded(3600), BackendThrottledError, 1),
    "internal": (google.internal(), BackendUnavailableError, 3),
    "unavailable": (google.unavailable(), BackendUnavailableError, 3),
    "deadline": (google.refuse("DEADLINE_EXCEEDED"), BackendUnavailableError, 3),
    "denied": (google.permission_denied(), AccessDeniedError, 1),
    "invalid": (google.refuse("INVALID_ARGUMENT"), BackendError, 1),
    "not found": (google.refuse("NOT_FOUND"), KeyNotFoundError, 1),
    "a proxy's 502": (faults.html(502), BackendUnavailableError, 3),
    "a proxy's 403": (faults.html(403), AccessDeniedError, 1),
    "a proxy's 429": (faults.html(429), BackendThrottledError, 3),
    "a proxy's 404": (faults.html(404), BackendError, 1),
    "a redirect": (faults.html(302), BackendError, 1),
    "cut off": (faults.cut_off(), BackendUnavailableError, 3),
    "lost reply": (faults.drop_reply(), BackendUnavailableError, 3),
}


@pytest.mark.parametrize(("fault", "error", "attempts"), ERRORS.values(), ids=ERRORS)
def test_errors_are_mapped_and_repeated(
    *,
    google_cloud_kms: GoogleCloudKMSBackend,
    google_cloud_kms_key: KeyId,
    google_kms_emulator: GoogleKMSEmulator,
    google_kms_faults: Faults,
    fault: Fault,
    error: type[BackendError],
    attempts: int,
) -> None:
    """At most three attempts; none of Google's words reach the error."""
    google_kms_faults.always(SIGN, fault)
    before = _sign_calls(google_kms_emulator)

    with pytest.raises(BackendError) as caught:
        google_cloud_kms.sign_digest(google_cloud_kms_key, DIGEST)

    assert type(caught.value) is error
    assert caught.value.attempts == attempts
    assert _sign_calls(google_kms_emulator) - before == attempts
    is_throttled = error is BackendThrottledError
    assert caught.value.throttled == (attempts if is_throttled else 0)
    chain = [str(caught.value), repr(caught.value.__cause__)]
    for word in ("projects/", "example", "serviceaccount", "hsm-pool", "quota", "html"):
        assert word not in " ".join(chain)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_an_error_names_status_and_reason(
    google_cloud_kms: GoogleCloudKMSBackend,
    google_cloud_kms_key: KeyId,
    google_kms_faults: Faults,
) -> None:
    google_kms_faults.always(SIGN, google.quota_exceeded())

    with pytest.raises(BackendThrottledError) as caught:
        google_cloud_kms.sign_digest(google_cloud_kms_key, DIGEST)

    assert str(caught.value) == (
        "Cloud KMS AsymmetricSign failed: RESOURCE_EXHAUSTED RATE_LIMIT_EXCEEDED,"
        " HTTP 429"
    )


@pytest.mark.parametrize(
    "body",
    [
        {"error": "x"},
        {"error": {"status": ["x"], "details": "y"}},
        {"error": {"status": "UNAVAILABLE", "details": [1, {"retryDelay": [1]}]}},
        {"error": {"status": "SECRET", "details": [{"violations": [1, {"type": 2}]}]}},
        {"error": {"status": "ABORTED", "details": [{"violations": "x"}]}},
        [],
        1,
    ],
)
def test_strange_errors_are_errors_of_ours(
    *,
    google_cloud_kms: GoogleCloudKMSBackend,
    google_cloud_kms_key: KeyId,
    google_kms_faults: Faults,
    body: object,
) -> None:
    reply = Reply(json.dumps(body).encode(), 503)
    google_kms_faults.on(SIGN, lambda _: reply)

    assert google_cloud_kms.sign_digest(google_cloud_kms_key, DIGEST).attempts == 2
