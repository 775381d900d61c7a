"""
Signs with keys in a PKCS#11 token, of SoftHSM or another module.

``functions`` calls the module, which ``cryptoki`` owns.  ``session`` logs in to a
token, also again after it was lost or the process was forked, and ``keys`` has the key
attributes.
"""

import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pkcs11 import Attribute
from pkcs11.types import Object

from backends.pkcs11 import keys as pkcs11_keys
from backends.pkcs11.failed_logins import FailedLogins
from backends.pkcs11.functions import Session
from backends.pkcs11.proof import Examined
from backends.pkcs11.session import TokenLogin, TokenSession
from signer.crypto.der import (
    encode_signature,
    parse_public_key,
    parse_signature,
)
from signer.crypto.secp256k1 import DIGEST_SIZE, recoverable
from signer.errors import (
    BackendError,
    EncodingError,
    InvalidInputError,
    KeyNotFoundError,
    KeyUnusableError,
    SigningError,
)
from signer.ports.key_backend import DeviceSignature, KeyId


T = TypeVar("T")

CALL_SECONDS = 9.0
"""How long a call may take, with a new login and a second attempt."""

_RAW_SIZE = 64

Encoding = Callable[[bytes], bytes]
"""Returns what a device returned in DER."""

_CKA_ID = re.compile(r"([0-9a-f]{2}){1,32}")


class PKCS11Backend:
    """
    Signs with the secp256k1 keys in a token.

    ``signer/ports/key_backend.py`` documents the methods; key ids are a ``CKA_ID`` in
    hex.  The module is loaded at the first call.  Threads share an instance, and a
    forked child may use it: the child loads the module and logs in again.  There is one
    login per process.  A rejected PIN is never tried again, because tokens lock after a
    few wrong PINs; forks of the process know of it too.
    """

    name = "pkcs11"

    def __init__(
        self,
        module: Path,
        token: str,
        pin: Callable[[], str],
        *,
        is_production: bool = False,
        seconds: float = CALL_SECONDS,
        failed: FailedLogins | None = None,
    ) -> None:
        """
        Store the options; *pin* is called when the token is opened.

        *token* is a label or a ``pkcs11:`` URI.  With *is_production*, a key must be as
        ``proof`` demands; otherwise the methods raise ``KeyNotProtectedError``.  A call
        ends after *seconds*.  What *failed* before is not tried again, or not soon.
        """
        self._is_production = is_production
        self._session = TokenSession(
            os.path.realpath(module),
            token,
            pin,
            failed,
        )
        self._seconds = seconds
        self._pinned: dict[KeyId, bytes] = {}
        self._encodings: dict[KeyId, Encoding] = {}

    @property
    def concurrency(self) -> int:
        return self._session.threads

    def resolve(self, name: str) -> KeyId:
        key_id = KeyId(name.lower())
        if not _CKA_ID.fullmatch(key_id):
            raise InvalidInputError("must be a CKA_ID in hex", field="key_id")
        self.public_key(key_id)
        return key_id

    def public_key(self, key_id: KeyId) -> bytes:
        def read(connection: TokenLogin) -> bytes:
            with connection.session() as session:
                return self._open_key(connection, session, key_id)[1]

        return self._session.call(read, self._seconds)

    def sign_digest(self, key_id: KeyId, digest: bytes) -> DeviceSignature:
        # Tokens sign any length.
        if not isinstance(digest, bytes) or len(digest) != DIGEST_SIZE:
            raise InvalidInputError("must be 32 bytes", field="digest")

        attempts = 0

        def sign(connection: TokenLogin) -> tuple[bytes, bytes]:
            nonlocal attempts
            with connection.session() as session:
                key, spki = self._open_key(connection, session, key_id)
                attempts += 1
                return session.sign(key, digest), spki

        answer, spki = self._session.call(sign, self._seconds)
        encoding = self._encodings.get(key_id)
        if encoding is None:
            der = self._learn_encoding(key_id, answer, digest, spki)
        else:
            der = encoding(answer)
        return DeviceSignature(der, attempts=attempts)

    def examine(self, key_id: KeyId) -> Examined:
        """Return what the device says of itself and of *key_id*."""

        def read(connection: TokenLogin) -> Examined:
            with connection.session() as session:
                key, _ = self._open_key(connection, session, key_id)
                return connection.examine(session, key)

        return self._session.call(read, self._seconds)

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
            if session.find({Attribute.LABEL: label}):
                raise BackendError("a key with this label already exists")
            if session.find({Attribute.ID: cka_id}):
                raise BackendError("a key with this id already exists")
            pkcs11_keys.generate(session, cka_id, label)

        self.provision(make)
        return new_id

    def provision(self, work: Callable[[Session], T]) -> T:
        """Call *work* with a read-write session and return its result; never retry."""

        def request(connection: TokenLogin) -> T:
            with connection.read_write() as session:
                return work(session)

        return self._session.call_once(request)

    def _open_key(
        self, connection: TokenLogin, session: Session, key_id: KeyId
    ) -> tuple[Object, bytes]:
        """Return the private key in *session* and its public key, found once each."""
        cka_id = _cka_id(key_id)
        key = session.keys.get(cka_id)
        if key is None:
            key = connection.find(pkcs11_keys.private_key, session, cka_id)
            if self._is_production:
                connection.require_protected(session, key)
        spki = connection.keys.get(key_id)
        if spki is None:
            spki = connection.find(pkcs11_keys.public_key, session, cka_id)
            if self._pinned.setdefault(key_id, spki) != spki:
                raise KeyUnusableError("the key id now has another key than before")
            connection.keys[key_id] = spki
        session.keys[cka_id] = key
        return key, spki

    def _learn_encoding(
        self, key_id: KeyId, answer: bytes, digest: bytes, spki: bytes
    ) -> bytes:
        """
        Return *answer* in DER, and remember the encoding in which it verifies.

        That is the device's for good: 64 bytes may be DER too.  The first signature is
        the self-test at start-up.  One that verifies in neither encoding is refused by
        the core.
        """
        public_key, found = parse_public_key(spki), list(_readings(answer))
        for encoding, der in found:
            with suppress(SigningError):
                recoverable(*parse_signature(der), digest, public_key)
                return self._encodings.setdefault(key_id, encoding)(answer)
        if not found:
            raise EncodingError("the signature is neither r and s of 32 bytes nor DER")
        return found[0][1]


def _readings(answer: bytes) -> Iterator[tuple[Encoding, bytes]]:
    for encoding in (_from_raw, _from_der):
        with suppress(EncodingError):
            yield encoding, encoding(answer)


def _from_raw(answer: bytes) -> bytes:
    """Return r and s, 32 bytes each, in DER (PKCS#11 v3.1, section 6.3.1)."""
    if len(answer) != _RAW_SIZE:
        raise EncodingError("the token's signature is not 64 bytes")
    return encode_signature(
        int.from_bytes(answer[:32], "big"), int.from_bytes(answer[32:], "big")
    )


def _from_der(answer: bytes) -> bytes:
    parse_signature(answer)
    return answer


def _cka_id(key_id: KeyId) -> bytes:
    try:
        return bytes.fromhex(key_id)
    except ValueError:
        raise KeyNotFoundError("a PKCS#11 key id must be a CKA_ID in hex") from None
