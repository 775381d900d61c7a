"""
One line of evidence, as it is stored: canonical, and final once it is written.

The body is JSON in the one form that RFC 8785 allows, so that its bytes, and with
them its hash, can be made again by anybody from what it says.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Self

import rfc8785


NOTHING: Mapping[str, Any] = MappingProxyType({})


class Operation(StrEnum):
    """What the record is about."""

    TRANSACTION_SIGNING = "transaction-signing"
    MESSAGE_SIGNING = "message-signing"
    SELF_TEST = "self-test"
    KEY_ROTATION = "key-rotation"
    KEY_RELOCATION = "key-relocation"
    KEY_SWEEP = "key-sweep"
    ADMINISTRATION = "administration"


@dataclass(frozen=True, slots=True)
class Actor:
    """
    On whose behalf something is done; the audit log asks.

    ``name`` is the subject of a verified token, or the name of a process that acts of
    its own accord, such as ``worker``.  ``token_id`` is the token's ``jti``.
    """

    name: str
    request_id: str | None = None
    token_id: str | None = None


@dataclass(frozen=True, slots=True)
class Purpose:
    """
    Why a signature is wanted, and on whose behalf.

    ``details`` say more, by names of ours: texts, integers and booleans, no secrets.
    """

    operation: Operation
    network: str | None = None
    actor: str | None = None
    request_id: str | None = None
    refund_id: str | None = None
    token_id: str | None = None
    details: Mapping[str, str | int] = field(default_factory=lambda: NOTHING)


@dataclass(frozen=True, slots=True)
class Subject:
    """The key that a record is about."""

    backend: str
    key_id: str = field(repr=False)
    address: str


@dataclass(frozen=True, slots=True)
class Record:
    """
    A record with its name, which sorts by time, and its canonical JSON.

    It has its place in the chain from the moment that it is sealed.
    """

    id: str
    body: str

    @classmethod
    def of(cls, fields: Mapping[str, Any], at: datetime) -> Self:
        """
        Return *fields* as a record that was made at *at*.

        Of a text that is no Unicode, as a shell may hand it to us, it has "?" in place
        of what nobody can write down: nothing must be left undone for that.

        Raises:
            ValueError: A float that is no number, or an integer beyond 2**53; a
                programming error.
        """
        said = dict(fields)
        try:
            body = rfc8785.dumps(said)
        except ValueError:
            body = rfc8785.dumps(_in_unicode(said))
        return cls(new_record_id(at), body.decode())

    @property
    def fields(self) -> dict[str, Any]:
        """What the record says."""
        said: dict[str, Any] = json.loads(self.body)
        return said


@dataclass(frozen=True, slots=True)
class Sealed:
    """A record in its place: ``sequence`` counts from 1, ``hash`` has 32 bytes."""

    sequence: int
    hash: bytes
    record: Record


def _in_unicode(fields: dict[str, Any]) -> dict[str, Any]:
    """Return *fields* with a question mark for each half of a surrogate pair."""
    text = json.dumps(fields, ensure_ascii=False)
    legible: dict[str, Any] = json.loads(text.encode(errors="replace"))
    return legible


def new_record_id(at: datetime) -> str:
    """
    Return 60 bits of time and 68 random ones, in hex behind ``au_``.

    48 bits are milliseconds, and 12 the microseconds behind them: what one process
    writes sorts in its order.
    """
    milliseconds = int(at.timestamp()) * 1000 + at.microsecond // 1000
    time = f"{milliseconds:012x}{at.microsecond % 1000:03x}"
    return f"au_{time}{secrets.token_hex(9)[:17]}"
