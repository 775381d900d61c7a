"""
An audit record as it is stored: canonical, and immutable once written.

The body is canonical JSON (RFC 8785), so its bytes and its hash can be reproduced from
its content.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Self

from signer.errors import InvalidInputError
from signer.model.decision import Decision
from signer.model.sealed_fields import NotStored, PrimaryKey, Small, sealed


NOTHING: Mapping[str, Any] = MappingProxyType({})

MAX_INTEGER = 2**53 - 1
"""The largest integer of canonical JSON (RFC 8785, appendix D)."""

STANDARD_JSON = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":")
)
"""
Writes the form of RFC 8785, several times as fast, unless there are fractions, whose
digits differ, or names that are not ASCII, which it sorts by code points.
"""


MAX_REASON = 200
"""The longest reason of an ``Actor``, in characters."""

_IDENTIFIED = "token:"

_APPROVER = "approver:"
"""The start of a scope that names a group of approvers."""


class Operation(StrEnum):
    """The operation that a record belongs to; a stored value."""

    TRANSACTION_SIGNING = "transaction-signing"
    MESSAGE_SIGNING = "message-signing"
    SELF_TEST = "self-test"
    KEY_ROTATION = "key-rotation"
    KEY_RELOCATION = "key-relocation"
    KEY_SWEEP = "key-sweep"
    NONCE_FILL = "nonce-fill"
    REFUND = "refund"
    SEALING = "sealing"
    ADMINISTRATION = "administration"
    START = "start"
    CHECK = "check"


def require_reason(reason: str) -> None:
    """Raise ``InvalidInputError`` unless *reason* is one line of printable text."""
    if not (0 < len(reason.strip()) <= len(reason) <= MAX_REASON):
        raise InvalidInputError(
            f"must explain the change, in 1 to {MAX_REASON} characters", field="reason"
        )
    if not reason.isprintable():
        raise InvalidInputError("must be one line of printable text", field="reason")


@dataclass(frozen=True, slots=True)
class Actor:
    """
    The person or process that causes an action.

    The prefix of ``name`` says how it was authenticated: ``token:`` and the subject of
    a verified token, or ``cli:`` and the user of the host.  A process that acts by
    itself has a name without a prefix, such as ``worker``.  ``token_id`` is the ``jti``
    of the token.  ``reason`` is why a person asks for a change, in that person's words:
    the records of the change have it.  ``groups`` are the groups of approvers that the
    token names.
    """

    name: str
    request_id: str | None = None
    token_id: str | None = None
    reason: str = ""
    groups: frozenset[str] = frozenset()

    @classmethod
    def from_token(
        cls,
        subject: str,
        request_id: str,
        token_id: str | None,
        scopes: Iterable[str] | None = None,
    ) -> Self:
        """
        Return the actor of a request with a verified token.

        A scope ``approver:NAME`` makes the subject one of the group NAME.  A token
        without scopes is in no group.
        """
        groups = frozenset(
            each.removeprefix(_APPROVER)
            for each in scopes or ()
            if each.startswith(_APPROVER)
        )
        return cls(identify(subject), request_id, token_id, groups=groups)

    def because(self, reason: str) -> Self:
        """Return the same actor, who acts for *reason*."""
        return replace(self, reason=reason)


def identify(subject: str) -> str:
    """Return the name of the actor who is the *subject* of a verified token."""
    return f"{_IDENTIFIED}{subject}"


def is_identified(name: str) -> bool:
    """Return whether the actor *name* is the subject of a verified token."""
    return name.startswith(_IDENTIFIED)


WORKER = Actor("worker")
"""The process that moves refunds."""


@dataclass(frozen=True, slots=True)
class Purpose:
    """
    Why a signature is requested, and for whom; ``details`` must not be secrets.

    ``Signer`` signs nothing but self-tests without a *decision* of the policy.
    """

    operation: Operation
    network: str | None = None
    actor: str | None = None
    request_id: str | None = None
    refund_id: str | None = None
    token_id: str | None = None
    details: Mapping[str, str | int] = field(default_factory=lambda: NOTHING)
    decision: Decision | None = field(default=None, repr=False)

    def allows(self, digest: bytes) -> bool:
        return self.decision is not None and self.decision.allows(digest)


@dataclass(frozen=True, slots=True)
class Subject:
    """The key that a record is about."""

    backend: str
    key_id: str = field(repr=False)
    address: str


@sealed("audit record")
@dataclass(frozen=True)
class Record:
    """
    A record: its id, which sorts by time, and its body in canonical JSON.

    ``mac`` is the MAC of both by ``signer.row_macs``, which the journal makes.
    """

    id: PrimaryKey[str]
    body: str
    mac: str | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, fields: Mapping[str, Any], at: datetime) -> Self:
        """
        Return a record of *fields*, made at *at*.

        Surrogates in strings, as a shell may pass them, become "?": an operation must
        not fail because of them.

        Raises:
            ValueError: *fields* contain NaN, an infinity, or an integer beyond
                2**53 - 1; a programming error.
        """
        plain = dict(fields)
        try:
            body = write_canonical(plain)
        except ValueError:
            text = json.dumps(plain, ensure_ascii=False).encode(errors="replace")
            body = write_canonical(json.loads(text))
        return cls(new_record_id(at), body)

    @property
    def fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(self.body)
        return fields


@dataclass(frozen=True, slots=True)
class Sealed:
    """A record in the hash chain: ``sequence`` counts from 1, ``hash`` has 32 bytes."""

    sequence: int
    hash: bytes
    record: Record


def new_record_id(at: datetime) -> str:
    """
    Return a new id: ``au_`` and, in hex, 60 bits of time and 68 random bits.

    48 bits are milliseconds and 12 bits microseconds, so the records of one process
    sort in the order in which it made them.
    """
    milliseconds = int(at.timestamp()) * 1000 + at.microsecond // 1000
    time = f"{milliseconds:012x}{at.microsecond % 1000:03x}"
    return f"au_{time}{os.urandom(9).hex()[:17]}"


def made_at(record_id: str) -> datetime | None:
    """Return the time in an id of ``new_record_id``; None for any other id."""
    try:
        return datetime.fromtimestamp(int(record_id[3:15], 16) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def write_canonical(fields: dict[str, Any]) -> str:
    """
    Return *fields* in canonical JSON (RFC 8785).

    Raises:
        ValueError: *fields* contain NaN, an infinity, an integer beyond 2**53 - 1, or
            half a surrogate pair.
    """
    if _is_standard(fields):
        text = STANDARD_JSON.encode(fields)
        text.encode()  # Not half a surrogate pair.
        return text
    import rfc8785  # noqa: PLC0415  No record of an account needs it.

    return rfc8785.dumps(fields).decode()


def _is_standard(fields: Mapping[str, object]) -> bool:
    return all(map(str.isascii, fields)) and _are_standard(fields.values())


def _are_standard(values: Iterable[object]) -> bool:
    """Return whether ``STANDARD_JSON`` writes *values* in the form of RFC 8785."""
    for value in values:
        kind = type(value)
        if kind is str or kind is bool or value is None:
            continue
        if isinstance(value, int):
            is_standard = abs(value) <= MAX_INTEGER
        elif isinstance(value, dict):
            is_standard = _is_standard(value)
        else:
            is_standard = isinstance(value, list) and _are_standard(value)
        if not is_standard:
            return False
    return True


@sealed("audit shipping")
@dataclass(frozen=True)
class AuditShipping:
    """
    How much of the log is at the *place* that it is shipped to; "" if to none.

    These are the records up to number ``sequence``, which has the chain's ``hash``, and
    with them each one that was committed before ``complete_at``, by the ledger's clock.
    An older row only says that less is shipped, so that it cannot permit a signature.
    ``version`` counts the changes: each is a compare-and-set on it.  ``is_authentic``
    is not stored: it is False if the MAC of the stored row is not valid.
    """

    id: PrimaryKey[int]
    place: str
    sequence: int
    hash: bytes
    complete_at: datetime
    version: Small = 0
    mac: str | None = field(default=None, compare=False, repr=False)
    is_authentic: NotStored[bool] = True
