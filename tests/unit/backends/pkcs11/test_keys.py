"""A SoftHSM token: what is sent to it, and the attributes of its keys."""

import secrets
import subprocess
import sys
from typing import Any

import bitcurve
import pytest
from asn1crypto.core import OctetString
from hypothesis import given
from hypothesis import strategies as st
from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11.types import Object

from backends.pkcs11 import PKCS11Backend
from backends.pkcs11 import keys as pkcs11_keys
from backends.pkcs11.functions import Session, Template, Value
from signer.errors import (
    BackendError,
    BackendThrottledError,
    EncodingError,
    InvalidInputError,
    KeyNotFoundError,
    KeyUnusableError,
)
from signer.ports.key_backend import KeyId
from tests.fixtures.cryptoki_faults import (
    CKR_FUNCTION_REJECTED,
    CKR_MECHANISM_INVALID,
    CKR_SESSION_COUNT,
)
from tests.fixtures.softhsm import Token
from tests.fixtures.softhsm_programs import sign


P256 = bytes.fromhex("06082a8648ce3d030107")
POINT = bitcurve.PrivateKey(b"\x07" * 32).public_key.format(compressed=False)


def test_a_generated_key_cannot_leave_the_token(token: Token) -> None:
    """P9: its attributes are safe with any defaults of the token."""
    attributes = _attributes(token.backend, token.key, ObjectClass.PRIVATE_KEY)

    assert attributes == {
        "KEY_TYPE": KeyType.EC.to_bytes(8, sys.byteorder),
        "EC_PARAMS": pkcs11_keys.SECP256K1,
        "TOKEN": True,
        "PRIVATE": True,
        "SENSITIVE": True,
        "ALWAYS_SENSITIVE": True,
        "EXTRACTABLE": False,
        "NEVER_EXTRACTABLE": True,
        "LOCAL": True,
        "MODIFIABLE": False,
        "COPYABLE": False,
        "DERIVE": False,
        "SIGN": True,
        "SIGN_RECOVER": False,
        "DECRYPT": False,
        "UNWRAP": False,
    }


def test_a_private_value_cannot_be_read(token: Token) -> None:
    """P9: the token refuses to return CKA_VALUE."""

    def read(session: Session) -> object:
        key = _only(session, ObjectClass.PRIVATE_KEY, token.key)
        return session.read(key, [Attribute.VALUE, Attribute.SIGN])

    assert token.backend.provision(read) == {Attribute.SIGN: b"\x01"}


def test_a_label_is_unique(softhsm: PKCS11Backend) -> None:
    """P10: an operator must be able to distinguish keys."""
    label = secrets.token_hex(8)
    softhsm.generate(label)

    with pytest.raises(BackendError, match="label already exists"):
        softhsm.generate(label)


def test_an_id_is_unique(token: Token) -> None:
    """A second key with the same id would make both unusable."""
    with pytest.raises(BackendError, match="id already exists"):
        token.backend.generate(secrets.token_hex(8), token.key)


def test_a_generated_key_may_have_a_given_id(softhsm: PKCS11Backend) -> None:
    """Otherwise its id is 16 random bytes."""
    given_id = KeyId(secrets.token_hex(3))

    assert softhsm.generate(secrets.token_hex(8), given_id) == given_id
    assert len(bytes.fromhex(softhsm.generate(secrets.token_hex(8)))) == 16


@pytest.mark.parametrize("half", [ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY])
def test_half_a_pair_is_not_found(softhsm: PKCS11Backend, half: ObjectClass) -> None:
    """The error names the missing half."""
    key_id = _create(softhsm)
    softhsm.provision(lambda session: session.destroy([_only(session, half, key_id)]))
    name = "private" if half is ObjectClass.PRIVATE_KEY else "public"

    with pytest.raises(KeyNotFoundError, match=f"no {name} key"):
        softhsm.public_key(key_id)


def test_a_public_key_on_another_curve_is_refused(softhsm: PKCS11Backend) -> None:
    key_id = _create(softhsm, public={Attribute.EC_PARAMS: P256})

    with pytest.raises(KeyUnusableError, match="not on secp256k1"):
        softhsm.public_key(key_id)


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(POINT[:-1], id="short"),
        pytest.param(POINT + b"\0", id="long"),
        pytest.param(OctetString(POINT).dump() + b"\0", id="trailing"),
        pytest.param(b"\x03\x41" + POINT, id="bit-string"),
        pytest.param(OctetString(b"\x02" + POINT[1:33]).dump(), id="compressed"),
        pytest.param(b"\x06" + POINT[1:], id="hybrid"),
        pytest.param(POINT[:-1] + bytes([POINT[-1] ^ 1]), id="off-curve"),
    ],
)
def test_other_encodings_of_a_point_are_refused(
    softhsm: PKCS11Backend, point: bytes
) -> None:
    """S13: a point is 65 bytes on the curve, bare or wrapped once."""
    key_id = _create(softhsm, public={Attribute.EC_POINT: point})

    with pytest.raises(EncodingError):
        softhsm.public_key(key_id)


@given(st.binary(max_size=80))
def test_no_bytes_crash_the_point_parser(ec_point: bytes) -> None:
    """The result is 65 bytes or an ``EncodingError``."""
    try:
        point = pkcs11_keys.unwrap_point(ec_point)
    except EncodingError:
        assert len(ec_point) not in {65, 67} or ec_point[:2] != b"\x04\x41"
    else:
        assert len(point) == 65


def test_a_token_that_ignores_the_template_gets_no_key(softhsm: PKCS11Backend) -> None:
    """If the token ignores an attribute, the new pair is destroyed."""
    cka_id = secrets.token_bytes(8)

    def generate(session: Session) -> None:
        template = {**pkcs11_keys.PRIVATE_TEMPLATE, Attribute.EXTRACTABLE: True}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pkcs11_keys, "PRIVATE_TEMPLATE", template)
            pkcs11_keys.generate(session, cka_id, secrets.token_hex(8))

    with pytest.raises(KeyUnusableError, match="EXTRACTABLE, NEVER_EXTRACTABLE"):
        softhsm.provision(generate)
    with pytest.raises(KeyNotFoundError):
        softhsm.public_key(KeyId(cka_id.hex()))


def test_a_created_key_of_the_right_kind_signs(softhsm: PKCS11Backend) -> None:
    """So each test above fails for its own attribute only."""
    assert sign(softhsm, _create(softhsm))


def _create(
    backend: PKCS11Backend,
    key_id: KeyId | None = None,
    *,
    private: dict[Attribute, Value] | None = None,
    public: dict[Attribute, Value] | None = None,
) -> KeyId:
    """Create a pair with other attributes than a generated one."""
    cka_id = bytes.fromhex(key_id) if key_id else secrets.token_bytes(8)
    common: Template = {
        Attribute.KEY_TYPE: KeyType.EC,
        Attribute.EC_PARAMS: pkcs11_keys.SECP256K1,
        Attribute.ID: cka_id,
    }

    def create(session: Session) -> None:
        session.create(
            {
                **pkcs11_keys.PRIVATE_TEMPLATE,
                **common,
                Attribute.CLASS: ObjectClass.PRIVATE_KEY,
                Attribute.VALUE: b"\x07" * 32,
                **(private or {}),
            }
        )
        session.create(
            {
                **pkcs11_keys.PUBLIC_TEMPLATE,
                **common,
                Attribute.CLASS: ObjectClass.PUBLIC_KEY,
                Attribute.EC_POINT: OctetString(POINT).dump(),
                **(public or {}),
            }
        )

    backend.provision(create)
    return KeyId(cka_id.hex())


def _attributes(
    backend: PKCS11Backend, key_id: KeyId, object_class: ObjectClass
) -> dict[str, Any]:
    named = [
        *pkcs11_keys.REQUIRED,
        Attribute.EC_PARAMS,
        *pkcs11_keys.DESIRED,
        *(Attribute.LOCAL, Attribute.SIGN_RECOVER),
        *(Attribute.DECRYPT, Attribute.UNWRAP),
    ]

    def read(session: Session) -> dict[str, Any]:
        found = session.read(_only(session, object_class, key_id), named)
        return {
            name.name: value if len(value) > 1 else value == b"\x01"
            for name, value in found.items()
        }

    return backend.provision(read)


def _only(session: Session, object_class: ObjectClass, key_id: KeyId) -> Object:
    (found,) = pkcs11_keys.find(session, object_class, bytes.fromhex(key_id))
    return found


def test_a_cka_id_is_given_in_any_case(token: Token) -> None:
    """The ring stores it in lower case."""
    assert token.backend.resolve(token.key.upper()) == token.key
    with pytest.raises(InvalidInputError, match="CKA_ID"):
        token.backend.resolve("not hex")


def test_a_string_is_not_a_digest(token: Token) -> None:
    """32 letters are 32 bytes."""
    with pytest.raises(InvalidInputError):
        token.backend.sign_digest(token.key, "x" * 32)  # type: ignore[arg-type]


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
    token: Token, rv: int, kind: type[BackendError], message: str | None
) -> None:
    """An error that is neither a fault nor about PIN or key has the vendor's class."""
    with (
        token.cryptoki.failing("C_SignInit", rv) as calls,
        pytest.raises(kind, match=message),
    ):
        token.backend.sign_digest(token.key, bytes(32))

    assert len(calls) == 1


def test_too_many_sessions_are_throttling(token: Token) -> None:
    """After CKR_SESSION_COUNT the open session still signs."""
    token.sign()

    with token.cryptoki.failing("C_OpenSession", CKR_SESSION_COUNT):
        assert token.sign()
        with pytest.raises(BackendThrottledError):
            token.backend.provision(lambda _: None)


def test_a_signature_needs_no_search_and_no_attribute(token: Token) -> None:
    """Signing with an open key is C_SignInit and C_Sign and nothing else."""
    token.sign()

    with (
        token.cryptoki.watched("C_OpenSession") as sessions,
        token.cryptoki.watched("C_FindObjectsInit") as searches,
        token.cryptoki.watched("C_GetAttributeValue") as attributes,
        token.cryptoki.watched("C_SignInit") as signatures,
    ):
        for _ in range(5):
            token.backend.sign_digest(token.key, secrets.token_bytes(32))

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
