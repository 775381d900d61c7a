"""
What a secp256k1 key looks like inside a PKCS#11 token.

These functions know attributes and nothing of sessions' lives: each one gets an
open, logged-in session and raises python-pkcs11's errors as they come.
"""

from collections.abc import Iterable
from typing import Any

from pkcs11 import (
    Attribute,
    KeyType,
    Mechanism,
    MechanismFlag,
    ObjectClass,
    Session,
    SignMixin,
)
from pkcs11.types import Object

from signer.crypto.der import encode_public_key
from signer.crypto.secp256k1 import PublicKey
from signer.errors import EncodingError, KeyNotFoundError, KeyUnusableError


SECP256K1 = bytes.fromhex("06052b8104000a")
"""``CKA_EC_PARAMS`` of secp256k1: the DER of its object identifier (SEC 2)."""

_POINT_SIZE = 65
_OCTET_STRING_HEAD = b"\x04\x41"

REQUIRED: dict[Attribute, Any] = {
    Attribute.KEY_TYPE: KeyType.EC,
    Attribute.EC_PARAMS: SECP256K1,
    Attribute.SIGN: True,
    Attribute.TOKEN: True,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
}
"""Without these a private key must not be used."""

_FIXED: dict[Attribute, Any] = {
    # All three are true unless said otherwise.
    Attribute.DERIVE: False,
    Attribute.MODIFIABLE: False,
    Attribute.COPYABLE: False,
}

DESIRED: dict[Attribute, Any] = {
    **_FIXED,
    Attribute.ALWAYS_SENSITIVE: True,
    Attribute.NEVER_EXTRACTABLE: True,
}
"""Generated keys have these, too; an imported one cannot have the last two."""

PRIVATE_TEMPLATE: dict[Attribute, Any] = {
    **_FIXED,
    Attribute.TOKEN: True,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.SIGN: True,
    Attribute.SIGN_RECOVER: False,
    Attribute.DECRYPT: False,
    Attribute.UNWRAP: False,
}

PUBLIC_TEMPLATE: dict[Attribute, Any] = {
    **_FIXED,
    Attribute.TOKEN: True,
    Attribute.PRIVATE: False,
    Attribute.VERIFY: True,
    Attribute.ENCRYPT: False,
    Attribute.WRAP: False,
}


def find(session: Session, object_class: ObjectClass, cka_id: bytes) -> list[Object]:
    """Return the objects of *object_class* with this ``CKA_ID``."""
    return list(
        session.get_objects({Attribute.CLASS: object_class, Attribute.ID: cka_id})
    )


def private_key(session: Session, cka_id: bytes) -> SignMixin:
    """
    Return the one private key with this ``CKA_ID``, if it may be used.

    Raises:
        KeyNotFoundError: There is none, or several.
        KeyUnusableError: It is no secp256k1 key, or not guarded as it must be.
    """
    key = _only(find(session, ObjectClass.PRIVATE_KEY, cka_id), "private")
    lacking = differing(key, REQUIRED)
    if lacking or not isinstance(key, SignMixin):
        raise KeyUnusableError(f"the key's attributes are wrong: {', '.join(lacking)}")
    return key


def public_key(session: Session, cka_id: bytes) -> bytes:
    """
    Return the DER ``SubjectPublicKeyInfo`` of the one key with this ``CKA_ID``.

    Raises:
        KeyNotFoundError: There is none, or several.
        KeyUnusableError: It is on another curve.
        EncodingError: It is not a point on secp256k1.
    """
    key = _only(find(session, ObjectClass.PUBLIC_KEY, cka_id), "public")
    known = key.get_attributes([Attribute.EC_PARAMS, Attribute.EC_POINT])
    if known.get(Attribute.EC_PARAMS) != SECP256K1:
        raise KeyUnusableError("the public key is not on secp256k1")
    point = uncompressed_point(known.get(Attribute.EC_POINT, b""))
    return encode_public_key(PublicKey(point).uncompressed)


def uncompressed_point(ec_point: bytes) -> bytes:
    """
    Return the 65 bytes of a point in ``CKA_EC_POINT``.

    PKCS#11 wants it wrapped in a DER OCTET STRING; some devices leave that out.

    Raises:
        EncodingError: It is neither.
    """
    point = ec_point
    if len(ec_point) == len(_OCTET_STRING_HEAD) + _POINT_SIZE:
        point = ec_point.removeprefix(_OCTET_STRING_HEAD)
    if len(point) != _POINT_SIZE:
        raise EncodingError("the public key is not an uncompressed point")
    return point


def differing(key: Object, wanted: dict[Attribute, Any]) -> list[str]:
    """Return the names of *wanted* attributes that *key* does not have like that."""
    actual = key.get_attributes(list(wanted))
    return [
        attribute.name
        for attribute, value in wanted.items()
        if actual.get(attribute) != value
    ]


def generate(session: Session, cka_id: bytes, label: str) -> None:
    """
    Generate a key pair with this ``CKA_ID``; *session* must be read-write.

    Raises:
        KeyUnusableError: The token did not honour the template.  The pair is gone.
    """
    parameters = session.create_domain_parameters(
        KeyType.EC, {Attribute.EC_PARAMS: SECP256K1}, local=True
    )
    pair = parameters.generate_keypair(
        id=cka_id,
        label=label,
        store=True,
        capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
        mechanism=Mechanism.EC_KEY_PAIR_GEN,
        public_template=PUBLIC_TEMPLATE,
        private_template=PRIVATE_TEMPLATE,
    )
    lacking = differing(pair[1], REQUIRED | DESIRED)
    if lacking:
        destroy(pair)
        raise KeyUnusableError(f"the token ignored attributes: {', '.join(lacking)}")


def destroy(objects: Iterable[Object]) -> None:
    """Destroy *objects* for good."""
    for each in objects:
        each.destroy()


def _only(keys: list[Object], kind: str) -> Object:
    if not keys:
        raise KeyNotFoundError(f"there is no {kind} key with this id")
    if len(keys) > 1:
        raise KeyNotFoundError(f"several {kind} keys have this id")
    return keys[0]
