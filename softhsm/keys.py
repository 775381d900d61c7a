"""What is inside a token: list the keys, make one, prove that it signs."""

import secrets
from dataclasses import dataclass, field
from typing import Any

from pkcs11 import Attribute, ObjectClass, Session
from pkcs11.types import Object

from backends.pkcs11 import PKCS11Backend
from backends.pkcs11 import keys as pkcs11_keys
from signer.crypto.der import parse_public_key, parse_signature
from signer.crypto.secp256k1 import recoverable
from signer.errors import HotWalletError, KeyUnusableError
from signer.ports import KeyId


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """
    One key as the token shows it.

    ``address`` is None for what is not half of a secp256k1 pair.
    """

    key_id: str = field(repr=False)
    label: str
    address: str | None
    attributes: dict[str, bool]


def ensure(backend: PKCS11Backend, key_id: KeyId, label: str) -> None:
    """
    Generate the key *key_id*, unless it is there.

    Raises:
        KeyUnusableError: Only the private half is there: an import was interrupted.
        BackendError: The token refused.
    """
    cka_id = bytes.fromhex(key_id)

    def is_there(session: Session) -> bool:
        sweep(session, cka_id)
        private = pkcs11_keys.find(session, ObjectClass.PRIVATE_KEY, cka_id)
        public = pkcs11_keys.find(session, ObjectClass.PUBLIC_KEY, cka_id)
        if private and not public:
            raise KeyUnusableError("the key is there in part: repeat its import")
        if not private:
            # The token writes the public half first, and was interrupted.
            pkcs11_keys.destroy(public)
        return bool(private)

    if not backend.provision(is_there):
        backend.generate(label, key_id)


def sweep(session: Session, cka_id: bytes) -> None:
    """
    Destroy what never became a key.

    SoftHSM stores a new key first without its curve and its value, and then with
    them.  A process that is killed in between leaves an object that cannot sign,
    and never could.
    """
    for key in pkcs11_keys.find(session, ObjectClass.PRIVATE_KEY, cka_id):
        if key.get_attributes([Attribute.EC_PARAMS]).get(Attribute.EC_PARAMS) == b"":
            key.destroy()


def prove(backend: PKCS11Backend, key_id: KeyId) -> str:
    """
    Return the key's address, after a signature that recovers to it.

    Raises:
        RecoveryError: The two halves do not belong together.
        BackendError: The token does not sign.
    """
    public_key = parse_public_key(backend.public_key(key_id))
    digest = secrets.token_bytes(32)
    r, s = parse_signature(backend.sign_digest(key_id, digest).der)
    recoverable(r, s, digest, public_key)
    return public_key.address


def listed(backend: PKCS11Backend) -> list[KeyInfo]:
    """Return every private key of the token, whether we could use it or not."""

    def look(session: Session) -> list[KeyInfo]:
        keys = list(session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}))
        return sorted((_info(session, key) for key in keys), key=lambda k: k.key_id)

    return backend.provision(look)


def _info(session: Session, key: Object) -> KeyInfo:
    named = key.get_attributes([Attribute.ID, Attribute.LABEL])
    cka_id = named.get(Attribute.ID, b"")
    flags = [
        attribute
        for attribute, value in (pkcs11_keys.REQUIRED | pkcs11_keys.DESIRED).items()
        if isinstance(value, bool)
    ]
    return KeyInfo(
        key_id=cka_id.hex(),
        label=named.get(Attribute.LABEL, ""),
        address=_address(session, cka_id),
        attributes={
            attribute.name.lower(): bool(value)
            for attribute, value in _known(key, flags).items()
        },
    )


def _known(key: Object, attributes: list[Attribute]) -> dict[Attribute, Any]:
    found = key.get_attributes(attributes)
    return {Attribute(attribute): value for attribute, value in found.items()}


def _address(session: Session, cka_id: bytes) -> str | None:
    try:
        return parse_public_key(pkcs11_keys.public_key(session, cka_id)).address
    except HotWalletError:
        return None
