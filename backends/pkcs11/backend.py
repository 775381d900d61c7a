"""
Signs with keys in a PKCS#11 token, of SoftHSM or another module.

``cryptoki`` owns the module, ``session`` logs in to a token, also again after it was
lost or the process was forked, and ``keys`` has the key attributes.
"""

import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import Attribute, Session

from backends.pkcs11 import keys as pkcs11_keys
from backends.pkcs11.session import RAW_SIZE, OpenKey, TokenLogin, TokenSession
from signer.crypto.secp256k1 import DIGEST_SIZE
from signer.errors import (
    BackendError,
    EncodingError,
    InvalidInputError,
    KeyNotFoundError,
    KeyUnusableError,
)
from signer.ports.key_backend import DeviceSignature, KeyId


T = TypeVar("T")

_CKA_ID = re.compile(r"([0-9a-f]{2}){1,32}")


class PKCS11Backend:
    """
    Signs with the secp256k1 keys in a token.

    ``signer/ports/key_backend.py`` documents the methods; key ids are a ``CKA_ID`` in
    hex.  The module is loaded at the first call.  Threads share an instance, and a
    forked child may use it: the child loads the module and logs in again.  There is one
    login per process.  A rejected PIN is never tried again, because tokens lock after a
    few wrong PINs; restart the process to try another PIN.
    """

    name = "pkcs11"
    # SoftHSM signs on this host's CPU; more threads do not help.
    concurrency = 2

    def __init__(
        self,
        module: Path,
        token_label: str,
        pin: Callable[[], str],
        *,
        is_production: bool = False,
    ) -> None:
        """
        Store the options; *pin* is called when the token is opened.

        With *is_production*, a key must be as ``proof`` demands; otherwise the methods
        raise ``KeyNotProtectedError``.
        """
        self._is_production = is_production
        self._session = TokenSession(os.path.realpath(module), token_label, pin)
        self._pinned: dict[KeyId, bytes] = {}

    def resolve(self, name: str) -> KeyId:
        key_id = KeyId(name.lower())
        if not _CKA_ID.fullmatch(key_id):
            raise InvalidInputError("must be a CKA_ID in hex", field="key_id")
        self.public_key(key_id)
        return key_id

    def public_key(self, key_id: KeyId) -> bytes:
        """Return the DER ``SubjectPublicKeyInfo`` of *key_id*."""
        return self._session.call(lambda connection: self._key(connection, key_id).spki)

    def sign_digest(self, key_id: KeyId, digest: bytes) -> DeviceSignature:
        # python-pkcs11 accepts a string and signs its UTF-8 bytes; tokens sign any
        # length.
        if not isinstance(digest, bytes) or len(digest) != DIGEST_SIZE:
            raise InvalidInputError("must be 32 bytes", field="digest")
        raw = self._session.call(
            lambda connection: self._key(connection, key_id).sign(digest)
        )
        if len(raw) != RAW_SIZE:
            raise EncodingError("the token's signature is not 64 bytes")
        r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
        return DeviceSignature(encode_dss_signature(r, s))

    def generate(self, label: str, key_id: KeyId | None = None) -> KeyId:
        """
        Generate a non-extractable key, and return its id.

        *key_id* is random if None.  Labels are unique, so that an operator can
        distinguish the keys.  There are no retries.

        Raises:
            BackendError: The label or the id is in use, or the token refused.
        """
        new_id = KeyId(secrets.token_hex(16)) if key_id is None else key_id
        cka_id = _cka_id(new_id)

        def make(session: Session) -> None:
            if list(session.get_objects({Attribute.LABEL: label})):
                raise BackendError("a key with this label already exists")
            if list(session.get_objects({Attribute.ID: cka_id})):
                raise BackendError("a key with this id already exists")
            pkcs11_keys.generate(session, cka_id, label)

        self.provision(make)
        return new_id

    def provision(self, work: Callable[[Session], T]) -> T:
        """Call *work* with a read-write session and return its result; never retry."""

        def request(connection: TokenLogin) -> T:
            # Without a PIN: on closing a session that was opened with one,
            # python-pkcs11 logs the process out.
            with connection.token.open(rw=True) as session:
                return work(session)

        return self._session.call_once(request)

    def _key(self, connection: TokenLogin, key_id: KeyId) -> OpenKey:
        key = connection.keys.get(key_id)
        if key is None:
            key = OpenKey(connection, _cka_id(key_id))
            if self._is_production:
                key.require_protected()
            if self._pinned.setdefault(key_id, key.spki) != key.spki:
                raise KeyUnusableError("the key id now has another key than before")
            # Racing threads find the same key; the first instance is kept.
            key = connection.keys.setdefault(key_id, key)
        return key


def _cka_id(key_id: KeyId) -> bytes:
    try:
        return bytes.fromhex(key_id)
    except ValueError:
        raise KeyNotFoundError("a PKCS#11 key id must be a CKA_ID in hex") from None
