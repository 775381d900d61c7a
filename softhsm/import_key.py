"""
Moves a raw private key into the token, for those who still have one.

The key comes from standard input or a file, never from argv, which all users of
the machine may read.  What Python copies on the way cannot be wiped, so this is
for a process that ends right after; only buffers of our own are.
"""

import getpass
import os
import secrets
import sys
from binascii import unhexlify
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Protocol

import coincurve
from asn1crypto.core import OctetString
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, Session, SignMixin
from pkcs11.types import Object

from backends.pkcs11 import PKCS11Backend
from backends.pkcs11 import keys as pkcs11_keys
from signer.crypto.secp256k1 import N, PublicKey, recoverable
from signer.errors import BackendError, InvalidInputError, RecoveryError
from signer.ports import KeyId
from signer.private_files import is_private
from softhsm import keys


_SECRET_SIZE = 32
_ROOM = 1024


class Readable(Protocol):
    """A file without a buffer of its own."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill the start of *buffer*; return how much."""


def read_key(path: Path | None) -> bytearray:
    """
    Return the private key in the file at *path*, or from standard input.

    Raises:
        InvalidInputError: It is no key, or others may read the file.
    """
    if path is not None:
        with path.open("rb", buffering=0) as file:
            if not is_private(file.fileno()):
                raise InvalidInputError("others may read the key file: chmod 600 it")
            return read_secret(file)
    if sys.stdin.isatty():
        typed = getpass.getpass("Private key, in hex (it does not show): ")
        return read_secret(BytesIO(typed.encode()))
    with os.fdopen(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as file:
        return read_secret(file)


def read_secret(file: Readable) -> bytearray:
    """
    Return the 32 bytes that *file* has in hex, with or without ``0x``.

    Raises:
        InvalidInputError: They are no private key; the message does not quote them.
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
        raise InvalidInputError("a private key is 64 hex digits, and less than n")
    return secret


def wipe(buffer: bytearray) -> None:
    """Overwrite *buffer*."""
    buffer[:] = bytes(len(buffer))


def import_key(
    backend: PKCS11Backend, key_id: KeyId, label: str, secret: bytearray
) -> str:
    """
    Put *secret* into the token, wipe it, and return its address.

    Importing a key again changes nothing, and completes what was interrupted.

    Raises:
        BackendError: Another key has the id or the label, or the token refused.
        RecoveryError: The token does not sign with the key.
    """
    try:
        public_key = _public_key(secret)
        backend.provision(
            lambda session: _complete(session, key_id, label, secret, public_key)
        )
    finally:
        wipe(secret)
    return keys.prove(backend, key_id)


def _public_key(secret: bytearray) -> PublicKey:
    key = coincurve.PrivateKey(bytes(secret)).public_key
    return PublicKey(key.format(compressed=False))


def _complete(
    session: Session,
    key_id: KeyId,
    label: str,
    secret: bytearray,
    public_key: PublicKey,
) -> None:
    """
    Create those halves of the pair that are not there.

    The private half comes first: on its own it stops ``init`` from making
    another key in its place, until the import is repeated.
    """
    cka_id = bytes.fromhex(key_id)
    common = {
        Attribute.KEY_TYPE: KeyType.EC,
        Attribute.EC_PARAMS: pkcs11_keys.SECP256K1,
        Attribute.ID: cka_id,
        Attribute.LABEL: label,
    }
    _refuse_namesake(session, cka_id, label)
    keys.sweep(session, cka_id)
    private = pkcs11_keys.find(session, ObjectClass.PRIVATE_KEY, cka_id)
    public = pkcs11_keys.find(session, ObjectClass.PUBLIC_KEY, cka_id)
    if not (
        all(_signs_as(key, public_key) for key in private)
        and all(_is_half_of(key, public_key) for key in public)
    ):
        raise BackendError("another key has this id; choose one with PKCS11_KEY_ID")
    if not private:
        session.create_object(
            {
                **pkcs11_keys.PRIVATE_TEMPLATE,
                **common,
                Attribute.CLASS: ObjectClass.PRIVATE_KEY,
                Attribute.VALUE: bytes(secret),
            }
        )
    if not public:
        session.create_object(
            {
                **pkcs11_keys.PUBLIC_TEMPLATE,
                **common,
                Attribute.CLASS: ObjectClass.PUBLIC_KEY,
                Attribute.EC_POINT: OctetString(public_key.uncompressed).dump(),
            }
        )


def _refuse_namesake(session: Session, cka_id: bytes, label: str) -> None:
    for other in session.get_objects({Attribute.LABEL: label}):
        if other[Attribute.ID] != cka_id:
            raise BackendError("another key has this label; choose one with --label")


def _signs_as(key: Object, public_key: PublicKey) -> bool:
    if not isinstance(key, SignMixin):
        return False
    digest = secrets.token_bytes(32)
    raw = key.sign(digest, mechanism=Mechanism.ECDSA)
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    with suppress(RecoveryError):
        recoverable(r, s, digest, public_key)
        return True
    return False


def _is_half_of(key: Object, public_key: PublicKey) -> bool:
    point = pkcs11_keys.unwrap_point(key[Attribute.EC_POINT])
    return point == public_key.uncompressed
