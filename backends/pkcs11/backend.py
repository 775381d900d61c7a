"""
Signs with keys in a PKCS#11 token, of SoftHSM or another module.

``cryptoki`` owns the module, ``connection`` is one login to a token, and ``keys`` has
the key attributes.  This file connects: on first use, and again after the token was
lost or the process was forked.
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

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import Attribute, Session, Token
from pkcs11.exceptions import PKCS11Error, UserAlreadyLoggedIn

from backends.pkcs11 import keys as pkcs11_keys
from backends.pkcs11.cryptoki import Library
from backends.pkcs11.errors import TokenLostError, map_error
from backends.pkcs11.sessions import RAW_SIZE, OpenKey, TokenLogin
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
from signer.ports.key_backend import DeviceSignature, KeyId


T = TypeVar("T")

_CKA_ID = re.compile(r"([0-9a-f]{2}){1,32}")

_PAUSES = (0.02, 0.02, 0.04, 0.08, 0.16, 0.32)
"""Shortest pauses in seconds between attempts to open a token; at most doubled.

A SoftHSM token cannot be opened at the moment when another process logs in to it, or
creates or destroys an object (SoftHSMv2 #358, #573).  The pauses are random, because
workers that start together would otherwise collide again.
"""

_RECONNECT_PAUSES = _PAUSES[:2]
"""Fewer attempts after a fault: requests are waiting, and may be retried."""


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

    def __init__(self, module: Path, token_label: str, pin: Callable[[], str]) -> None:
        """Store the options; *pin* is called when the token is opened."""
        self._path = os.path.realpath(module)
        self._token_label = token_label
        self._pin = pin
        self._pin_refused = False
        self._connection: TokenLogin | None = None
        self._pinned: dict[KeyId, bytes] = {}

    def resolve(self, name: str) -> KeyId:
        key_id = KeyId(name.lower())
        if not _CKA_ID.fullmatch(key_id):
            raise InvalidInputError("must be a CKA_ID in hex", field="key_id")
        self.public_key(key_id)
        return key_id

    def public_key(self, key_id: KeyId) -> bytes:
        """
        Return the DER ``SubjectPublicKeyInfo`` of *key_id*.

        Raises:
            KeyNotFoundError: There is no such key, or more than one.
            KeyUnusableError: Its attributes are wrong, or the id now has another key.
            EncodingError: The public key is not a point on secp256k1.
            BackendError: The token did not respond.
        """
        return self._call(lambda connection: self._key(connection, key_id).spki)

    def sign_digest(self, key_id: KeyId, digest: bytes) -> DeviceSignature:
        # python-pkcs11 accepts a string and signs its UTF-8 bytes; tokens sign any
        # length.
        if not isinstance(digest, bytes) or len(digest) != DIGEST_SIZE:
            raise InvalidInputError("must be 32 bytes", field="digest")
        raw = self._call(lambda connection: self._key(connection, key_id).sign(digest))
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
        """
        Call *work* with a read-write session and return its result; never retry.

        Raises:
            BackendError: The token did not respond, or refused.
        """

        def request(connection: TokenLogin) -> T:
            # Without a PIN: on closing a session that was opened with one,
            # python-pkcs11 logs the process out.
            with connection.token.open(rw=True) as session:
                return work(session)

        return self._call_once(request)

    def _call(self, request: Callable[[TokenLogin], T]) -> T:
        """Call *request*; if the token was lost, reconnect and call it once more."""
        try:
            return self._call_once(request)
        except TokenLostError:
            return self._call_once(request)

    def _call_once(self, request: Callable[[TokenLogin], T]) -> T:
        library = Library.of(self._path)
        failures = library.failures
        while True:
            with library.lock:
                connection = self._connection
                if connection is not None and connection.serves(library):
                    try:
                        return request(connection)
                    except PKCS11Error as e:
                        raise connection.map_error(e) from e
            self._connect(library, failures)

    def _key(self, connection: TokenLogin, key_id: KeyId) -> OpenKey:
        key = connection.keys.get(key_id)
        if key is None:
            key = OpenKey(connection, _cka_id(key_id))
            if self._pinned.setdefault(key_id, key.spki) != key.spki:
                raise KeyUnusableError("the key id now has another key than before")
            # Racing threads find the same key; the first instance is kept.
            key = connection.keys.setdefault(key_id, key)
        return key

    def _connect(self, library: Library, failures: int) -> None:
        """
        Connect, unless another thread has connected or failed since this call began.

        Raises:
            AccessDeniedError: The token rejected the PIN, now or earlier.
            BackendError: The token cannot be opened.
        """
        self._raise_known_failure(library, failures)
        with library.lock.exclusive():
            if self._connection is not None and self._connection.serves(library):
                return
            self._raise_known_failure(library, failures)
            try:
                self._connection = self._open(library)
            except BackendError:
                library.failures += 1
                raise

    def _raise_known_failure(self, library: Library, failures: int) -> None:
        if self._pin_refused:
            raise AccessDeniedError(
                "the token does not accept the PIN: correct it and restart"
            )
        if library.failures != failures:
            # All threads that wait for a lost token fail with the first one.
            raise BackendUnavailableError("the token cannot be opened")

    def _open(self, library: Library) -> TokenLogin:
        previous = self._connection
        if previous is not None and previous.epoch is library.epoch:
            library.finalize()  # The token was lost, and its handles stay invalid.
        elif library.epoch is not None:
            return self._log_in(library)  # Another instance initialized the module.
        for pause in _RECONNECT_PAUSES if library.epochs else _PAUSES:
            with suppress(BackendUnavailableError):
                return self._start(library)
            time.sleep(random.uniform(pause, 2 * pause))  # noqa: S311  Not a secret.
        return self._start(library)

    def _start(self, library: Library) -> TokenLogin:
        try:
            library.initialize()
            return self._log_in(library)
        except PKCS11Error as e:
            raise BackendUnavailableError(
                "the PKCS#11 module does not initialize"
            ) from e
        except BackendError:
            # A module may see only tokens that existed when it was initialized.
            library.finalize()
            raise

    def _log_in(self, library: Library) -> TokenLogin:
        try:
            token = library.token(self._token_label)
            return TokenLogin(library.epoch, token, self._login(token))
        except PKCS11Error as e:
            error = map_error(e)
            if isinstance(error, TokenLostError):
                raise BackendUnavailableError("the token cannot be opened") from e
            self._pin_refused = isinstance(error, AccessDeniedError)
            raise error from e

    def _login(self, token: Token) -> Session:
        try:
            pin = self._pin()
            pin.encode()
        except (OSError, UnicodeError):
            # UnicodeError would quote the PIN.
            raise AccessDeniedError("the PIN cannot be read from its source") from None
        try:
            return token.open(user_pin=pin)
        except UserAlreadyLoggedIn:
            return token.open()


def _cka_id(key_id: KeyId) -> bytes:
    try:
        return bytes.fromhex(key_id)
    except ValueError:
        raise KeyNotFoundError("a PKCS#11 key id must be a CKA_ID in hex") from None
