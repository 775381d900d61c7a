"""The PKCS#11 backend over a real SoftHSM token."""

import secrets
import subprocess
import sys

import pytest

from backends.pkcs11 import PKCS11Backend
from signer.errors import (
    BackendError,
    BackendThrottledError,
    InvalidInputError,
    KeyUnusableError,
)
from signer.ports.key_backend import KeyId
from tests.fixtures.cryptoki_faults import (
    CKR_FUNCTION_REJECTED,
    CKR_MECHANISM_INVALID,
    CKR_SESSION_COUNT,
    Cryptoki,
)
from tests.fixtures.softhsm_programs import sign


def test_a_digest_of_another_length_is_not_sent(
    softhsm: PKCS11Backend, softhsm_key: KeyId, cryptoki: Cryptoki
) -> None:
    """SoftHSM signs any length, so nothing is sent to the token."""
    with cryptoki.watched("C_SignInit") as calls, pytest.raises(InvalidInputError):
        softhsm.sign_digest(softhsm_key, bytes(31))

    assert calls == []


def test_a_string_is_not_a_digest(softhsm: PKCS11Backend, softhsm_key: KeyId) -> None:
    """32 letters are 32 bytes."""
    with pytest.raises(InvalidInputError):
        softhsm.sign_digest(softhsm_key, "x" * 32)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rv", "kind", "message"),
    [
        (
            CKR_FUNCTION_REJECTED,
            BackendError,
            r"refused \(C_SignInit: CKR_FUNCTION_REJECTED\)",
        ),
        (CKR_MECHANISM_INVALID, KeyUnusableError, None),
    ],
)
def test_a_refusal_is_not_retried(
    *,
    softhsm: PKCS11Backend,
    softhsm_key: KeyId,
    cryptoki: Cryptoki,
    rv: int,
    kind: type[BackendError],
    message: str | None,
) -> None:
    """An error that is neither a fault nor about PIN or key has the vendor's class."""
    with (
        cryptoki.failing("C_SignInit", rv) as calls,
        pytest.raises(kind, match=message),
    ):
        softhsm.sign_digest(softhsm_key, bytes(32))

    assert len(calls) == 1


def test_too_many_sessions_are_throttling(
    softhsm: PKCS11Backend, softhsm_key: KeyId, cryptoki: Cryptoki
) -> None:
    """After CKR_SESSION_COUNT the open session still signs."""
    sign(softhsm, softhsm_key)

    with cryptoki.failing("C_OpenSession", CKR_SESSION_COUNT):
        assert sign(softhsm, softhsm_key)
        with pytest.raises(BackendThrottledError):
            softhsm.provision(lambda _: None)


def test_a_signature_needs_no_search_and_no_attribute(
    softhsm: PKCS11Backend, softhsm_key: KeyId, cryptoki: Cryptoki
) -> None:
    """Signing with an open key is C_SignInit and C_Sign and nothing else."""
    sign(softhsm, softhsm_key)

    with (
        cryptoki.watched("C_OpenSession") as sessions,
        cryptoki.watched("C_FindObjectsInit") as searches,
        cryptoki.watched("C_GetAttributeValue") as attributes,
        cryptoki.watched("C_SignInit") as signatures,
    ):
        for _ in range(5):
            softhsm.sign_digest(softhsm_key, secrets.token_bytes(32))

    assert (sessions, searches, attributes) == ([], [], [])
    assert len(signatures) == 5


def test_nothing_is_loaded_before_the_first_call() -> None:
    """P3: imports and constructors work without SoftHSM."""
    program = (
        "from pathlib import Path\n"
        "import pkcs11, softhsm.cli, api.cli.__main__, api.bootstrap\n"
        "import api.server.entrypoint\n"
        "from backends.pkcs11 import PKCS11Backend\n"
        "PKCS11Backend(Path('/nowhere/libsofthsm2.so'), 't', lambda: exit(3))\n"
        "assert not pkcs11._loaded\n"
        "assert 'softhsm2' not in Path('/proc/self/maps').read_text()\n"
    )

    finished = subprocess.run([sys.executable, "-c", program], check=False)

    assert finished.returncode == 0
