"""
The PKCS#11 module of this process: its quirks, loaded and initialized once, with locks.

Cryptoki's state belongs to the process: one ``C_Initialize``, one login, one space of
handles (PKCS#11 v2.20, section 6.6).  So there is one ``Library`` per module and
process, and every call to the module holds its lock.
"""

import atexit
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Self

from backends.pkcs11.functions import CKR, CryptokiError, Functions, Module, Token
from backends.pkcs11.token_uri import TokenName
from signer.deadline import Deadlines
from signer.errors import BackendError, BackendUnavailableError


@dataclass(frozen=True, slots=True)
class Quirks:
    """
    The behaviour of the modules whose manufacturer or file name begins with *name*.

    What can be found out by asking a module or by trying is none of it
    (``docs/how-to/hardware-hsm.md``).
    *threads* sign at once; more gain nothing.  *sessions* is the number of sessions
    where ``CK_TOKEN_INFO`` does not have it.
    """

    name: str = ""
    threads: int = 8
    sessions: int | None = None
    retries_login: bool = False
    """Whether a login that failed is tried again at once: the token never locks."""

    is_serialized: bool = False
    """Whether the module gets one call at a time, although it has locks."""

    finalizes_at_exit: bool = False
    """
    Whether ``C_Finalize`` is called when the process ends.

    By default it is not: the exit handlers of libraries that the module uses may have
    run before (https://github.com/opencryptoki/opencryptoki/pull/530), and a device
    frees the sessions of a process that has ended.
    """


_QUIRKS = (
    # Its destructors use OpenSSL, which is cleaned up before them, unless it is
    # finalized (https://github.com/softhsm/SoftHSMv2/issues/729).  It signs on this
    # host's processor.
    Quirks("SoftHSM", threads=2, retries_login=True, finalizes_at_exit=True),
    # https://docs.yubico.com/software/yubihsm-2/concepts/hsm2-concept-session.html
    Quirks("Yubico", threads=1, sessions=16),
    # If the connection breaks while several threads wait for an answer, all but one
    # wait for ever (seen with 0.24.1: rpc_socket_read in p11-kit/rpc-transport.c).
    Quirks("p11-kit", threads=1, is_serialized=True),
)

_OTHERS = Quirks()


def quirks_of(manufacturer: str, path: str) -> Quirks:
    """Return the quirks of the module of *manufacturer* at *path*."""
    names = (manufacturer, Path(path).name)
    return next(
        (each for each in _QUIRKS if any(name.startswith(each.name) for name in names)),
        _OTHERS,
    )


TIMEOUT = 5.0
"""Seconds to wait for the lock: well below gunicorn's worker timeout."""

_MOST_THREADS, _IDLE_THREADS = 64, 8
"""Most calls at once, with those that hang, and the threads that are kept."""

UNLIMITED = sys.maxsize
"""The limit that admits every thread."""


class DeviceBusyError(BackendUnavailableError):
    """A call to the device hangs, and holds its lock."""


class RWLock:
    """
    A readers-writer lock, first come, first served, with a timeout.

    ``with lock:`` takes it shared, for calls to the device: at most *limit* threads at
    once.  ``with lock.exclusive():`` waits until they have released it and blocks new
    ones, so that the device can be finalized and initialized.  Threads that come later
    queue after it, so that neither kind starves the other.

    It is not reentrant.  Taking it raises ``BackendUnavailableError`` after *timeout*
    seconds: a thread did not release it, because its call hangs.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self.limit = UNLIMITED
        self._timeout = timeout
        self._lock = threading.Lock()
        self._queue: deque[_Waiter] = deque()
        self._shared = 0
        self._is_exclusive = False

    def __enter__(self) -> Self:
        with self._lock:
            if not self._queue and not self._is_exclusive and self._shared < self.limit:
                self._shared += 1
                return self
            waiter = self._enqueue(_Waiter(is_exclusive=False))
        self._wait(waiter)
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._shared -= 1
            if self._queue:
                self._admit()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        self.close()
        try:
            yield
        finally:
            with self._lock:
                self._is_exclusive = False
                self._admit()

    def close(self) -> None:
        """Take the lock exclusively and never release it."""
        with self._lock:
            waiter = self._enqueue(_Waiter(is_exclusive=True))
        self._wait(waiter)

    def _enqueue(self, waiter: "_Waiter") -> "_Waiter":
        self._queue.append(waiter)
        self._admit()
        return waiter

    def _admit(self) -> None:
        """Admit the next waiters; the caller holds ``_lock``."""
        while self._queue and not self._is_exclusive:
            waiter = self._queue[0]
            if self._shared >= (1 if waiter.is_exclusive else self.limit):
                return
            if waiter.is_exclusive:
                self._is_exclusive = True
            else:
                self._shared += 1
            self._queue.popleft()
            waiter.admitted.set()

    def _wait(self, waiter: "_Waiter") -> None:
        if waiter.admitted.wait(self._timeout):
            return
        with self._lock:
            if waiter.admitted.is_set():
                return
            self._queue.remove(waiter)
            self._admit()  # The next waiters may have waited only for this one.
        raise DeviceBusyError(
            "a call to the device hangs: restart the process if it does not end"
        )


class _Waiter:
    __slots__ = ("admitted", "is_exclusive")

    def __init__(self, *, is_exclusive: bool) -> None:
        self.is_exclusive = is_exclusive
        self.admitted = threading.Event()


class Locking(StrEnum):
    """How concurrent calls to the module are serialized."""

    MODULE = "module"
    """The module has locks: any number of threads may call it."""

    SERIALIZED = "serialized"
    """The module has no locks, or wrong ones: our lock admits one call at a time."""

    FOREIGN = "foreign"
    """Other code initialized the module: our lock admits one call at a time."""


class Library:
    """
    One module in this process.  It is loaded by ``initialize``.

    ``epoch`` identifies the time from one ``C_Initialize`` to the next; it is None
    while the module is finalized.  The next epoch numbers handles from one again, so
    that an old handle may refer to another object: store the epoch with each handle,
    and compare the two while holding the lock.  ``epochs`` counts the epochs, and
    ``failures`` the failed attempts to connect.

    ``initialize``, ``reset`` and ``finalize`` need ``lock.exclusive()``; everything
    else needs ``lock``.  ``deadlines`` has the threads that call a module that may
    hang.
    """

    _all: ClassVar[dict[tuple[int, str], Self]] = {}

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = RWLock()
        self.deadlines = Deadlines(_MOST_THREADS, idle=_IDLE_THREADS)
        self.epoch: object | None = None
        self.epochs = 0
        self.failures = 0
        self.locking = Locking.SERIALIZED
        self.module = Module()
        self.quirks = Quirks()
        self._functions: Functions | None = None

    @classmethod
    def of(cls, path: str) -> Self:
        """Return this process's library for the module at *path*, also after a fork."""
        key = (os.getpid(), path)
        # dict.setdefault is atomic: racing threads get the same library.
        return cls._all.get(key) or cls._all.setdefault(key, cls(path))

    def initialize(self) -> None:
        """
        Load and initialize the module, unless it is initialized.

        Raises:
            BackendUnavailableError: The module refuses; it may not do so later.
            BackendError: It does not load, or belongs to the parent process.
        """
        if self.epoch is not None:
            return
        functions = self._load()
        try:
            self.locking = self._initialize(functions)
            try:
                self.module = functions.module()
            except CryptokiError:
                self._finalize(functions)
                raise
        except CryptokiError as e:
            raise BackendUnavailableError(
                f"the PKCS#11 module does not initialize ({e})"
            ) from None
        self.quirks = quirks_of(self.module.manufacturer, self.path)
        if self.locking is Locking.MODULE and self.quirks.is_serialized:
            self.locking = Locking.SERIALIZED
        self.lock.limit = UNLIMITED if self.locking is Locking.MODULE else 1
        self.epoch = object()
        self.epochs += 1

    def reset(self) -> None:
        """Start a new epoch: all sessions, handles and logins of the old one end."""
        self.finalize()
        self.initialize()

    def finalize(self) -> None:
        if self.epoch is not None:
            self._finalize(self._load())
        self.epoch = None

    def _finalize(self, functions: Functions) -> None:
        if self.locking is not Locking.FOREIGN:
            with suppress(CryptokiError):  # No remedy exists.
                functions.call("C_Finalize", None)

    @property
    def functions(self) -> Functions:
        """The functions of the initialized module."""
        if self.epoch is None:
            raise BackendUnavailableError("the PKCS#11 module is not initialized")
        return self._load()

    def token(self, name: str) -> Token:
        """Return the one token that *name*, a label or a URI, names."""
        wanted, shown = TokenName.parse(name), self.functions.tokens()
        if not shown:
            raise BackendUnavailableError(
                "the module shows no token: check that its device can be reached"
            )
        tokens = [each for each in shown if wanted.fits(each)]
        if not tokens:
            raise BackendUnavailableError("no token has the configured label")
        if len(tokens) > 1:
            raise BackendError("several tokens have the configured label")
        return tokens[0]

    def has_tokens(self) -> bool:
        """Return whether the module shows any token."""
        try:
            return bool(self.functions.tokens())
        except CryptokiError:
            return False

    def limit_sessions(self, token: Token) -> None:
        """Admit as many threads as *token* has sessions, except one to provision."""
        most = token.most_sessions or self.quirks.sessions
        if most is not None:
            self.lock.limit = min(self.lock.limit, max(1, most - 1))

    def _load(self) -> Functions:
        if self._functions is None:
            self._functions = Functions(self.path)
            atexit.register(self._exit, os.getpid())
        return self._functions

    def _initialize(self, functions: Functions) -> Locking:
        try:
            functions.initialize(with_locks=True)
        except CryptokiError as e:
            if e.rv == CKR.CRYPTOKI_ALREADY_INITIALIZED:
                self._refuse_inherited()
                return Locking.FOREIGN
            if e.rv == CKR.CANT_LOCK:
                functions.initialize(with_locks=False)
                return Locking.SERIALIZED
            raise
        return Locking.MODULE

    def _refuse_inherited(self) -> None:
        """
        Refuse a module that the parent process initialized before the fork.

        Its sockets and locks are the parent's; even ``C_Finalize`` might close them.
        A module that resets itself on fork has returned CKR_OK before.
        """
        current = os.getpid()
        for (pid, path), library in self._all.items():
            if path == self.path and pid != current and library.epoch is not None:
                raise BackendError(
                    "the PKCS#11 module was initialized before the fork: open it "
                    "in the worker, or set library.reset_on_fork = true"
                )

    def _exit(self, pid: int) -> None:
        """
        Stop the calls before the process unloads its libraries.

        The lock stays held, or a running thread might sign in a module whose
        destructors have run.  The module is finalized only if it must be: others have
        freed what ``C_Finalize`` uses.  A forked child that exits does nothing.
        """
        if pid == os.getpid():
            with suppress(BackendUnavailableError):  # A call hangs: do not finalize.
                self.lock.close()
                if self.quirks.finalizes_at_exit:
                    self.finalize()
