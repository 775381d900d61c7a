"""
The keys in a token: list, generate, import and test them.

A raw private key is read from standard input or a file, never from argv, which every
user of the machine can read.  Our own buffers are wiped; copies that Python makes
cannot be, so the process should end right after the import.
"""

import getpass
import os
import secrets
import sys
import time
from binascii import unhexlify
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO, FileIO
from pathlib import Path

from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11.types import Object

from backends.pkcs11 import PKCS11Backend
from backends.pkcs11 import keys as pkcs11_keys
from backends.pkcs11.functions import Session, Template
from signer.crypto.der import parse_public_key, parse_signature
from signer.crypto.secp256k1 import N, PublicKey, public_key_of, recoverable
from signer.errors import (
    BackendError,
    HotWalletError,
    InvalidInputError,
    KeyUnusableError,
    RecoveryError,
)
from signer.ports.key_backend import KeyId
from signer.private_files import is_private


_PAUSE_SECONDS = 0.2  # SoftHSM creates a key in some milliseconds.

_SECRET_SIZE = 32
_ROOM = 1024


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """One private key of the token; its address is None if it is not on secp256k1."""

    key_id: str = field(repr=False)
    label: str
    address: str | None
    attributes: dict[str, bool]


def ensure_key(backend: PKCS11Backend, key_id: KeyId, label: str) -> None:
    """Generate the key *key_id* unless it exists."""
    cka_id = bytes.fromhex(key_id)

    def exists(session: Session) -> bool:
        destroy_incomplete(session, cka_id)
        private = pkcs11_keys.find(session, ObjectClass.PRIVATE_KEY, cka_id)
        public = pkcs11_keys.find(session, ObjectClass.PUBLIC_KEY, cka_id)
        if private and not public:
            raise KeyUnusableError("the key is imported in part: import it again")
        if not private:
            # SoftHSM writes the public half first: its process was killed after that.
            session.destroy(public)
        return bool(private)

    if not backend.provision(exists):
        backend.generate(label, key_id)


def destroy_incomplete(session: Session, cka_id: bytes) -> None:
    """
    Destroy private key objects that SoftHSM has not finished to create.

    SoftHSM stores a new key first without its id, then without its curve and value.  A
    process that is killed in between leaves an object that cannot sign.
    """
    session.destroy(_unfinished(session, cka_id))
    if nameless := _unfinished(session, b""):
        # Another process may be about to give it an id.
        time.sleep(_PAUSE_SECONDS)
        session.destroy(nameless & _unfinished(session, b""))


def _unfinished(session: Session, cka_id: bytes) -> set[Object]:
    """Return the private keys with this id that have no curve."""
    return {
        key
        for key in pkcs11_keys.find(session, ObjectClass.PRIVATE_KEY, cka_id)
        if session.read(key, [Attribute.EC_PARAMS]).get(Attribute.EC_PARAMS) == b""
    }


def self_test(backend: PKCS11Backend, key_id: KeyId) -> str:
    """Sign a random digest, and return the key's address."""
    public_key = parse_public_key(backend.public_key(key_id))
    digest = secrets.token_bytes(32)
    r, s = parse_signature(backend.sign_digest(key_id, digest).der)
    recoverable(r, s, digest, public_key)
    return public_key.address


def list_keys(backend: PKCS11Backend) -> list[KeyInfo]:
    """Return every private key of the token, including those of other curves."""

    def read(session: Session) -> list[KeyInfo]:
        keys = session.find({Attribute.CLASS: ObjectClass.PRIVATE_KEY})
        return sorted((_info(session, key) for key in keys), key=lambda k: k.key_id)

    return backend.provision(read)


def _info(session: Session, key: Object) -> KeyInfo:
    names = session.read(key, [Attribute.ID, Attribute.LABEL])
    cka_id = names.get(Attribute.ID, b"")
    flags = [
        attribute
        for attribute, value in (pkcs11_keys.REQUIRED | pkcs11_keys.DESIRED).items()
        if isinstance(value, bool)
    ]
    return KeyInfo(
        key_id=cka_id.hex(),
        label=names.get(Attribute.LABEL, b"").decode(errors="replace"),
        address=_address(session, cka_id),
        attributes={
            attribute.name.lower(): value == b"\x01"
            for attribute, value in session.read(key, flags).items()
        },
    )


def _address(session: Session, cka_id: bytes) -> str | None:
    try:
        return parse_public_key(pkcs11_keys.public_key(session, cka_id)).address
    except HotWalletError:
        return None


def read_key(path: Path | None) -> bytearray:
    """Return the 32-byte private key in the file at *path*, or from standard input."""
    if path is not None:
        with path.open("rb", buffering=0) as file:
            if not is_private(file.fileno()):
                raise InvalidInputError(
                    "other users may read the key file: chmod 600 it"
                )
            return read_secret(file)
    if sys.stdin.isatty():
        typed = getpass.getpass("Private key in hex (hidden): ")
        return read_secret(BytesIO(typed.encode()))
    with os.fdopen(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as file:
        return read_secret(file)


def read_secret(file: FileIO | BytesIO) -> bytearray:
    """
    Return the 32 bytes that the unbuffered *file* has in hex, with or without ``0x``.

    Raises:
        InvalidInputError: They are not a private key; the message does not quote them.
    """
    text = bytearray(_ROOM)
    with memoryview(text) as view:
        size = 0
        while size < _ROOM and (count := file.readinto(view[size:])):
            size += count
    digits = text[:size].strip().removeprefix(b"0x")
    try:
        secret = bytearray(unhexlify(digits))
    except ValueError:
        secret = bytearray()
    wipe(text)
    wipe(digits)
    if len(secret) != _SECRET_SIZE or not 0 < int.from_bytes(secret, "big") < N:
        wipe(secret)
        raise InvalidInputError(
            "a private key is 64 hex digits, and less than the order of secp256k1"
        )
    return secret


def wipe(buffer: bytearray) -> None:
    buffer[:] = bytes(len(buffer))


def import_key(
    backend: PKCS11Backend, key_id: KeyId, label: str, secret: bytearray
) -> str:
    """
    Import *secret* into the token, wipe it, and return its address.

    Importing a key again changes nothing, or completes an interrupted import.

    Raises:
        BackendError: Another key has the id or the label, or the token refuses.
        RecoveryError: The token's signature does not recover to the key.
    """
    try:
        public_key = public_key_of(bytes(secret))
        backend.provision(
            lambda session: _create_missing_halves(
                session, key_id, label, secret, public_key
            )
        )
    finally:
        wipe(secret)
    return self_test(backend, key_id)


def _create_missing_halves(
    session: Session,
    key_id: KeyId,
    label: str,
    secret: bytearray,
    public_key: PublicKey,
) -> None:
    """
    Create the halves of the key pair that do not exist.

    The private half is created first: ``init`` does not generate a key in its place,
    but asks to repeat the import.
    """
    cka_id = bytes.fromhex(key_id)
    common: Template = {
        Attribute.KEY_TYPE: KeyType.EC,
        Attribute.EC_PARAMS: pkcs11_keys.SECP256K1,
        Attribute.ID: cka_id,
        Attribute.LABEL: label,
    }
    _require_unused_label(session, cka_id, label)
    destroy_incomplete(session, cka_id)
    private = pkcs11_keys.find(session, ObjectClass.PRIVATE_KEY, cka_id)
    public = pkcs11_keys.find(session, ObjectClass.PUBLIC_KEY, cka_id)
    if not (
        all(_signs_as(session, key, public_key) for key in private)
        and all(_belongs_to(session, key, public_key) for key in public)
    ):
        raise BackendError("another key has this id; choose one with PKCS11_KEY_ID")
    if not private:
        session.create(
            {
                **pkcs11_keys.PRIVATE_TEMPLATE,
                **common,
                Attribute.CLASS: ObjectClass.PRIVATE_KEY,
                Attribute.VALUE: bytes(secret),
            }
        )
    if not public:
        session.create(
            {
                **pkcs11_keys.PUBLIC_TEMPLATE,
                **common,
                Attribute.CLASS: ObjectClass.PUBLIC_KEY,
                Attribute.EC_POINT: pkcs11_keys.wrap_point(public_key.uncompressed),
            }
        )


def _require_unused_label(session: Session, cka_id: bytes, label: str) -> None:
    for other in session.find({Attribute.LABEL: label}):
        if session.read(other, [Attribute.ID]).get(Attribute.ID) != cka_id:
            raise BackendError("another key has this label; choose one with --label")


def _signs_as(session: Session, key: Object, public_key: PublicKey) -> bool:
    if pkcs11_keys.find_mismatches(session, key, {Attribute.SIGN: True}):
        return False
    digest = secrets.token_bytes(32)
    raw = session.sign(key, digest)
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    with suppress(RecoveryError):
        recoverable(r, s, digest, public_key)
        return True
    return False


def _belongs_to(session: Session, key: Object, public_key: PublicKey) -> bool:
    known = session.read(key, [Attribute.EC_POINT])
    point = pkcs11_keys.unwrap_point(known.get(Attribute.EC_POINT, b""))
    return point == public_key.uncompressed
