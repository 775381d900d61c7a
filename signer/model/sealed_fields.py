"""
How the fields of a stored row are declared, each once, where its class has it.

``from_row`` makes a row of stored values, and ``changed`` copies one with other values.

The type of a field says how it is stored: ``backends.sql`` derives the column from it.
The MAC of a ``sealed`` class covers each field, except those whose type says why not::

    @sealed("wallet")
    @dataclass(frozen=True)
    class Wallet:
        sender: PrimaryKey[str]
        next_nonce: NotStored[int]
        seen_at: Annotated[datetime, Unprotected("it decides nothing")]
"""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from enum import Enum, StrEnum
from functools import cache
from operator import attrgetter
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
)


T = TypeVar("T")

Class = TypeVar("Class", bound=type[Any])


class TextEnum(StrEnum):
    """An enumeration whose members are hashed as texts, without a call of Python."""

    __hash__ = str.__hash__


class Storage(Enum):
    """How a field is stored, if its type alone does not say it."""

    KEY = "a part of the primary key"
    SMALL = "an integer of 32 bits, not of 64"
    UINT256 = "an integer from 0 to 2**256 - 1"
    FREE_TEXT = "text from outside, which may have characters that cannot be stored"
    NOT_STORED = "made when the row is read"


PrimaryKey = Annotated[T, Storage.KEY]
Small = Annotated[int, Storage.SMALL]
Uint256 = Annotated[int, Storage.UINT256]
FreeText = Annotated[str, Storage.FREE_TEXT]
NotStored = Annotated[T, Storage.NOT_STORED]


@dataclass(frozen=True, slots=True)
class Unprotected:
    """Marks a field that changes without a new MAC; *reason* says why that is safe."""

    reason: str

    def __post_init__(self) -> None:
        if not self.reason:
            raise ValueError("a field outside of the MAC needs a reason")


@dataclass(frozen=True, slots=True)
class StoredField:
    """One column: its Python type, how it is stored, and why no MAC covers it."""

    name: str
    type: type[Any]
    storage: frozenset[Storage]
    is_nullable: bool
    unprotected: str | None


@dataclass(frozen=True, slots=True)
class RowKind:
    """The ``name`` of a kind of row in its MAC; its key; and the fields it covers."""

    name: str
    key: Sequence[str]
    covered: Sequence[str]
    values: Callable[[Any], Sequence[object]]
    """Return the values that the MAC of a row covers."""


class SealedRow(Protocol):
    """An instance of a ``sealed`` class: ``signer.row_macs`` makes its MAC."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def mac(self) -> str | None: ...


KINDS: dict[type[Any], RowKind] = {}
"""The classes whose rows carry a MAC."""


def sealed(name: str) -> Callable[[Class], Class]:
    """Return a decorator of a dataclass whose rows carry a MAC."""

    def declare(kind: Class) -> Class:
        stored = [each for each in stored_fields(kind) if each.name != "mac"]
        key = tuple(each.name for each in stored if Storage.KEY in each.storage)
        covered = tuple(each.name for each in stored if each.unprotected is None)
        KINDS[kind] = RowKind(name, key, covered, attrgetter(*covered))
        return kind

    return declare


def from_row(kind: type[T], values: Sequence[Any]) -> T:
    """
    Return a row of *kind*, a dataclass without slots, whose first fields are *values*.

    The others have their defaults.  It takes less than half the time of a call of the
    class, which sets each field of a frozen one by a call of its own.

    Raises:
        TypeError: A field without a value has no default.
    """
    of: Any = kind
    names, others = _names(of, len(values))
    row = object.__new__(kind)
    object.__setattr__(row, "__dict__", dict(zip(names, values, strict=True), **others))
    return row


@cache
def _names(kind: type[Any], count: int) -> tuple[Sequence[str], dict[str, Any]]:
    """Return the first *count* fields of *kind*, and the defaults of the others."""
    declared = fields(kind)
    defaults = {each.name: each.default for each in declared[count:]}
    if MISSING in defaults.values():
        raise TypeError(f"{kind.__name__} needs more values")
    return tuple(each.name for each in declared[:count]), defaults


def changed(row: T, **changes: Any) -> T:
    """
    Return a copy of *row*, of a dataclass without slots, with *changes*.

    ``dataclasses.replace`` sets each field again, which takes ten times as long.

    Raises:
        TypeError: The class has no such field.
    """
    values = vars(row)
    if not changes.keys() <= values.keys():
        unknown = ", ".join(sorted(changes.keys() - values.keys()))
        raise TypeError(f"{type(row).__name__} has no {unknown}")
    copied = object.__new__(type(row))
    object.__setattr__(copied, "__dict__", {**values, **changes})
    return copied


def stored_fields(kind: type[Any]) -> Sequence[StoredField]:
    """Return the stored fields of the dataclass *kind*, in their order."""
    parsed = (_parse(each.name, each.type) for each in fields(kind))
    return tuple(each for each in parsed if Storage.NOT_STORED not in each.storage)


def _parse(name: str, annotation: Any) -> StoredField:
    marks: list[Any] = []
    is_nullable = False
    while not isinstance(annotation, type):
        origin = get_origin(annotation)
        if origin is Annotated:
            marks += annotation.__metadata__
            annotation = annotation.__origin__
        elif origin in {Union, UnionType}:
            is_nullable = True
            (annotation,) = (a for a in get_args(annotation) if a is not NoneType)
        else:  # Such as a mapping, which is not stored.
            annotation = object
    reasons = [each.reason for each in marks if isinstance(each, Unprotected)]
    storage = frozenset(each for each in marks if isinstance(each, Storage))
    return StoredField(
        name, annotation, storage, is_nullable, reasons[0] if reasons else None
    )
