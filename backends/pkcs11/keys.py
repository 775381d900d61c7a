"""
The attributes of secp256k1 keys in a PKCS#11 token.

Each function takes an open, logged-in session and raises ``CryptokiError``.
"""

from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11.types import Object

from backends.pkcs11.functions import Session, Value, encode
from signer.crypto.der import encode_public_key
from signer.crypto.secp256k1 import PublicKey
from signer.errors import (
    AmbiguousKeyError,
    EncodingError,
    KeyNotFoundError,
    KeyUnusableError,
)


SECP256K1 = bytes.fromhex("06052b8104000a")
"""``CKA_EC_PARAMS`` of secp256k1: the DER of its object identifier (SEC 2)."""

_CURVES = {
    None,  # AWS CloudHSM does not show it in every key; the first signature proves it.
    SECP256K1,
    b"\x13\x09secp256k1",  # The name as a PrintableString (PKCS#11 v3.1, 6.3.3).
}

_POINT_SIZE = 65
_OCTET_STRING_HEAD = b"\x04\x41"

_PROTECTED: dict[Attribute, Value] = {
    Attribute.SIGN: True,
    Attribute.TOKEN: True,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
}

REQUIRED: dict[Attribute, Value] = {Attribute.KEY_TYPE: KeyType.EC, **_PROTECTED}
"""A private key without these attributes, or on another curve, is refused."""

_FIXED: dict[Attribute, Value] = {
    # The default of all three is true.
    Attribute.DERIVE: False,
    Attribute.MODIFIABLE: False,
    Attribute.COPYABLE: False,
}

DESIRED: dict[Attribute, Value] = {
    **_FIXED,
    Attribute.ALWAYS_SENSITIVE: True,
    Attribute.NEVER_EXTRACTABLE: True,
}
"""Generated keys also have these; an imported key cannot have the last two."""

PRIVATE_TEMPLATE: dict[Attribute, Value] = {
    **_FIXED,
    **_PROTECTED,
    Attribute.SIGN_RECOVER: False,
    Attribute.DECRYPT: False,
    Attribute.UNWRAP: False,
}

PUBLIC_TEMPLATE: dict[Attribute, Value] = {
    **_FIXED,
    Attribute.TOKEN: True,
    Attribute.PRIVATE: False,
    Attribute.VERIFY: True,
    Attribute.ENCRYPT: False,
    Attribute.WRAP: False,
}


def find(session: Session, object_class: ObjectClass, cka_id: bytes) -> list[Object]:
    return session.find({Attribute.CLASS: object_class, Attribute.ID: cka_id})


def private_key(session: Session, cka_id: bytes) -> Object:
    """
    Return the one private key with this ``CKA_ID``, if it may be used.

    Raises:
        KeyNotFoundError: There is no such key, or more than one.
        KeyUnusableError: It is not a secp256k1 key, or not protected as required.
    """
    key = _require_one(find(session, ObjectClass.PRIVATE_KEY, cka_id), "private")
    mismatches = find_mismatches(session, key, REQUIRED)
    known = session.read(key, [Attribute.EC_PARAMS, Attribute.ALWAYS_AUTHENTICATE])
    if known.get(Attribute.EC_PARAMS) not in _CURVES:
        mismatches.append(Attribute.EC_PARAMS.name)
    if known.get(Attribute.ALWAYS_AUTHENTICATE, b"\0") != b"\0":
        mismatches.append(Attribute.ALWAYS_AUTHENTICATE.name)
    if mismatches:
        raise KeyUnusableError(
            f"the key's attributes are wrong: {', '.join(mismatches)}"
        )
    return key


def public_key(session: Session, cka_id: bytes) -> bytes:
    """Return the DER ``SubjectPublicKeyInfo`` of the one key with this ``CKA_ID``."""
    key = _require_one(find(session, ObjectClass.PUBLIC_KEY, cka_id), "public")
    known = session.read(key, [Attribute.EC_PARAMS, Attribute.EC_POINT])
    if known.get(Attribute.EC_PARAMS) not in _CURVES:
        raise KeyUnusableError("the public key is not on secp256k1")
    point = unwrap_point(known.get(Attribute.EC_POINT, b""))
    return encode_public_key(PublicKey(point).uncompressed)


def unwrap_point(ec_point: bytes) -> bytes:
    """
    Return the 65 bytes of a point in ``CKA_EC_POINT``.

    PKCS#11 requires a DER OCTET STRING around it, which some devices omit.

    Raises:
        EncodingError: *ec_point* is neither form.
    """
    point = ec_point
    if len(ec_point) == len(_OCTET_STRING_HEAD) + _POINT_SIZE:
        point = ec_point.removeprefix(_OCTET_STRING_HEAD)
    if len(point) != _POINT_SIZE:
        raise EncodingError("the public key is not an uncompressed point")
    return point


def wrap_point(point: bytes) -> bytes:
    """Return ``CKA_EC_POINT`` of the 65 bytes of *point*."""
    return _OCTET_STRING_HEAD + point


def find_mismatches(
    session: Session, key: Object, wanted: dict[Attribute, Value]
) -> list[str]:
    """Return the names of the attributes whose values in *key* are not *wanted*."""
    actual = session.read(key, wanted)
    return [
        attribute.name
        for attribute, value in wanted.items()
        if actual.get(attribute) != encode(value)
    ]


def generate(session: Session, cka_id: bytes, label: str) -> None:
    """Generate a key pair with this ``CKA_ID``; *session* must be read-write."""
    name: dict[Attribute, Value] = {Attribute.ID: cka_id, Attribute.LABEL: label}
    pair = session.generate(
        {**PUBLIC_TEMPLATE, **name, Attribute.EC_PARAMS: SECP256K1},
        {**PRIVATE_TEMPLATE, **name},
    )
    mismatches = find_mismatches(session, pair[1], REQUIRED | DESIRED)
    if mismatches:
        session.destroy(pair)
        raise KeyUnusableError(f"the token ignored attributes: {', '.join(mismatches)}")


def _require_one(keys: list[Object], kind: str) -> Object:
    if not keys:
        raise KeyNotFoundError(f"there is no {kind} key with this id")
    if len(keys) > 1:
        raise AmbiguousKeyError(f"several {kind} keys have this id")
    return keys[0]
