"""The settings of KMS reach its backend."""

import pytest

from api.backend_factories import open_backend
from dev import kms_faults as faults
from dev.kms_emulator import KMSEmulator
from dev.kms_wire import Faults
from signer.config.settings import Settings
from signer.errors import BackendThrottledError, BackendUnavailableError
from signer.ports.key_backend import KeyDirectory, KeyId


DIGEST = bytes(range(32))


def _open(
    emulator: KMSEmulator, *, is_worker: bool = False, **settings: str
) -> KeyDirectory:
    environ = {
        "APP_ENV": "test",
        "USE_KMS": "true",
        "AWS_REGION": emulator.region,
        "AWS_ENDPOINT_URL_KMS": emulator.endpoint,
        **settings,
    }
    return open_backend(Settings.from_env(environ), is_worker=is_worker)


def test_the_concurrency_is_limited(kms_emulator: KMSEmulator) -> None:
    assert _open(kms_emulator).concurrency == 8
    assert _open(kms_emulator, KMS_MAX_CONCURRENCY="3").concurrency == 3


def test_the_rate_is_limited(kms_emulator: KMSEmulator, kms_key: KeyId) -> None:
    """A call that would wait longer than its deadline allows is not sent."""
    kms = _open(kms_emulator, KMS_SIGNATURES_PER_SECOND="1", KMS_TIMEOUT_MS="500")

    def sign_for_a_while() -> None:
        for _ in range(50):
            kms.sign_digest(kms_key, DIGEST)

    with pytest.raises(BackendThrottledError, match="wait for KMS"):
        sign_for_a_while()


def test_a_client_waits_for_three_attempts(
    kms_emulator: KMSEmulator, kms_faults: Faults, kms_key: KeyId
) -> None:
    """At most, whichever role the process has; a worker uses its deadline."""
    kms_faults.always("Sign", faults.kms_internal())

    for role in ("all", "admin", "sign"):
        assert _attempts(_open(kms_emulator, SERVE_ROLE=role), kms_key) == 3
    fewer = _open(kms_emulator, KMS_MAX_RETRIES="2")
    assert _attempts(fewer, kms_key) == 2
    assert _attempts(_open(kms_emulator, is_worker=True), kms_key) > 3


def _attempts(kms: KeyDirectory, key: KeyId) -> int:
    with pytest.raises(BackendUnavailableError) as caught:
        kms.sign_digest(key, DIGEST)
    return caught.value.attempts
