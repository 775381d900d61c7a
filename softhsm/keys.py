"""The keys in a token: list them, generate one, and test that it signs."""

import secrets
from dataclasses import dataclass, field

from pkcs11 import Attribute, ObjectClass, Session
from pkcs11.types import Object

from backends.pkcs11 import PKCS11Backend
from backends.pkcs11 import keys as pkcs11_keys
from signer.crypto.der import parse_public_key, parse_signature
from signer.crypto.secp256k1 import recoverable
from signer.errors import HotWalletError, KeyUnusableError
from signer.ports.key_backend import KeyId


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """
    One private key of the token.

    ``address`` is None unless the key is half of a secp256k1 pair.
    """

    key_id: str = field(repr=False)
    label: str
    address: str | None
    attributes: dict[str, bool]


def ensure_key(backend: PKCS11Backend, key_id: KeyId, label: str) -> None:
    """
    Generate the key *key_id* unless it exists.

    Raises:
        KeyUnusableError: Only the private half exists: an import was interrupted.
        BackendError: The token refuses.
    """
    cka_id = bytes.fromhex(key_id)

    def exists(session: Session) -> bool:
        destroy_incomplete(session, cka_id)
        private = pkcs11_keys.find(session, ObjectClass.PRIVATE_KEY, cka_id)
        public = pkcs11_keys.find(session, ObjectClass.PUBLIC_KEY, cka_id)
        if private and not public:
            raise KeyUnusableError("the key is imported in part: import it again")
        if not private:
            # SoftHSM writes the public half first: its process was killed after that.
            pkcs11_keys.destroy(public)
        return bool(private)

    if not backend.provision(exists):
        backend.generate(label, key_id)


def destroy_incomplete(session: Session, cka_id: bytes) -> None:
    """
    Destroy private key objects that SoftHSM has not finished to create.

    SoftHSM stores a new key first without its curve and value, then adds them.  A
    process that is killed in between leaves an object that cannot sign.
    """
    for key in pkcs11_keys.find(session, ObjectClass.PRIVATE_KEY, cka_id):
        if key.get_attributes([Attribute.EC_PARAMS]).get(Attribute.EC_PARAMS) == b"":
            key.destroy()


def self_test(backend: PKCS11Backend, key_id: KeyId) -> str:
    """
    Sign a random digest, and return the key's address.

    Raises:
        RecoveryError: The signature does not recover to the public key: the halves
            belong to different keys.
        BackendError: The token does not sign.
    """
    public_key = parse_public_key(backend.public_key(key_id))
    digest = secrets.token_bytes(32)
    r, s = parse_signature(backend.sign_digest(key_id, digest).der)
    recoverable(r, s, digest, public_key)
    return public_key.address


def list_keys(backend: PKCS11Backend) -> list[KeyInfo]:
    """Return every private key of the token, including those of other curves."""

    def read(session: Session) -> list[KeyInfo]:
        keys = list(session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}))
        return sorted((_info(session, key) for key in keys), key=lambda k: k.key_id)

    return backend.provision(read)


def _info(session: Session, key: Object) -> KeyInfo:
    names = key.get_attributes([Attribute.ID, Attribute.LABEL])
    cka_id = names.get(Attribute.ID, b"")
    flags = [
        attribute
        for attribute, value in (pkcs11_keys.REQUIRED | pkcs11_keys.DESIRED).items()
        if isinstance(value, bool)
    ]
    return KeyInfo(
        key_id=cka_id.hex(),
        label=names.get(Attribute.LABEL, ""),
        address=_address(session, cka_id),
        attributes={
            Attribute(attribute).name.lower(): bool(value)
            for attribute, value in key.get_attributes(flags).items()
        },
    )


def _address(session: Session, cka_id: bytes) -> str | None:
    try:
        return parse_public_key(pkcs11_keys.public_key(session, cka_id)).address
    except HotWalletError:
        return None
