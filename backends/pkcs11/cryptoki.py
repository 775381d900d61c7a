"""
The PKCS#11 module of this process: loaded once, initialised once, with locks.

Cryptoki's state is the process's, not an object's: one ``C_Initialize``, one
login, one space of handles (PKCS#11 v2.20, section 6.6).  So there is one
``Library`` per module and process, and everybody who speaks to the module goes
through its gate.
"""

import atexit
import ctypes
import os
from contextlib import suppress
from enum import StrEnum
from typing import ClassVar, Self

import pkcs11
from pkcs11 import PKCS11Error
from pkcs11._pkcs11 import lib

from backends.pkcs11.rw_lock import UNLIMITED, RWLock
from signer.errors import BackendError, BackendUnavailableError


_CKF_OS_LOCKING_OK = 0x2
_CKR_OK = 0x0
_CKR_CANT_LOCK = 0xA
_CKR_CRYPTOKI_ALREADY_INITIALIZED = 0x191


class Locking(StrEnum):
    """Who keeps threads apart inside the module."""

    MODULE = "module"
    """The module itself: any number of threads."""

    GATE = "gate"
    """We do, since the module cannot: one call at a time."""

    FOREIGN = "foreign"
    """Unknown, somebody else initialised it: one call of ours at a time."""


class _InitializeArgs(ctypes.Structure):
    """``CK_C_INITIALIZE_ARGS`` without callbacks: use the system's mutexes."""

    _fields_: ClassVar = [
        ("callbacks", ctypes.c_void_p * 4),
        ("flags", ctypes.c_ulong),
        ("reserved", ctypes.c_void_p),
    ]


class _FunctionList(ctypes.Structure):
    """The head of ``CK_FUNCTION_LIST``, as far as python-pkcs11 leaves gaps."""

    _fields_: ClassVar = [
        ("version", ctypes.c_ubyte * 2),
        ("initialize", ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)),
        ("finalize", ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)),
        ("unused", ctypes.c_void_p * 7),
        (
            "init_token",
            ctypes.CFUNCTYPE(
                ctypes.c_ulong,
                ctypes.c_ulong,
                ctypes.c_char_p,
                ctypes.c_ulong,
                ctypes.c_char_p,
            ),
        ),
    ]


class _Initialised(lib):
    """
    python-pkcs11's view of a module that ``Library`` has initialised already.

    Its own ``initialize`` calls ``C_Initialize(NULL)``, which promises that there
    is one thread, and releases the GIL in every call: SoftHSM then works without
    mutexes, and threads that sign kill the process.  The class is not public;
    ``tests/unit/backends/pkcs11/test_cryptoki.py`` fails when this stops to work.
    """

    def initialize(self) -> None:
        """Do nothing."""


class Library:
    """
    One module in this process.  Nothing is loaded before ``initialize``.

    ``epoch`` names the span from one ``C_Initialize`` to the next; it is None
    while the module is down.  Handles are numbered from one again in the next
    epoch, so an old one may silently mean another object: whoever keeps handles
    keeps the epoch beside them, and compares the two inside the gate.  ``epochs``
    counts them, and ``failures`` the attempts to make one useful that failed.

    ``initialize``, ``reset`` and ``finalize`` need ``gate.alone()``, all else
    ``gate``.
    """

    _all: ClassVar[dict[tuple[int, str], Self]] = {}

    def __init__(self, path: str) -> None:
        self.path = path
        self.gate = RWLock()
        self.epoch: object | None = None
        self.epochs = 0
        self.failures = 0
        self.locking = Locking.GATE
        self._functions: _FunctionList | None = None
        self._module: lib | None = None

    @classmethod
    def of(cls, path: str) -> Self:
        """
        Return this process's library for the module at *path*.

        A forked child gets one of its own, with locks that nobody holds.
        """
        key = (os.getpid(), path)
        # A dict's setdefault is atomic: threads that race get the same library.
        return cls._all.get(key) or cls._all.setdefault(key, cls(path))

    def initialize(self) -> None:
        """
        Load and initialise the module, unless that was done before.

        Raises:
            BackendError: It does not load, or it was inherited through a fork.
            PKCS11Error: It does not initialise.
        """
        if self.epoch is None:
            self.locking = self._initialized(self._loaded())
            self.gate.limit = UNLIMITED if self.locking is Locking.MODULE else 1
            self.epoch = object()
            self.epochs += 1

    def reset(self) -> None:
        """
        Begin a new epoch: all sessions, handles and logins of the old one end.

        A module that somebody else initialised is not taken away from them.
        """
        self.finalize()
        self.initialize()

    def finalize(self) -> None:
        """Take the module down, if it is ours."""
        if self.epoch is not None and self.locking is not Locking.FOREIGN:
            self._loaded().finalize(None)  # What could be done about an error?
        self.epoch = None

    @property
    def module(self) -> lib:
        """python-pkcs11's view of the initialised module."""
        if self.epoch is None:
            raise BackendUnavailableError("the PKCS#11 module is not initialised")
        if self._module is None:
            self._module = _Initialised(self.path)
        return self._module

    def token(self, label: str) -> pkcs11.Token:
        """
        Return the one token that is called *label*.

        Raises:
            BackendUnavailableError: There is none, at the moment at least.
            BackendError: There are several.
        """
        tokens = list(self.module.get_tokens(token_label=label))
        if not tokens:
            raise BackendUnavailableError("there is no token with the configured label")
        if len(tokens) > 1:
            raise BackendError("several tokens have the configured label")
        return tokens[0]

    def init_token(self, slot: pkcs11.Slot, so_pin: str, label: str) -> None:
        """
        Initialise the token in *slot*, which erases it (``C_InitToken``).

        Raises:
            PKCS11Error: The module refused.
        """
        pin = so_pin.encode()
        padded = label.encode().ljust(32)
        rv = self._loaded().init_token(slot.slot_id, pin, len(pin), padded)
        _check("C_InitToken", rv)

    def _loaded(self) -> _FunctionList:
        if self._functions is None:
            try:
                get_function_list = ctypes.CDLL(self.path).C_GetFunctionList
            except (OSError, AttributeError) as e:
                raise BackendError("the PKCS#11 module does not load") from e
            functions = ctypes.POINTER(_FunctionList)()
            _check("C_GetFunctionList", get_function_list(ctypes.byref(functions)))
            self._functions = functions.contents
            atexit.register(self._exit, os.getpid())
        return self._functions

    def _initialized(self, functions: _FunctionList) -> Locking:
        args = _InitializeArgs(flags=_CKF_OS_LOCKING_OK)
        rv = functions.initialize(ctypes.addressof(args))
        if rv == _CKR_CRYPTOKI_ALREADY_INITIALIZED:
            self._refuse_inherited()
            return Locking.FOREIGN
        if rv == _CKR_CANT_LOCK:
            _check("C_Initialize", functions.initialize(None))
            return Locking.GATE
        _check("C_Initialize", rv)
        return Locking.MODULE

    def _refuse_inherited(self) -> None:
        """
        Refuse a module that the parent initialised and the fork copied.

        Its sockets and locks are the parent's; even ``C_Finalize`` might hang up
        on the parent's behalf.  A module that resets itself on fork answered
        CKR_OK before it came to this.
        """
        here = os.getpid()
        for (pid, path), library in self._all.items():
            if path == self.path and pid != here and library.epoch is not None:
                raise BackendError(
                    "the PKCS#11 module was initialised before the fork: open it "
                    "in the worker, or set library.reset_on_fork = true"
                )

    def _exit(self, pid: int) -> None:
        """
        Take the module down before the process unloads its libraries.

        The gate stays closed, or a thread that still runs might sign in a module
        whose destructors have run.  A forked child that exits is not meant.
        """
        if pid == os.getpid():
            with suppress(BackendUnavailableError):  # A call hangs: leave it alone.
                self.gate.close()
                self.finalize()
        self._module = None  # Its destructor needs a class, which is gone later.


def _check(function: str, rv: int) -> None:
    if rv != _CKR_OK:
        raise PKCS11Error(f"{function}: {rv:#x}")
