"""
Signs with a key in a PKCS#11 token: SoftHSM, or any other module.

``cryptoki`` owns the module, ``connection`` is one login to a token, and
``keys`` knows what a key looks like.  This file makes connections: on first
use, and again when the token went away or the process was forked.
"""

import os
import random
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pkcs11 import Attribute, Session, Token
from pkcs11.exceptions import PKCS11Error, UserAlreadyLoggedIn

from backends.pkcs11 import keys as pkcs11_keys
from backends.pkcs11.connection import RAW_SIZE, Connection, OpenKey
from backends.pkcs11.cryptoki import Library
from backends.pkcs11.errors import TokenLostError, translated
from signer.crypto.der import encode_signature
from signer.crypto.secp256k1 import DIGEST_SIZE
from signer.errors import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    EncodingError,
    InvalidInputError,
    KeyNotFoundError,
    KeyUnusableError,
)
from signer.ports import DeviceSignature, KeyId


T = TypeVar("T")

_CKA_ID = re.compile(r"([0-9a-f]{2}){1,32}")

_PAUSES = (0.02, 0.02, 0.04, 0.08, 0.16, 0.32)
"""Seconds between the attempts to open a token, twice as much at most.

A SoftHSM token cannot be opened at the instant at which another process logs in to
it, makes or destroys an object (SoftHSMv2 #358, #573); a moment later it can.
Workers that were started together would meet again after equal pauses.
"""

_WARM_PAUSES = _PAUSES[:2]
"""After a fault, callers wait for the answer, and may ask again themselves."""


class PKCS11Backend:
    """
    Signs with secp256k1 keys that a token holds.

    Nothing is loaded before the first call.  Any number of threads may share one
    instance, and a forked child may go on using it: it opens everything afresh.
    The token is logged into once per process.  A PIN that was refused is never
    tried again, since devices lock after a few mistakes: restart to try another.
    """

    name = "pkcs11"

    def __init__(self, module: Path, token_label: str, pin: Callable[[], str]) -> None:
        """Remember where the token is; *pin* is asked when it is opened."""
        self._path = os.path.realpath(module)
        self._token_label = token_label
        self._pin = pin
        self._pin_refused = False
        self._connection: Connection | None = None
        self._pinned: dict[KeyId, bytes] = {}

    def resolve(self, name: str) -> KeyId:
        """
        Return *name*, a ``CKA_ID`` in hex, as it is pinned: in lower case.

        Raises:
            InvalidInputError: It is no ``CKA_ID`` in hex.
            KeyNotFoundError, KeyUnusableError, BackendError: As ``public_key``.
        """
        key_id = KeyId(name.lower())
        if not _CKA_ID.fullmatch(key_id):
            raise InvalidInputError("must be a CKA_ID in hex", field="key_id")
        self.public_key(key_id)
        return key_id

    def public_key(self, key_id: KeyId) -> bytes:
        """
        Return the DER ``SubjectPublicKeyInfo`` of *key_id*, a ``CKA_ID`` in hex.

        Raises:
            KeyNotFoundError: There is no such key, or several.
            KeyUnusableError: It must not be used, or is not the one that it was.
            EncodingError: The token's answer is not a point on secp256k1.
            BackendError: The token did not answer.
        """
        return self._answer(lambda connection: self._key(connection, key_id).spki)

    def sign_digest(self, key_id: KeyId, digest: bytes) -> DeviceSignature:
        """
        Return the DER ``ECDSA-Sig-Value`` over *digest*, signed as given.

        Raises:
            InvalidInputError: *digest* is not 32 bytes; tokens sign any length.
            EncodingError: The token's answer is not r and s of 32 bytes each.
            BackendError: As for ``public_key``.
        """
        # Of a string, python-pkcs11 would sign the UTF-8.
        if not isinstance(digest, bytes) or len(digest) != DIGEST_SIZE:
            raise InvalidInputError("a digest must be 32 bytes", field="digest")
        raw = self._answer(
            lambda connection: self._key(connection, key_id).sign(digest)
        )
        if len(raw) != RAW_SIZE:
            raise EncodingError("the token's signature is not 64 bytes")
        r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
        return DeviceSignature(encode_signature(r, s))

    def generate(self, label: str, key_id: KeyId | None = None) -> KeyId:
        """
        Make a key that can never leave the token, and return its id.

        *key_id* is random unless given.  Two keys may not share a label, or an
        operator could not tell them apart.  Nothing is retried.

        Raises:
            BackendError: The label or the id is taken, or the token refused.
        """
        new_id = KeyId(secrets.token_hex(16)) if key_id is None else key_id
        cka_id = _cka_id(new_id)

        def make(session: Session) -> None:
            if list(session.get_objects({Attribute.LABEL: label})):
                raise BackendError("a key with this label exists already")
            if list(session.get_objects({Attribute.ID: cka_id})):
                raise BackendError("a key with this id exists already")
            pkcs11_keys.generate(session, cka_id, label)

        self.provision(make)
        return new_id

    def provision(self, work: Callable[[Session], T]) -> T:
        """
        Return what *work* does in a read-write session.  Nothing is retried.

        Raises:
            BackendError: The token did not answer, or refused.
        """

        def ask(connection: Connection) -> T:
            # python-pkcs11 logs the process out when it closes a session that
            # was opened with a PIN.  This one was not.
            with connection.token.open(rw=True) as session:
                return work(session)

        return self._ask_once(ask)

    def _answer(self, ask: Callable[[Connection], T]) -> T:
        """Ask; if the token was lost, connect again and ask once more."""
        try:
            return self._ask_once(ask)
        except TokenLostError:
            return self._ask_once(ask)

    def _ask_once(self, ask: Callable[[Connection], T]) -> T:
        library = Library.of(self._path)
        failures = library.failures
        while True:
            with library.gate:
                connection = self._connection
                if connection is not None and connection.serves(library):
                    try:
                        return ask(connection)
                    except PKCS11Error as e:
                        raise connection.failed(e) from e
            self._connect(library, failures)

    def _key(self, connection: Connection, key_id: KeyId) -> OpenKey:
        key = connection.keys.get(key_id)
        if key is None:
            key = OpenKey(connection, _cka_id(key_id))
            if self._pinned.setdefault(key_id, key.spki) != key.spki:
                raise KeyUnusableError("the key with this id is not the one it was")
            # Threads that race find the same key; the first one's is kept.
            key = connection.keys.setdefault(key_id, key)
        return key

    def _connect(self, library: Library, failures: int) -> None:
        """
        Connect, unless another thread did, or failed to, since this call began.

        Raises:
            AccessDeniedError: The PIN is wrong, now or earlier.
            BackendError: The token cannot be opened.
        """
        self._give_up_early(library, failures)
        with library.gate.alone():
            if self._connection is not None and self._connection.serves(library):
                return
            self._give_up_early(library, failures)
            try:
                self._connection = self._opened(library)
            except BackendError:
                library.failures += 1
                raise

    def _give_up_early(self, library: Library, failures: int) -> None:
        if self._pin_refused:
            raise AccessDeniedError("the token did not accept the PIN")
        if library.failures != failures:
            # A crowd that waits for a dead token hears of it all at once.
            raise BackendUnavailableError("the token cannot be opened")

    def _opened(self, library: Library) -> Connection:
        before = self._connection
        if before is not None and before.epoch is library.epoch:
            library.finalize()  # It was lost, and handles do not come back.
        elif library.epoch is not None:
            return self._logged_in(library)  # Another backend keeps it up.
        for pause in _WARM_PAUSES if library.epochs else _PAUSES:
            with suppress(BackendUnavailableError):
                return self._started(library)
            time.sleep(random.uniform(pause, 2 * pause))  # noqa: S311  No secret.
        return self._started(library)

    def _started(self, library: Library) -> Connection:
        try:
            library.initialize()
            return self._logged_in(library)
        except PKCS11Error as e:
            raise BackendUnavailableError("the token does not start") from e
        except BackendError:
            # It saw the tokens that there are when it was initialised, and no later.
            library.finalize()
            raise

    def _logged_in(self, library: Library) -> Connection:
        try:
            token = library.token(self._token_label)
            return Connection(library.epoch, token, self._login(token))
        except PKCS11Error as e:
            error = translated(e)
            if isinstance(error, TokenLostError):
                raise BackendUnavailableError("the token cannot be opened") from e
            self._pin_refused = isinstance(error, AccessDeniedError)
            raise error from e

    def _login(self, token: Token) -> Session:
        try:
            pin = self._pin()
            pin.encode()
        except (OSError, UnicodeError):
            # The latter would quote the PIN.
            raise AccessDeniedError("the PIN cannot be read") from None
        try:
            return token.open(user_pin=pin)
        except UserAlreadyLoggedIn:
            return token.open()


def _cka_id(key_id: KeyId) -> bytes:
    try:
        return bytes.fromhex(key_id)
    except ValueError:
        raise KeyNotFoundError("a PKCS#11 key id is a CKA_ID in hex") from None
