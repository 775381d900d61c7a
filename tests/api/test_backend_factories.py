"""The settings of KMS reach its backend."""

import pytest

from api.backend_factories import open_backend
from backends.plugins.aws_kms import _find_retries
from dev.kms_emulator import KMSEmulator
from signer.config.settings import Settings
from signer.errors import BackendThrottledError
from signer.ports import KeyDirectory, KeyId


DIGEST = bytes(range(32))


def _open(emulator: KMSEmulator, **settings: str) -> KeyDirectory:
    environ = {
        "APP_ENV": "test",
        "USE_KMS": "true",
        "AWS_REGION": emulator.region,
        "AWS_ENDPOINT_URL_KMS": emulator.endpoint,
        **settings,
    }
    return open_backend(Settings.from_env(environ))


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


@pytest.mark.parametrize(("role", "retries"), [("sign", 2), ("all", 10), ("admin", 10)])
def test_a_client_waits_for_three_tries_of_kms(role: str, retries: int) -> None:
    """A signature that a client waits for fails early enough to be reported."""
    assert _find_retries(Settings.from_env({"SERVE_ROLE": role})) == retries
