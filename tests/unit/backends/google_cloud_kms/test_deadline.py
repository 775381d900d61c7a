"""Calls of a slow Google Cloud KMS end in time, and do not overload it."""

import time
from contextlib import suppress

import pytest

from backends.google_cloud_kms.backend import GoogleCloudKMSBackend
from dev import kms_faults as faults
from dev.google_kms_emulator import SIGN, GoogleKMSEmulator
from dev.kms_wire import Fault, Faults
from signer.errors import (
    BackendThrottledError,
    BackendUnavailableError,
)
from signer.ports.key_backend import KeyId
from tests.fixtures.google_kms import OpenGoogleKMS
from tests.support.waiting import eventually


DIGEST = bytes(range(32))
# The machine may be busy.
SLACK = 10.0


def _answers(kms: GoogleCloudKMSBackend, key: KeyId) -> bool:
    """Whether *kms* has a token and a connection, which take long on a busy machine."""
    with suppress(BackendUnavailableError):
        return bool(kms.public_key(key))
    return False


def _sign_calls(emulator: GoogleKMSEmulator) -> int:
    return sum(call.operation == SIGN for call in list(emulator.journal))


SLOW: dict[str, Fault] = {
    "hang": faults.hang(),
    "stop after headers": faults.stop_after_headers(),
    "trickle": faults.trickle(0.05),
}


@pytest.mark.parametrize("fault", SLOW.values(), ids=SLOW)
def test_a_slow_service_does_not_exceed_the_deadline(
    *,
    open_google_kms: OpenGoogleKMS,
    google_cloud_kms_key: KeyId,
    google_kms_faults: Faults,
    fault: Fault,
) -> None:
    kms = open_google_kms(MAX_ATTEMPTS=3, TIMEOUT_MS=500)
    assert eventually(lambda: _answers(kms, google_cloud_kms_key))
    google_kms_faults.always(SIGN, fault)
    started = time.monotonic()

    with pytest.raises(BackendUnavailableError):
        kms.sign_digest(google_cloud_kms_key, DIGEST)

    assert time.monotonic() - started < 0.5 + SLACK


def test_a_hanging_attempt_is_repeated(
    open_google_kms: OpenGoogleKMS,
    google_cloud_kms_key: KeyId,
    google_kms_faults: Faults,
) -> None:
    google_kms_faults.on(SIGN, faults.hang())
    kms = open_google_kms(TIMEOUT_MS=4_000)

    assert kms.sign_digest(google_cloud_kms_key, DIGEST).attempts == 2


def test_a_frozen_service_is_not_asked_again_at_once(
    open_google_kms: OpenGoogleKMS,
    google_cloud_kms_key: KeyId,
    google_kms_emulator: GoogleKMSEmulator,
    google_kms_faults: Faults,
) -> None:
    """After a timeout, calls fail without a request for a second."""
    kms = open_google_kms(MAX_ATTEMPTS=1, TIMEOUT_MS=500)
    assert eventually(lambda: _answers(kms, google_cloud_kms_key))
    google_kms_faults.always(SIGN, faults.hang())
    with pytest.raises(BackendUnavailableError):
        kms.sign_digest(google_cloud_kms_key, DIGEST)
    before = _sign_calls(google_kms_emulator)

    with pytest.raises(BackendUnavailableError, match="at present") as caught:
        kms.sign_digest(google_cloud_kms_key, DIGEST)

    assert caught.value.attempts == 0
    assert _sign_calls(google_kms_emulator) == before


def test_the_rate_is_limited(
    open_google_kms: OpenGoogleKMS, google_cloud_kms_key: KeyId
) -> None:
    """A call that would wait longer than its deadline allows is not sent."""
    kms = open_google_kms(SIGNATURES_PER_SECOND=1, TIMEOUT_MS=500)

    def is_refused() -> bool:
        try:
            kms.sign_digest(google_cloud_kms_key, DIGEST)
        except BackendThrottledError as e:
            return "wait for Cloud KMS" in str(e)
        except BackendUnavailableError:
            pass  # On a busy machine half a second is too short for the answer.
        return False

    assert eventually(is_refused)
