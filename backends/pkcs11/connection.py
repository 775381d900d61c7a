"""One login to a token, and the sessions that sign with its keys."""

from collections.abc import Callable
from typing import TypeVar

from pkcs11 import Mechanism, Session, SignMixin, Token
from pkcs11.exceptions import PKCS11Error

from backends.pkcs11 import keys as pkcs11_keys
from backends.pkcs11.cryptoki import Library
from backends.pkcs11.errors import TokenLostError, translated
from signer.errors import BackendError, KeyNotFoundError
from signer.ports import KeyId


T = TypeVar("T")

RAW_SIZE = 64
"""r and s, 32 bytes each (PKCS#11 v2.40, section 2.3.1)."""


class Connection:
    """
    One login to a token, in one epoch of its module.

    Its sessions are never closed: they end with the epoch, and the process is
    logged out when the last one is closed.
    """

    def __init__(self, epoch: object, token: Token, session: Session) -> None:
        self.epoch = epoch
        self.token = token
        self.session = session
        self.keys: dict[KeyId, OpenKey] = {}
        self._is_lost = False

    def find(
        self, look: Callable[[Session, bytes], T], session: Session, cka_id: bytes
    ) -> T:
        """
        Return what *look* finds; a token that is gone has no keys, and says so.

        Raises:
            KeyNotFoundError: The token is there, and the key is not.
            PKCS11Error: The token is not.
        """
        try:
            return look(session, cka_id)
        except KeyNotFoundError:
            self.token.slot.get_token()
            raise

    def serves(self, library: Library) -> bool:
        """Say whether handles are valid; ask inside the library's gate."""
        return self.epoch is library.epoch and not self._is_lost

    def failed(self, error: PKCS11Error) -> BackendError:
        """Return our error for *error*, and remember if the token was lost."""
        ours = translated(error)
        if isinstance(ours, TokenLostError):
            self._is_lost = True
        return ours


class OpenKey:
    """
    One key of a connection, and the sessions that sign with it.

    A session does one thing at a time, so that every thread takes one of its own
    for a signature.  The last one returned is the first one taken: there are as
    many as ever signed at the same time, and no attribute is read on the way.
    """

    def __init__(self, connection: Connection, cka_id: bytes) -> None:
        self._connection = connection
        self._cka_id = cka_id
        session = connection.session
        self._idle = [connection.find(pkcs11_keys.private_key, session, cka_id)]
        self.spki = connection.find(pkcs11_keys.public_key, session, cka_id)

    def sign(self, digest: bytes) -> bytes:
        """Return r and s as the token gives them."""
        try:
            key = self._idle.pop()
        except IndexError:
            key = self._another()
        try:
            # Without a mechanism the library would choose one that hashes.
            return key.sign(digest, mechanism=Mechanism.ECDSA, buffer_size=RAW_SIZE)
        finally:
            self._idle.append(key)

    def _another(self) -> SignMixin:
        session = self._connection.token.open()
        return self._connection.find(pkcs11_keys.private_key, session, self._cka_id)
