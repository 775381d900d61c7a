"""
The functions of a PKCS#11 module, called with ctypes through one function list.

A module may return a new list, with a state of its own, at each ``C_GetFunctionList``
(p11-kit does), so this process asks for it once.  What a module returns is checked
here: sizes, counts and handles may be anything.
"""

import ctypes
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from ctypes import byref, c_ubyte, c_ulong, c_void_p, sizeof
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Final

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
        self.rv = rv
        if rv in CKR._value2member_map_:
            self.name = f"CKR_{CKR(rv).name}"
        elif rv >= _VENDOR_DEFINED:
            self.name = f"CKR_VENDOR_DEFINED+{rv - _VENDOR_DEFINED:#x}"
        else:
            self.name = f"CKR {rv:#x}"
        super().__init__(f"{function}: {self.name}")


class Attribute(IntEnum):
    """The attributes of objects (``CKA_...``)."""

    CLASS = 0x0
    TOKEN = 0x1
    PRIVATE = 0x2
    LABEL = 0x3
    VALUE = 0x11
    KEY_TYPE = 0x100
    ID = 0x102
    SENSITIVE = 0x103
    ENCRYPT = 0x104
    DECRYPT = 0x105
    WRAP = 0x106
    UNWRAP = 0x107
    SIGN = 0x108
    SIGN_RECOVER = 0x109
    VERIFY = 0x10A
    DERIVE = 0x10C
    EXTRACTABLE = 0x162
    LOCAL = 0x163
    NEVER_EXTRACTABLE = 0x164
    ALWAYS_SENSITIVE = 0x165
    MODIFIABLE = 0x170
    COPYABLE = 0x171
    EC_PARAMS = 0x180
    EC_POINT = 0x181


PUBLIC_KEY = 2
"""``CKO_PUBLIC_KEY``"""

PRIVATE_KEY = 3
"""``CKO_PRIVATE_KEY``"""

EC = 3
"""``CKK_EC``"""

SECURITY_OFFICER = 0
"""``CKU_SO``"""

USER = 1
"""``CKU_USER``"""

LOGIN_REQUIRED = 0x4
"""``CKF_LOGIN_REQUIRED``"""

TOKEN_INITIALIZED = 0x400
"""``CKF_TOKEN_INITIALIZED``"""

Value = bool | int | bytes | str
Template = Mapping[Attribute, Value]

_CKM_EC_KEY_PAIR_GEN: Final = 0x1040
_CKM_ECDSA: Final = 0x1041
_CKF_OS_LOCKING_OK: Final = 0x2
_CKF_RW_SESSION: Final = 0x2
_CKF_SERIAL_SESSION: Final = 0x4

_MOST_SLOTS = 256
_MOST_OBJECTS = 10_000
_BATCH = 16
_VALUE_ROOM = 512
"""No attribute that is read is longer; of longer ones it is as if they were absent."""

_SIGNATURE_ROOM = 256

# The position of each function in the list, and the number of its arguments.
_FUNCTIONS = {
    "C_Initialize": (0, 1),
    "C_Finalize": (1, 1),
    "C_GetInfo": (2, 1),
    "C_GetSlotList": (4, 3),
    "C_GetSlotInfo": (5, 2),
    "C_GetTokenInfo": (6, 2),
    "C_InitToken": (9, 4),
    "C_InitPIN": (10, 3),
    "C_OpenSession": (12, 5),
    "C_CloseSession": (13, 1),
    "C_Login": (18, 4),
    "C_Logout": (19, 1),
    "C_CreateObject": (20, 4),
    "C_DestroyObject": (22, 2),
    "C_GetAttributeValue": (24, 4),
    "C_FindObjectsInit": (26, 3),
    "C_FindObjects": (27, 4),
    "C_FindObjectsFinal": (28, 1),
    "C_SignInit": (42, 3),
    "C_Sign": (43, 5),
    "C_GenerateKeyPair": (59, 8),
}


class _Pointers(ctypes.Structure):
    """``CK_FUNCTION_LIST``; a ``CK_ULONG`` has the size of a pointer."""

    _fields_: ClassVar = [
        ("version", c_ubyte * 2),
        ("pointers", c_void_p * 68),
    ]


_PROTOTYPES = {
    name: ctypes.CFUNCTYPE(c_ulong, *[c_void_p] * arguments)
    for name, (_, arguments) in _FUNCTIONS.items()
}


class _InitializeArgs(ctypes.Structure):
    """``CK_C_INITIALIZE_ARGS`` without callbacks: the module uses system mutexes."""

    _fields_: ClassVar = [
        ("callbacks", c_void_p * 4),
        ("flags", c_ulong),
        ("reserved", c_void_p),
    ]


class _Info(ctypes.Structure):
    _fields_: ClassVar = [
        ("cryptoki_version", c_ubyte * 2),
        ("manufacturer", c_ubyte * 32),
        ("flags", c_ulong),
        ("description", c_ubyte * 32),
        ("version", c_ubyte * 2),
    ]


class _SlotInfo(ctypes.Structure):
    _fields_: ClassVar = [
        ("description", c_ubyte * 64),
        ("manufacturer", c_ubyte * 32),
        ("flags", c_ulong),
        ("versions", c_ubyte * 4),
    ]


class _TokenInfo(ctypes.Structure):
    _fields_: ClassVar = [
        ("label", c_ubyte * 32),
        ("manufacturer", c_ubyte * 32),
        ("model", c_ubyte * 16),
        ("serial", c_ubyte * 16),
        ("flags", c_ulong),
        ("most_sessions", c_ulong),
        ("sessions", c_ulong),
        ("most_rw_sessions", c_ulong),
        ("rw_sessions", c_ulong),
        ("sizes", c_ulong * 6),
        ("versions", c_ubyte * 4),
        ("time", c_ubyte * 16),
    ]


class _Attribute(ctypes.Structure):
    _fields_: ClassVar = [
        ("type", c_ulong),
        ("value", c_void_p),
        ("size", c_ulong),
    ]


class _Mechanism(ctypes.Structure):
    _fields_: ClassVar = [
        ("mechanism", c_ulong),
        ("parameter", c_void_p),
        ("size", c_ulong),
    ]


_ECDSA = _Mechanism(_CKM_ECDSA)
_KEY_PAIR = _Mechanism(_CKM_EC_KEY_PAIR_GEN)


@dataclass(frozen=True, slots=True)
class Module:
    """What a module says of itself."""

    manufacturer: str = ""
    description: str = ""
    version: tuple[int, int] = (0, 0)


class Token:
    """A token that is in a slot: its identity, and how many sessions it allows."""

    def __init__(self, slot: int, info: _TokenInfo) -> None:
        self.slot = slot
        self.label = _text(info.label)
        self.manufacturer = _text(info.manufacturer)
        self.model = _text(info.model)
        self.serial = _text(info.serial)
        self.flags: int = info.flags
        # Zero is CK_EFFECTIVELY_INFINITE, and the largest number means "unknown".
        self.most_sessions: int | None = info.most_sessions
        if not 0 < info.most_sessions < _VENDOR_DEFINED:
            self.most_sessions = None


class Functions:
    """The functions of the module at *path*, for this process and not for a fork."""

    def __init__(self, path: str) -> None:
        """
        Load the module, and ask once for its functions.

        Raises:
            BackendError: It is no PKCS#11 module.
        """
        try:
            self._library = ctypes.CDLL(path)
            get_list = self._library.C_GetFunctionList
        except (OSError, AttributeError):
            get_list = None
        if get_list is None:
            raise BackendError("the PKCS#11 module does not load")
        get_list.restype = c_ulong
        pointers = ctypes.POINTER(_Pointers)()
        rv = get_list(byref(pointers))
        if rv != CKR.OK or not pointers or pointers.contents.version[0] not in {2, 3}:
            raise BackendError("the PKCS#11 module has no functions of version 2 or 3")
        self._pointers = pointers.contents.pointers
        self._pid = os.getpid()

    def call(self, name: str, *arguments: Any) -> None:
        """Call the function *name*; raise ``CryptokiError`` unless it succeeds."""
        pointer = self._pointers[_FUNCTIONS[name][0]]
        rv = CKR.FUNCTION_NOT_SUPPORTED
        if pointer:
            rv = _PROTOTYPES[name](pointer)(*arguments)
        if os.getpid() != self._pid:
            # The module forked, and this is the child: it must not pay a second time.
            os._exit(os.EX_SOFTWARE)
        if rv != CKR.OK:
            raise CryptokiError(name, rv)

    def initialize(self, *, with_locks: bool) -> None:
        args = _InitializeArgs(flags=_CKF_OS_LOCKING_OK)
        self.call("C_Initialize", byref(args) if with_locks else None)

    def module(self) -> Module:
        """Return what the module says of itself."""
        info = _Info()
        self.call("C_GetInfo", byref(info))
        major, minor = info.version
        return Module(_text(info.manufacturer), _text(info.description), (major, minor))

    def slot_name(self, slot: int) -> str:
        """Return the manufacturer and the description of *slot*."""
        info = _SlotInfo()
        self.call("C_GetSlotInfo", slot, byref(info))
        return f"{_text(info.manufacturer)} {_text(info.description)}"

    def tokens(self) -> list[Token]:
        """Return the tokens that are present and answer."""
        count, slots = c_ulong(), (c_ulong * _MOST_SLOTS)()
        # A module may look for new slots only when it is asked for their number.
        self.call("C_GetSlotList", 1, None, byref(count))
        count.value = _MOST_SLOTS
        self.call("C_GetSlotList", 1, slots, byref(count))
        found = []
        for slot in slots[: min(count.value, _MOST_SLOTS)]:
            with suppress(CryptokiError):  # Another slot of the module may work.
                found.append(self.token(slot))
        return found

    def token(self, slot: int) -> Token:
        """Return the token in *slot*; raises ``CryptokiError`` if it is gone."""
        info = _TokenInfo()
        self.call("C_GetTokenInfo", slot, byref(info))
        return Token(slot, info)

    def init_token(self, slot: int, so_pin: str, label: str) -> None:
        """Initialize the token in *slot*, which erases it (``C_InitToken``)."""
        pin = so_pin.encode()
        self.call("C_InitToken", slot, pin, len(pin), label.encode().ljust(32))


class Session:
    """
    A session with a token; threads use it one after the other.

    Objects are their handles.
    """

    def __init__(
        self, functions: Functions, token: Token, *, read_write: bool = False
    ) -> None:
        self._call = functions.call
        self.token = token
        handle = c_ulong()
        flags = _CKF_SERIAL_SESSION | (_CKF_RW_SESSION if read_write else 0)
        self._call("C_OpenSession", token.slot, flags, None, None, byref(handle))
        self._handle = handle.value
        self.keys: dict[bytes, int] = {}

    def close(self) -> None:
        self._call("C_CloseSession", self._handle)

    def log_in(self, pin: str, user: int = USER) -> None:
        """Log the process in, through all of its sessions with the token."""
        encoded = pin.encode()
        self._call("C_Login", self._handle, user, encoded, len(encoded))

    def log_out(self) -> None:
        self._call("C_Logout", self._handle)

    def init_pin(self, pin: str) -> None:
        encoded = pin.encode()
        self._call("C_InitPIN", self._handle, encoded, len(encoded))

    def find(self, template: Template) -> list[int]:
        """Return the objects that have the attributes of *template*."""
        wanted = _Attributes(template)
        found: list[int] = []
        count, batch = c_ulong(), (c_ulong * _BATCH)()
        self._call("C_FindObjectsInit", self._handle, wanted.array, len(wanted.array))
        try:
            while len(found) < _MOST_OBJECTS:
                self._call("C_FindObjects", self._handle, batch, _BATCH, byref(count))
                found += batch[: min(count.value, _BATCH)]
                if not count.value:
                    return found
        finally:
            self._call("C_FindObjectsFinal", self._handle)
        raise BackendError("the token has too many objects with these attributes")

    def read(self, key: int, wanted: Iterable[Attribute]) -> dict[Attribute, bytes]:
        """Return the values of the *wanted* attributes that *key* has and shows."""
        wanted = list(wanted)
        try:
            return self._read(key, wanted)
        except CryptokiError as e:
            if e.rv not in _NOT_SHOWN:
                raise
        found: dict[Attribute, bytes] = {}
        for attribute in wanted:  # Modules differ in what they fill in after an error.
            try:
                found |= self._read(key, [attribute])
            except CryptokiError as e:
                if e.rv not in _NOT_SHOWN:
                    raise
        return found

    def _read(self, key: int, wanted: list[Attribute]) -> dict[Attribute, bytes]:
        buffers = [ctypes.create_string_buffer(_VALUE_ROOM) for _ in wanted]
        array = (_Attribute * len(wanted))(
            *[
                _Attribute(attribute, ctypes.addressof(buffer), _VALUE_ROOM)
                for attribute, buffer in zip(wanted, buffers, strict=True)
            ]
        )
        self._call("C_GetAttributeValue", self._handle, key, array, len(array))
        return {
            attribute: buffer.raw[: entry.size]
            for attribute, buffer, entry in zip(wanted, buffers, array, strict=True)
            if entry.size <= _VALUE_ROOM
        }

    def sign(self, key: int, digest: bytes) -> bytes:
        """Return what the module returns as its ECDSA signature over *digest*."""
        size, room = c_ulong(_SIGNATURE_ROOM), (c_ubyte * _SIGNATURE_ROOM)()
        self._call("C_SignInit", self._handle, byref(_ECDSA), key)
        self._call("C_Sign", self._handle, digest, len(digest), room, byref(size))
        return ctypes.string_at(room, min(size.value, _SIGNATURE_ROOM))

    def generate(self, public: Template, private: Template) -> tuple[int, int]:
        """Generate an EC key pair, and return its public and private half."""
        halves = c_ulong(), c_ulong()
        first, second = _Attributes(public), _Attributes(private)
        self._call(
            "C_GenerateKeyPair",
            *(self._handle, byref(_KEY_PAIR)),
            *(first.array, len(public), second.array, len(private)),
            *map(byref, halves),
        )
        return halves[0].value, halves[1].value

    def create(self, template: Template) -> int:
        wanted, key = _Attributes(template), c_ulong()
        self._call(
            *("C_CreateObject", self._handle, wanted.array, len(wanted.array)),
            byref(key),
        )
        return key.value

    def destroy(self, keys: Iterable[int]) -> None:
        for key in keys:
            self._call("C_DestroyObject", self._handle, key)


_NOT_SHOWN = {
    CKR.ATTRIBUTE_SENSITIVE,
    CKR.ATTRIBUTE_TYPE_INVALID,
    CKR.ATTRIBUTE_VALUE_INVALID,
    CKR.BUFFER_TOO_SMALL,
}


class _Attributes:
    """A template as an array of ``CK_ATTRIBUTE``, with the values that it points to."""

    def __init__(self, template: Template) -> None:
        self._values = [
            ctypes.create_string_buffer(encode(value)) for value in template.values()
        ]
        self.array = (_Attribute * len(template))(
            *[
                # Without the zero byte that each buffer ends with.
                _Attribute(attribute, ctypes.addressof(value), sizeof(value) - 1)
                for attribute, value in zip(template, self._values, strict=True)
            ]
        )


def encode(value: Value) -> bytes:
    """Return *value* as an attribute has it."""
    if isinstance(value, bool):
        return bytes([value])
    if isinstance(value, int):
        return bytes(c_ulong(value))
    return value.encode() if isinstance(value, str) else value


def _text(padded: Iterable[int]) -> str:
    """Return a text that is padded with spaces or, against the standard, with zeros."""
    return bytes(padded).decode(errors="replace").rstrip(" \0")
