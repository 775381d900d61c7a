"""Logs in to a token, also again after it was lost, and keeps its signing sessions."""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from pkcs11 import Mechanism, Session, SignMixin, Token, exceptions
from pkcs11.exceptions import PKCS11Error, UserAlreadyLoggedIn

from backends.pkcs11 import keys as pkcs11_keys
from backends.pkcs11.cryptoki import Library
from backends.pkcs11.proof import find_weaknesses
from signer.errors import (
    AccessDeniedError,
    BackendError,
    BackendThrottledError,
    BackendUnavailableError,
    KeyNotFoundError,
    KeyNotProtectedError,
    KeyUnusableError,
)
from signer.ports.key_backend import KeyId


class TokenLostError(BackendUnavailableError):
    """
    The token is gone, or its sessions and handles are no longer valid.

    When its folder is gone, SoftHSM returns CKR_OBJECT_HANDLE_INVALID or
    CKR_GENERAL_ERROR, also after the folder is back, until it is initialized again.
    """


_DENIED: Final = (
    exceptions.PinExpired,
    exceptions.PinIncorrect,
    exceptions.PinInvalid,
    exceptions.PinLenRange,
    exceptions.PinLocked,
    exceptions.UserPinNotInitialized,
)

_LOST: Final = (
    exceptions.DeviceError,
    exceptions.DeviceMemory,
    exceptions.DeviceRemoved,
    exceptions.FunctionCancelled,
    exceptions.FunctionFailed,
    exceptions.GeneralError,
    exceptions.HostMemory,
    exceptions.KeyHandleInvalid,
    exceptions.ObjectHandleInvalid,
    exceptions.OperationActive,
    exceptions.OperationNotInitialized,
    exceptions.SessionClosed,
    exceptions.SessionHandleInvalid,
    exceptions.SlotIDInvalid,
    exceptions.TokenNotPresent,
    exceptions.TokenNotRecognised,
    exceptions.UserNotLoggedIn,
)

_UNUSABLE: Final = (
    exceptions.FunctionNotSupported,
    exceptions.KeySizeRange,
    exceptions.KeyTypeInconsistent,
    exceptions.MechanismInvalid,
    exceptions.MechanismParamInvalid,
)


def map_error(error: PKCS11Error) -> BackendError:
    """Return our error for python-pkcs11's, without the device's message."""
    # The base class is for return values that python-pkcs11 does not know, such as
    # CKR_CRYPTOKI_NOT_INITIALIZED and those of vendors.
    if isinstance(error, _LOST) or type(error) is PKCS11Error:
        return TokenLostError("the token is gone, or was initialized again")
    if isinstance(error, _DENIED):
        return AccessDeniedError("the token does not accept the PIN")
    if isinstance(error, _UNUSABLE):
        return KeyUnusableError("the token cannot sign with the key")
    if isinstance(error, exceptions.SessionCount):
        return BackendThrottledError("the token has no free session")
    return BackendError(f"the token refused: {type(error).__name__}")


T = TypeVar("T")

RAW_SIZE = 64
"""r and s, 32 bytes each (PKCS#11 v2.40, section 2.3.1)."""


_PAUSES = (0.02, 0.02, 0.04, 0.08, 0.16, 0.32)
"""Shortest pauses in seconds between attempts to open a token; at most doubled.

A SoftHSM token cannot be opened at the moment when another process logs in to it, or
creates or destroys an object (SoftHSMv2 #358, #573).  The pauses are random, because
workers that start together would otherwise collide again.
"""

_RECONNECT_PAUSES = _PAUSES[:2]
"""Fewer attempts after a fault: requests are waiting, and may be retried."""


class TokenLogin:
    """
    One login to a token, in one epoch of its module.

    Its sessions stay open until the epoch ends, because closing the last one would log
    the process out.
    """

    def __init__(self, library: Library, token: Token, session: Session) -> None:
        self.library = library
        self.epoch = library.epoch
        self.token = token
        self.session = session
        self.keys: dict[KeyId, OpenKey] = {}
        self._is_lost = False

    def find(
        self, find: Callable[[Session, bytes], T], session: Session, cka_id: bytes
    ) -> T:
        """Return the result of *find*; check the token if the key is not found."""
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

    def require_protected(self) -> None:
        """Raise ``KeyNotProtectedError`` unless production may sign with the key."""
        library = self._connection.library
        found = [*find_weaknesses(library, self._connection.token, self._idle[0])]
        if found:
            raise KeyNotProtectedError("; ".join(map(str, found)), found)

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


class TokenSession:
    """
    The login of this process to a token: at first use, and again once it was lost.

    There is one login per process, and a forked child logs in again.  A rejected PIN is
    never tried again, because tokens lock after a few wrong PINs.
    """

    def __init__(self, module: str, label: str, pin: Callable[[], str]) -> None:
        """Store the options; *pin* is called when the token is opened."""
        self._path = module
        self._token_label = label
        self._pin = pin
        self._pin_refused = False
        self._connection: TokenLogin | None = None

    def call(self, request: Callable[[TokenLogin], T]) -> T:
        """Return the result of *request*; log in again if the token was lost."""
        try:
            return self.call_once(request)
        except TokenLostError:
            return self.call_once(request)

    def call_once(self, request: Callable[[TokenLogin], T]) -> T:
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
            return TokenLogin(library, token, self._login(token))
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
