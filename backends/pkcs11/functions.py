"""
A PKCS#11 module through python-pkcs11, and through the one function list that it uses.

A module may return a new list, with a state of its own, at each ``C_GetFunctionList``
(p11-kit does).  So what python-pkcs11 lacks, such as ``C_Initialize`` with locks, is
called in its list.
"""

import ctypes
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from ctypes import byref, c_ubyte, c_ulong, c_void_p
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import islice
from typing import Any, ClassVar

import pkcs11
from pkcs11 import (
    Attribute,
    KeyType,
    Mechanism,
    MechanismFlag,
    PKCS11Error,
    UserType,
    exceptions,
)
from pkcs11._pkcs11 import lib
from pkcs11.types import Object

from signer.errors import BackendError


class CKR(IntEnum):
    """The return values (PKCS#11 v3.1, section 5.1)."""

    OK = 0x0
    CANCEL = 0x1
    HOST_MEMORY = 0x2
    SLOT_ID_INVALID = 0x3
    GENERAL_ERROR = 0x5
    FUNCTION_FAILED = 0x6
    ARGUMENTS_BAD = 0x7
    CANT_LOCK = 0xA
    ATTRIBUTE_READ_ONLY = 0x10
    ATTRIBUTE_SENSITIVE = 0x11
    ATTRIBUTE_TYPE_INVALID = 0x12
    ATTRIBUTE_VALUE_INVALID = 0x13
    ACTION_PROHIBITED = 0x1B
    DATA_INVALID = 0x20
    DATA_LEN_RANGE = 0x21
    DEVICE_ERROR = 0x30
    DEVICE_MEMORY = 0x31
    DEVICE_REMOVED = 0x32
    FUNCTION_CANCELED = 0x50
    FUNCTION_NOT_SUPPORTED = 0x54
    KEY_HANDLE_INVALID = 0x60
    KEY_SIZE_RANGE = 0x62
    KEY_TYPE_INCONSISTENT = 0x63
    KEY_FUNCTION_NOT_PERMITTED = 0x68
    MECHANISM_INVALID = 0x70
    MECHANISM_PARAM_INVALID = 0x71
    OBJECT_HANDLE_INVALID = 0x82
    OPERATION_ACTIVE = 0x90
    OPERATION_NOT_INITIALIZED = 0x91
    PIN_INCORRECT = 0xA0
    PIN_INVALID = 0xA1
    PIN_LEN_RANGE = 0xA2
    PIN_EXPIRED = 0xA3
    PIN_LOCKED = 0xA4
    SESSION_CLOSED = 0xB0
    SESSION_COUNT = 0xB1
    SESSION_HANDLE_INVALID = 0xB3
    SESSION_PARALLEL_NOT_SUPPORTED = 0xB4
    SESSION_READ_ONLY = 0xB5
    SESSION_EXISTS = 0xB6
    SESSION_READ_ONLY_EXISTS = 0xB7
    SESSION_READ_WRITE_SO_EXISTS = 0xB8
    TEMPLATE_INCOMPLETE = 0xD0
    TEMPLATE_INCONSISTENT = 0xD1
    TOKEN_NOT_PRESENT = 0xE0
    TOKEN_NOT_RECOGNIZED = 0xE1
    TOKEN_WRITE_PROTECTED = 0xE2
    USER_ALREADY_LOGGED_IN = 0x100
    USER_NOT_LOGGED_IN = 0x101
    USER_PIN_NOT_INITIALIZED = 0x102
    USER_TYPE_INVALID = 0x103
    USER_ANOTHER_ALREADY_LOGGED_IN = 0x104
    USER_TOO_MANY_TYPES = 0x105
    DOMAIN_PARAMS_INVALID = 0x130
    CURVE_NOT_SUPPORTED = 0x140
    BUFFER_TOO_SMALL = 0x150
    CRYPTOKI_NOT_INITIALIZED = 0x190
    CRYPTOKI_ALREADY_INITIALIZED = 0x191
    FUNCTION_REJECTED = 0x200
    TOKEN_RESOURCE_EXCEEDED = 0x201


_VENDOR_DEFINED = 0x80000000


class CryptokiError(Exception):
    """A function returned something other than ``CKR_OK``; ``name`` is its name."""

    def __init__(self, function: str, rv: int) -> None:
        self.function = function
        self.rv = rv
        if rv in CKR._value2member_map_:
            self.name = f"CKR_{CKR(rv).name}"
        elif rv >= _VENDOR_DEFINED:
            self.name = f"CKR_VENDOR_DEFINED+{rv - _VENDOR_DEFINED:#x}"
        else:
            self.name = f"CKR {rv:#x}"
        super().__init__(f"{function}: {self.name}")


_SPELLINGS = {
    exceptions.AnotherUserAlreadyLoggedIn: CKR.USER_ANOTHER_ALREADY_LOGGED_IN,
    exceptions.FunctionCancelled: CKR.FUNCTION_CANCELED,
    exceptions.TokenNotRecognised: CKR.TOKEN_NOT_RECOGNIZED,
}

# What python-pkcs11 has a sentence for, and no class.
_SENTENCES = {
    "Buffer was too small": CKR.BUFFER_TOO_SMALL,
    "(already initialized)": CKR.CRYPTOKI_ALREADY_INITIALIZED,
    "(not initialized)": CKR.CRYPTOKI_NOT_INITIALIZED,
    "Parallel not supported": CKR.SESSION_PARALLEL_NOT_SUPPORTED,
    "User type invalid": CKR.USER_TYPE_INVALID,
}

_BY_NAME = {code.name.replace("_", "").lower(): code for code in CKR}

_UNMAPPED = re.compile(r"0x[0-9a-f]+")


def _code_of(error: PKCS11Error) -> int:
    """Return the value for which python-pkcs11 raised *error*."""
    kind = type(error)
    if kind in _SPELLINGS:
        return _SPELLINGS[kind]
    if kind is not PKCS11Error:
        return _BY_NAME.get(kind.__name__.lower(), CKR.GENERAL_ERROR)
    found = _UNMAPPED.search(str(error))
    if found is not None:
        return int(found[0], 16)
    named = (code for words, code in _SENTENCES.items() if words in str(error))
    return next(named, CKR.GENERAL_ERROR)


Value = bool | int | bytes | str
Template = Mapping[Attribute, Value]

_CKF_OS_LOCKING_OK = 0x2

_MOST_OBJECTS = 10_000


class _InitializeArgs(ctypes.Structure):
    """``CK_C_INITIALIZE_ARGS`` without callbacks: the module uses system mutexes."""

    _fields_: ClassVar = [
        ("callbacks", c_void_p * 4),
        ("flags", c_ulong),
        ("reserved", c_void_p),
    ]


class _TokenInfo(ctypes.Structure):
    """``CK_TOKEN_INFO``, of which python-pkcs11 does not show the sessions."""

    _fields_: ClassVar = [
        ("names", c_ubyte * 96),
        ("flags", c_ulong),
        ("most_sessions", c_ulong),
        ("rest", c_ubyte * 128),
    ]


class _Mechanism(ctypes.Structure):
    """``CK_MECHANISM``."""

    _fields_: ClassVar = [
        ("mechanism", c_ulong),
        ("parameter", c_void_p),
        ("size", c_ulong),
    ]


_ECDSA = byref(_Mechanism(Mechanism.ECDSA))

_SignatureRoom = c_ubyte * 256


class _FunctionList(ctypes.Structure):
    """``CK_FUNCTION_LIST``."""

    _fields_: ClassVar = [("version", c_ubyte * 2), ("pointers", c_void_p * 68)]


# The position of each function in the list, and the number of its arguments.
_FUNCTIONS = {
    "C_Initialize": (0, 1),
    "C_Finalize": (1, 1),
    "C_GetTokenInfo": (6, 2),
    "C_InitToken": (9, 4),
    "C_Login": (18, 4),
    "C_SignInit": (42, 3),
    "C_Sign": (43, 5),
}

_NEEDED = (0, 1, 2, 4, 5, 6, 12, 13, 18, 24, 26, 27, 28, 42, 43)
"""What signing calls; python-pkcs11 does not look whether a function is there."""


@lru_cache(maxsize=64)
def _bind(name: str, pointer: int) -> Callable[..., int]:
    return ctypes.CFUNCTYPE(c_ulong, *[c_void_p] * _FUNCTIONS[name][1])(pointer)


class _Module(lib):
    """
    python-pkcs11's interface to a module that ``Functions`` has initialized.

    Its own ``initialize`` calls ``C_Initialize(NULL)``, which promises a single thread,
    but it releases the GIL in every call: SoftHSM then uses no mutexes, and concurrent
    signatures crash the process.  The class is not public;
    ``tests/unit/backends/pkcs11/test_cryptoki.py`` fails if this stops working.
    """

    def initialize(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Module:
    """What a module says of itself."""

    manufacturer: str = ""
    description: str = ""
    version: tuple[int, int] = (0, 0)


class Token:
    """A token that is in a slot: its identity, and how many sessions it allows."""

    def __init__(self, token: pkcs11.Token, most_sessions: int) -> None:
        slot = token.slot
        self.own = token
        self.slot: int = slot.slot_id
        self.slot_name = f"{slot.manufacturer_id} {slot.slot_description}"
        self.label = token.label
        self.manufacturer = token.manufacturer_id
        self.model = token.model
        self.serial = token.serial.decode(errors="replace").rstrip("\0")
        self.flags = int(token.flags)
        # Zero is CK_EFFECTIVELY_INFINITE, and the largest number means "unknown".
        self.most_sessions: int | None = most_sessions
        if not 0 < most_sessions < _VENDOR_DEFINED:
            self.most_sessions = None


class Functions:
    """The functions of the module at *path*, for this process and not for a fork."""

    def __init__(self, path: str) -> None:
        """
        Load the module; ``initialize`` comes next.

        Raises:
            BackendError: It is no PKCS#11 module.
        """
        self._path = path
        self._pid = os.getpid()
        try:
            # Its __init__ needs a module that is initialized.
            self._module = _Module.__new__(_Module, path)  # type: ignore[call-arg]
        except PKCS11Error:
            raise BackendError("the PKCS#11 module does not load") from None
        # It is never freed: its end would unload the module, while calls may hang.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._module))
        # The first member of the class HasFuncList.
        pointer = c_void_p.from_address(id(self._module) + object.__basicsize__)
        found = _FunctionList.from_address(pointer.value) if pointer.value else None
        if found is None or found.version[0] not in {2, 3}:
            raise BackendError("the PKCS#11 module has no functions of version 2 or 3")
        if not all(found.pointers[place] for place in _NEEDED):
            raise BackendError("the PKCS#11 module lacks a function that signs")
        self._pointers = found.pointers

    def call(self, name: str, *arguments: Any) -> None:
        """Call the function *name*; raise ``CryptokiError`` unless it succeeds."""
        pointer = self._pointers[_FUNCTIONS[name][0]]
        rv: int = CKR.FUNCTION_NOT_SUPPORTED
        if pointer:
            rv = _bind(name, pointer)(*arguments)
        self._require_process()
        if rv:
            raise CryptokiError(name, rv)

    @contextmanager
    def calling(self, name: str) -> Iterator[None]:
        """
        Raise our error for one of python-pkcs11 in the block.

        *name* is the function that the block calls for its result.
        """
        try:
            yield
        except PKCS11Error as e:
            raise CryptokiError(name, _code_of(e)) from None
        except (
            *(IndexError, MemoryError, OverflowError, SystemError, ValueError),
            struct.error,
        ):
            # A size or a number that cannot be.
            raise CryptokiError(name, CKR.GENERAL_ERROR) from None
        finally:
            self._require_process()

    def _require_process(self) -> None:
        if os.getpid() != self._pid:
            # The module forked, and this is the child: it must not pay a second time.
            os._exit(os.EX_SOFTWARE)

    def initialize(self, *, with_locks: bool) -> None:
        args = _InitializeArgs(flags=_CKF_OS_LOCKING_OK)
        self.call("C_Initialize", byref(args) if with_locks else None)

    def module(self) -> Module:
        """Return what the module says of itself."""
        module = self._module
        with self.calling("C_GetInfo"):
            module.__init__(self._path)  # type: ignore[misc]
        version = module.library_version
        return Module(module.manufacturer_id, module.library_description, version)

    def tokens(self) -> list[Token]:
        """Return the tokens that are present and answer."""
        with self.calling("C_GetSlotList"):
            slots = self._module.get_slots(token_present=True)
        found = []
        for slot in slots:
            with suppress(CryptokiError):  # Another slot of the module may work.
                found.append(self.token(slot))
        return found

    def token(self, slot: pkcs11.Slot) -> Token:
        info = _TokenInfo()
        self.call("C_GetTokenInfo", slot.slot_id, byref(info))
        with self.calling("C_GetTokenInfo"):
            return Token(slot.get_token(), info.most_sessions)

    def init_token(self, slot: int, so_pin: str, label: str) -> None:
        """Initialize the token in *slot*, which erases it (``C_InitToken``)."""
        pin = so_pin.encode()
        self.call("C_InitToken", slot, pin, len(pin), label.encode().ljust(32))


class Session:
    """
    A session with a token; threads use it one after the other.

    python-pkcs11 does not know of a login, so it does not log out on closing one.
    """

    def __init__(
        self, functions: Functions, token: Token, *, read_write: bool = False
    ) -> None:
        self._functions = functions
        self._calling = functions.calling
        self.keys: dict[bytes, Object] = {}
        with self._calling("C_OpenSession"):
            self._own = token.own.open(rw=read_write)

    def log_in(self, pin: str, user: UserType = UserType.USER) -> None:
        """Log the process in, through all of its sessions with the token."""
        encoded = pin.encode()
        handle: int = self._own.handle  # type: ignore[attr-defined]
        self._functions.call("C_Login", handle, user, encoded, len(encoded))

    def close(self) -> None:
        with self._calling("C_CloseSession"):
            self._own.close()

    def init_pin(self, pin: str) -> None:
        with self._calling("C_InitPIN"):
            self._own.init_pin(pin)

    def find(self, template: Template) -> list[Object]:
        """Return the objects that have the attributes of *template*."""
        # Closed here, since its end calls C_FindObjectsFinal.
        with (
            self._calling("C_FindObjects"),
            closing(self._own.get_objects({**template})) as objects,  # type: ignore[type-var]
        ):
            found = [*islice(objects, _MOST_OBJECTS)]
        if len(found) < _MOST_OBJECTS:
            return found
        raise BackendError("the token has too many objects with these attributes")

    def read(self, key: Object, wanted: Iterable[Attribute]) -> dict[Attribute, bytes]:
        """Return the values of the *wanted* attributes that *key* has and shows."""
        wanted = list(wanted)
        try:
            return self._read(key, wanted)
        except CryptokiError as e:
            if e.rv not in _NOT_SHOWN:
                raise
        found: dict[Attribute, bytes] = {}
        failures = 0
        for attribute in wanted:  # Modules differ in what they fill in after an error.
            try:
                found |= self._read(key, [attribute])
            except CryptokiError as e:
                if e.rv not in _NOT_SHOWN:
                    raise
                failures += e.rv == CKR.FUNCTION_FAILED
                if failures == len(wanted):
                    raise  # Not one attribute: the token is gone.
        return found

    def _read(self, key: Object, wanted: list[Attribute]) -> dict[Attribute, bytes]:
        with self._calling("C_GetAttributeValue"):
            values = key.get_attributes(wanted)
        return {Attribute(name): encode(value) for name, value in values.items()}

    def sign(self, key: Object, digest: bytes) -> bytes:
        """
        Return what the module returns as its ECDSA signature over *digest*.

        python-pkcs11 would ask for the size first, in a call to the device more, and
        trust the answer.
        """
        handle: int = self._own.handle  # type: ignore[attr-defined]
        room = _SignatureRoom()
        size = c_ulong(len(room))
        call = self._functions.call
        call("C_SignInit", handle, _ECDSA, key.handle)
        call("C_Sign", handle, digest, len(digest), room, byref(size))
        return ctypes.string_at(room, min(size.value, len(room)))

    def generate(self, public: Template, private: Template) -> tuple[Object, Object]:
        """Generate an EC key pair, and return its public and private half."""
        curve = {Attribute.EC_PARAMS: public[Attribute.EC_PARAMS]}
        with self._calling("C_GenerateKeyPair"):
            parameters = self._own.create_domain_parameters(
                KeyType.EC, curve, local=True
            )
            halves: tuple[Object, Object] = parameters.generate_keypair(
                store=True,
                capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
                mechanism=Mechanism.EC_KEY_PAIR_GEN,
                public_template={**public},
                private_template={**private},
            )
        return halves

    def create(self, template: Template) -> Object:
        with self._calling("C_CreateObject"):
            return self._own.create_object({**template})

    def destroy(self, keys: Iterable[Object]) -> None:
        for key in keys:
            with self._calling("C_DestroyObject"):
                key.destroy()


_NOT_SHOWN = {
    CKR.ATTRIBUTE_SENSITIVE,
    CKR.ATTRIBUTE_TYPE_INVALID,
    CKR.ATTRIBUTE_VALUE_INVALID,
    CKR.BUFFER_TOO_SMALL,
    # What python-pkcs11 makes of CK_UNAVAILABLE_INFORMATION beside CKR_OK.
    CKR.FUNCTION_FAILED,
}


def encode(value: Value) -> bytes:
    """Return *value* as an attribute has it."""
    if isinstance(value, bool):
        return bytes([value])
    if isinstance(value, int):
        return bytes(c_ulong(value))
    return value.encode() if isinstance(value, str) else value
