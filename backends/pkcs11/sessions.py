"""One login to a token, and its signing sessions."""

from collections.abc import Callable
from typing import TypeVar

from pkcs11 import Mechanism, Session, SignMixin, Token
from pkcs11.exceptions import PKCS11Error

from backends.pkcs11 import keys as pkcs11_keys
from backends.pkcs11.cryptoki import Library
from backends.pkcs11.errors import TokenLostError, map_error
from signer.errors import BackendError, KeyNotFoundError
from signer.ports.key_backend import KeyId


T = TypeVar("T")

RAW_SIZE = 64
"""r and s, 32 bytes each (PKCS#11 v2.40, section 2.3.1)."""


class TokenLogin:
    """
    One login to a token, in one epoch of its module.

    Its sessions stay open until the epoch ends, because closing the last one would log
    the process out.
    """

    def __init__(self, epoch: object, token: Token, session: Session) -> None:
        self.epoch = epoch
        self.token = token
        self.session = session
        self.keys: dict[KeyId, OpenKey] = {}
        self._is_lost = False

    def find(
        self, find: Callable[[Session, bytes], T], session: Session, cka_id: bytes
    ) -> T:
        """
        Return the result of *find*; check the token if the key is not found.

        Raises:
            KeyNotFoundError: The token is present, but the key is not.
            PKCS11Error: The token is gone.
        """
        try:
            return find(session, cka_id)
        except KeyNotFoundError:
            self.token.slot.get_token()
            raise

    def serves(self, library: Library) -> bool:
        """Return whether handles are valid; the caller holds the library's lock."""
        return self.epoch is library.epoch and not self._is_lost

    def map_error(self, error: PKCS11Error) -> BackendError:
        """Return our error for *error*, and record whether the token was lost."""
        mapped = map_error(error)
        if isinstance(mapped, TokenLostError):
            self._is_lost = True
        return mapped


class OpenKey:
    """
    One key of a connection, with a pool of signing sessions.

    A session serves one call at a time, so each thread takes one for a signature.  The
    pool is last in, first out and grows to the largest number of concurrent signatures.
    Signing reads no attributes.
    """

    def __init__(self, connection: TokenLogin, cka_id: bytes) -> None:
        self._connection = connection
        self._cka_id = cka_id
        session = connection.session
        self._idle = [connection.find(pkcs11_keys.private_key, session, cka_id)]
        self.spki = connection.find(pkcs11_keys.public_key, session, cka_id)

    def sign(self, digest: bytes) -> bytes:
        try:
            key = self._idle.pop()
        except IndexError:
            key = self._open_session()
        try:
            # Without a mechanism python-pkcs11 would choose one that hashes.
            return key.sign(digest, mechanism=Mechanism.ECDSA, buffer_size=RAW_SIZE)
        finally:
            self._idle.append(key)

    def _open_session(self) -> SignMixin:
        session = self._connection.token.open()
        return self._connection.find(pkcs11_keys.private_key, session, self._cka_id)
