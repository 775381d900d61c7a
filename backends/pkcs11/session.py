"""Logs in to a token, also again after it was lost, and keeps its sessions."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

from pkcs11 import TokenFlag
from pkcs11.types import Object

from backends.pkcs11.cryptoki import DeviceBusyError, Library
from backends.pkcs11.failed_logins import FailedLogins
from backends.pkcs11.functions import CKR, CryptokiError, Session, Token
from backends.pkcs11.proof import Examined, examine
from signer.deadline import TIMEOUT_MESSAGE
from signer.errors import (
    AccessDeniedError,
    BackendError,
    BackendThrottledError,
    BackendUnavailableError,
    KeyNotFoundError,
    KeyNotProtectedError,
    KeyUnusableError,
    PINRefusedError,
)


class TokenLostError(BackendUnavailableError):
    """
    The token is gone, or its sessions and handles are no longer valid.

    When its folder is gone, SoftHSM returns CKR_OBJECT_HANDLE_INVALID or
    CKR_GENERAL_ERROR, also after the folder is back, until it is initialized again.
    """


_DENIED: Final = {
    CKR.PIN_EXPIRED,
    CKR.PIN_INCORRECT,
    CKR.PIN_INVALID,
    CKR.PIN_LEN_RANGE,
    CKR.PIN_LOCKED,
    CKR.USER_PIN_NOT_INITIALIZED,
    CKR.USER_TYPE_INVALID,
    CKR.USER_ANOTHER_ALREADY_LOGGED_IN,
}

_UNUSABLE: Final = {
    CKR.CURVE_NOT_SUPPORTED,
    CKR.DOMAIN_PARAMS_INVALID,
    CKR.FUNCTION_NOT_SUPPORTED,
    CKR.KEY_FUNCTION_NOT_PERMITTED,
    CKR.KEY_SIZE_RANGE,
    CKR.KEY_TYPE_INCONSISTENT,
    CKR.MECHANISM_INVALID,
    CKR.MECHANISM_PARAM_INVALID,
}

_REFUSED: Final = {
    CKR.ACTION_PROHIBITED,
    CKR.ARGUMENTS_BAD,
    CKR.ATTRIBUTE_READ_ONLY,
    CKR.ATTRIBUTE_SENSITIVE,
    CKR.ATTRIBUTE_TYPE_INVALID,
    CKR.ATTRIBUTE_VALUE_INVALID,
    CKR.BUFFER_TOO_SMALL,
    CKR.DATA_INVALID,
    CKR.DATA_LEN_RANGE,
    CKR.FUNCTION_REJECTED,
    CKR.SESSION_PARALLEL_NOT_SUPPORTED,
    CKR.SESSION_READ_ONLY,
    CKR.SESSION_READ_WRITE_SO_EXISTS,
    CKR.TEMPLATE_INCOMPLETE,
    CKR.TEMPLATE_INCONSISTENT,
    CKR.TOKEN_WRITE_PROTECTED,
}


def map_error(error: CryptokiError) -> BackendError:
    """Return our error for *error*, with the function and the name of the code."""
    if error.rv in _DENIED:
        return PINRefusedError(f"the token does not accept the PIN ({error})")
    if error.rv in _UNUSABLE:
        return KeyUnusableError(f"the token cannot sign with the key ({error})")
    if error.rv in {CKR.SESSION_COUNT, CKR.TOKEN_RESOURCE_EXCEEDED}:
        return BackendThrottledError(f"the token has no free session ({error})")
    if error.rv in _REFUSED:
        return BackendError(f"the token refused ({error})")
    # Also those of vendors, and those that the standard does not have.
    return TokenLostError(f"the token is gone, or was initialized again ({error})")


T = TypeVar("T")

_PAUSES = (0.02, 0.02, 0.04, 0.08, 0.16, 0.32)
"""Shortest pauses in seconds between attempts to open a token; at most doubled.

A SoftHSM token cannot be opened at the moment when another process logs in to it, or
creates or destroys an object (SoftHSMv2 #358, #573).  The pauses are random, because
workers that start together would otherwise collide again.
"""

_RECONNECT_PAUSES = _PAUSES[:2]
"""Fewer attempts after a fault: requests are waiting, and may be retried."""


class LoginFailedError(BackendUnavailableError):
    """
    ``C_Login`` failed, and said nothing about the PIN.

    Some devices answer a wrong PIN so, and lock after a few.
    """


_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 120.0
"""Seconds until the next login after one that failed so; they double each time."""


class TokenLogin:
    """
    One login to a token, in one epoch of its module.

    A session serves one call at a time, so each thread takes one from the pool, which
    is last in, first out and grows to the largest number of concurrent calls.  They
    stay open until the epoch ends: closing the last one would log the process out.
    """

    def __init__(self, library: Library, token: Token) -> None:
        self.epoch = library.epoch
        self.keys: dict[str, bytes] = {}  # The public key of each id, in DER.
        self._idle: list[Session] = []
        self._library = library
        self._functions = library.functions
        self._token = token
        self._read_write = False
        with suppress(CryptokiError):
            self._idle = [self._open()]
        if not self._idle:
            self._idle = [self._open_any()]
        self._is_lost = False

    def _open_any(self) -> Session:
        """Open a session after an error, which need not be that of a read-only one."""
        try:
            return self._open()
        except CryptokiError:
            # AWS CloudHSM has no read-only sessions.
            self._read_write = True
            return self._open()

    def log_in(self, pin: str) -> None:
        with self.session() as session, suppress_logged_in():
            session.log_in(pin)

    def close(self) -> None:
        """Close the sessions of a login that failed: some devices have 16."""
        for session in self._idle:
            with suppress(CryptokiError):
                session.close()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Lend a session; one of which a call does not return is not lent again."""
        try:
            session = self._idle.pop()
        except IndexError:
            session = self._open()
        try:
            yield session
        finally:
            self._idle.append(session)

    @contextmanager
    def read_write(self) -> Iterator[Session]:
        """Lend a read-write session, and close it."""
        session = Session(self._functions, self._token, read_write=True)
        try:
            yield session
        finally:
            session.close()

    def find(
        self, find: Callable[[Session, bytes], T], session: Session, cka_id: bytes
    ) -> T:
        """Return the result of *find*; check the token if the key is not found."""
        try:
            return find(session, cka_id)
        except KeyNotFoundError:
            self._functions.token(self._token.own.slot)
            raise

    def examine(self, session: Session, key: Object) -> Examined:
        return examine(self._library, self._token, session, key)

    def require_protected(self, session: Session, key: Object) -> None:
        """Raise ``KeyNotProtectedError`` unless production may sign with *key*."""
        found = self.examine(session, key).weaknesses
        if found:
            raise KeyNotProtectedError("; ".join(map(str, found)), found)

    def serves(self, library: Library) -> bool:
        """Return whether handles are valid; the caller holds the library's lock."""
        return self.epoch is library.epoch and not self._is_lost

    def map_error(self, error: CryptokiError) -> BackendError:
        """Return our error for *error*, and record whether the token was lost."""
        mapped = map_error(error)
        if isinstance(mapped, TokenLostError):
            self._is_lost = True
        return mapped

    def _open(self) -> Session:
        return Session(self._functions, self._token, read_write=self._read_write)


class TokenSession:
    """
    The login of this process to a token: at first use, and again once it was lost.

    There is one login per process, and a forked child logs in again.  A rejected PIN is
    never tried again, because tokens lock after a few wrong PINs.
    """

    def __init__(
        self,
        module: str,
        name: str,
        pin: Callable[[], str],
        failed: FailedLogins | None = None,
        *,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Store the options; *pin* is called when the token is opened.

        *name* is the token's label, or a ``pkcs11:`` URI.  What *failed* before is
        not tried again, or not soon.
        """
        self._timer = timer
        self._reconnecting = threading.Lock()
        self._path = module
        self._token_name = name
        self._pin = pin
        self._failed = FailedLogins() if failed is None else failed
        self._connection: TokenLogin | None = None

    @property
    def threads(self) -> int:
        """How many threads gain by calling the token at once."""
        library = Library.of(self._path)
        return min(library.quirks.threads, library.lock.limit)

    def call(self, request: Callable[[TokenLogin], T], seconds: float) -> T:
        """
        Return the result of *request*; log in again if the token was lost.

        Raises:
            BackendUnavailableError: There was none after *seconds*: a call hangs.
        """
        until = self._timer() + seconds

        def in_time(connection: TokenLogin) -> T:
            # The caller has gone: its late signature would be in no record.
            if self._timer() > until:
                raise BackendUnavailableError(TIMEOUT_MESSAGE)
            return request(connection)

        def try_twice() -> T:
            try:
                return self.call_once(in_time)
            except TokenLostError:
                return self.call_once(in_time)

        deadlines = Library.of(self._path).deadlines
        return deadlines.within(seconds, try_twice, name="pkcs11")

    def call_once(self, request: Callable[[TokenLogin], T]) -> T:
        library = Library.of(self._path)
        failures = library.failures
        while True:
            with library.lock:
                connection = self._connection
                if connection is not None and connection.serves(library):
                    try:
                        return request(connection)
                    except CryptokiError as e:
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
        try:
            with library.lock.exclusive():
                self._reconnect(library, failures, self._open)
        except DeviceBusyError:
            # A call hangs, so the module cannot be finalized.  A new login may do.
            with library.lock, self._reconnecting:
                self._reconnect(library, failures, self._log_in)

    def _reconnect(
        self, library: Library, failures: int, log_in: Callable[[Library], TokenLogin]
    ) -> None:
        if self._connection is not None and self._connection.serves(library):
            return
        self._raise_known_failure(library, failures)
        try:
            self._connection = log_in(library)
        except BackendError:
            library.failures += 1
            raise

    def _raise_known_failure(self, library: Library, failures: int) -> None:
        if self._failed.has_pin:
            self._failed.require_another(self._read_pin())
        self._require_no_pause()
        if library.failures != failures:
            # All threads that wait for a lost token fail with the first one.
            raise BackendUnavailableError("the token cannot be opened")

    def _require_no_pause(self) -> None:
        if self._timer() < self._failed.pause[1]:
            raise LoginFailedError(
                "the last login failed; another one too soon could lock the token"
            )

    def _open(self, library: Library) -> TokenLogin:
        previous = self._connection
        if previous is not None and previous.epoch is library.epoch:
            library.finalize()  # The token was lost, and its handles stay invalid.
        elif library.epoch is not None:
            # Another instance initialized the module, and may still be served.
            try:
                return self._log_in(library)
            except BackendUnavailableError:
                if library.has_tokens():
                    raise
                library.finalize()
        for pause in _RECONNECT_PAUSES if library.epochs else _PAUSES:
            try:
                return self._start(library)
            except LoginFailedError:
                raise
            except BackendUnavailableError:
                pass
            time.sleep(random.uniform(pause, 2 * pause))  # noqa: S311  Not a secret.
        return self._start(library)

    def _start(self, library: Library) -> TokenLogin:
        library.initialize()
        try:
            return self._log_in(library)
        except BackendError:
            # A module may see only tokens that existed when it was initialized.
            library.finalize()
            raise

    def _log_in(self, library: Library) -> TokenLogin:
        try:
            token = library.token(self._token_name)
            login = TokenLogin(library, token)
            try:
                if token.flags & TokenFlag.LOGIN_REQUIRED:
                    _require_tries(token.flags)
                    self._try_pin(library, login, self._read_pin())
            except BaseException:
                login.close()
                raise
        except CryptokiError as e:
            error = map_error(e)
            if isinstance(error, TokenLostError):
                raise self._note_failure(e, library) from e
            raise error from e
        library.limit_sessions(token)
        self._failed.pause = 0.0, 0.0
        return login

    def _note_failure(
        self, error: CryptokiError, library: Library
    ) -> BackendUnavailableError:
        problem = f"the token cannot be opened ({error})"
        if error.function != "C_Login" or library.quirks.retries_login:
            return BackendUnavailableError(problem)
        self._begin_pause()
        return LoginFailedError(problem)

    def _begin_pause(self) -> None:
        seconds = min(2 * self._failed.pause[0], _LONGEST_PAUSE) or _FIRST_PAUSE
        self._failed.pause = seconds, self._timer() + seconds

    def _try_pin(self, library: Library, login: TokenLogin, pin: str) -> None:
        with self._failed.trying(pin, self._path) as was_killed:
            if was_killed and not library.quirks.retries_login:
                self._begin_pause()
            self._require_no_pause()
            try:
                login.log_in(pin)
            except CryptokiError as e:
                if e.rv not in _DENIED:
                    raise self._note_failure(e, library) from e
                self._failed.remember(pin)
                raise

    def _read_pin(self) -> str:
        try:
            pin = self._pin()
            pin.encode()
        except (OSError, UnicodeError):
            # UnicodeError would quote the PIN.
            raise AccessDeniedError("the PIN cannot be read from its source") from None
        return pin


def _require_tries(flags: int) -> None:
    """Raise ``PINRefusedError`` if the token is locked, or one wrong PIN locks it."""
    if flags & TokenFlag.USER_PIN_LOCKED:
        raise PINRefusedError(
            "the token has locked the PIN: unlock it with the device's own tool"
        )
    if flags & TokenFlag.USER_PIN_FINAL_TRY:
        raise PINRefusedError(
            "a wrong PIN would lock the token, so it is not tried: check it, and log in"
            " with the device's own tool, which resets the count"
        )


@contextmanager
def suppress_logged_in() -> Iterator[None]:
    """Ignore that the process is logged in already, through another session."""
    try:
        yield
    except CryptokiError as e:
        if e.rv != CKR.USER_ALREADY_LOGGED_IN:
            raise
