"""The PKCS#11 backend over a real SoftHSM token."""

import ctypes
import secrets
import subprocess
import sys

import pytest

from backends.pkcs11 import PKCS11Backend
from signer.crypto.der import parse_public_key, parse_signature
from signer.crypto.secp256k1 import recoverable
from signer.errors import (
    BackendError,
    BackendThrottledError,
    EncodingError,
    InvalidInputError,
    KeyNotFoundError,
    KeyUnusableError,
)
from signer.ports import KeyGenerator, KeyId
from tests.fixtures.cryptoki_faults import (
    CKR_FUNCTION_REJECTED,
    CKR_MECHANISM_INVALID,
    CKR_SESSION_COUNT,
    Cryptoki,
    Hook,
)
from tests.fixtures.softhsm_programs import sign


def test_is_a_key_generator(softhsm: PKCS11Backend) -> None:
    """The backend fits the port, and names itself for the audit log."""
    generator: KeyGenerator = softhsm

    assert generator.name == "pkcs11"


def test_signs_the_digest_as_given(softhsm: PKCS11Backend, softhsm_key: KeyId) -> None:
    """The signature is DER over the digest itself, and there is no request id."""
    digest = secrets.token_bytes(32)

    answer = softhsm.sign_digest(softhsm_key, digest)

    r, s = parse_signature(answer.der)
    public_key = parse_public_key(softhsm.public_key(softhsm_key))
    assert recoverable(r, s, digest, public_key)
    assert answer.request_id is None


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64, 1000])
def test_refuses_what_is_no_digest(
    softhsm: PKCS11Backend, softhsm_key: KeyId, cryptoki: Cryptoki, size: int
) -> None:
    """SoftHSM signs any length, so the token is not even asked."""
    with cryptoki.watched("C_SignInit") as calls, pytest.raises(InvalidInputError):
        softhsm.sign_digest(softhsm_key, bytes(size))

    assert calls == []


@pytest.mark.parametrize("key_id", ["ff00", "", "0", "xy", "alias/hotwallet"])
def test_knows_no_key_of_another_name(softhsm: PKCS11Backend, key_id: str) -> None:
    """An id that is no CKA_ID, or nobody's, is not found."""
    with pytest.raises(KeyNotFoundError):
        softhsm.public_key(KeyId(key_id))


@pytest.mark.parametrize("size", [0, 63, 65])
def test_refuses_an_answer_of_another_size(
    softhsm: PKCS11Backend, softhsm_key: KeyId, cryptoki: Cryptoki, size: int
) -> None:
    """An answer that is not r and s of 32 bytes each becomes no DER."""

    def resize(original: Hook, *arguments: int) -> int:
        rv = original(*arguments)
        is_question = arguments[3] is None  # How long will it be?
        _ulong_at(arguments[4])[0] = max(size, 64) if is_question else size
        return rv

    with cryptoki.hooked("C_Sign", resize), pytest.raises(EncodingError):
        softhsm.sign_digest(softhsm_key, bytes(32))

    assert sign(softhsm, softhsm_key)


def test_refuses_a_string_for_a_digest(
    softhsm: PKCS11Backend, softhsm_key: KeyId
) -> None:
    """python-pkcs11 would sign the UTF-8 of it, and 32 letters are 32 bytes."""
    with pytest.raises(InvalidInputError):
        softhsm.sign_digest(softhsm_key, "x" * 32)  # type: ignore[arg-type]


def test_a_refusal_without_a_better_name_is_not_retried(
    softhsm: PKCS11Backend, softhsm_key: KeyId, cryptoki: Cryptoki
) -> None:
    """What is neither a fault, nor about PIN or key, is named by its class alone."""
    with (
        cryptoki.failing("C_SignInit", CKR_FUNCTION_REJECTED) as calls,
        pytest.raises(BackendError, match="the token refused: FunctionRejected"),
    ):
        softhsm.sign_digest(softhsm_key, bytes(32))

    assert len(calls) == 1


def test_a_device_without_the_mechanism_cannot_use_the_key(
    softhsm: PKCS11Backend, softhsm_key: KeyId, cryptoki: Cryptoki
) -> None:
    """CKR_MECHANISM_INVALID is about the key, and is not retried."""
    with (
        cryptoki.failing("C_SignInit", CKR_MECHANISM_INVALID) as calls,
        pytest.raises(KeyUnusableError),
    ):
        softhsm.sign_digest(softhsm_key, bytes(32))

    assert len(calls) == 1


def test_a_device_without_sessions_asks_us_to_slow_down(
    softhsm: PKCS11Backend, softhsm_key: KeyId, cryptoki: Cryptoki
) -> None:
    """CKR_SESSION_COUNT is throttling: what is open goes on to sign."""
    sign(softhsm, softhsm_key)

    with cryptoki.failing("C_OpenSession", CKR_SESSION_COUNT):
        assert sign(softhsm, softhsm_key)
        with pytest.raises(BackendThrottledError):
            softhsm.provision(lambda _: None)


def test_a_signature_costs_no_search_and_no_attribute(
    softhsm: PKCS11Backend, softhsm_key: KeyId, cryptoki: Cryptoki
) -> None:
    """Once a key is open, signing is C_SignInit and C_Sign and nothing else."""
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
    """P3: importing and constructing work where there is no SoftHSM at all."""
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


def _ulong_at(address: int) -> "ctypes.Array[ctypes.c_ulong]":
    return (ctypes.c_ulong * 1).from_address(address)
