"""
Reads the audit records of signatures.

Another program that can write to the database may insert records of any form.  Until
the sealer declares one forged, a reader may meet it: it must neither end the reading
nor count as a record of ours.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from signer.audit.actions import SIGN_FINISHED, SIGN_REQUESTED
from signer.audit.forgeries import genuine, read_fields
from signer.audit.hash_chain import is_canonical
from signer.model.audit_record import Record


_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9998, 1, 1, tzinfo=UTC)
_NO_TIME = datetime.min.replace(tzinfo=UTC)

# Far above what any record of ours has.
_MAX_ATTEMPTS = 100
_MAX_DURATION_US = 86_400_000_000  # A day.
_MAX_PID = 2**31
_MAX_TEXT = 256

_TEXTS = ("operation", "network", "refund_id", "digest", "actor", "request_id", "node")


@dataclass(frozen=True, slots=True)
class SigningRecord:
    """A parsed audit record of a signature: its request or its result."""

    id: str
    at: datetime
    fields: Mapping[str, Any]

    @property
    def prefix(self) -> str:
        """The start of the key id, as audit records show it."""
        return str(self.fields["key_id"])

    @property
    def is_request(self) -> bool:
        """Whether the record was written before the signature."""
        return self.fields["event"] in SIGN_REQUESTED

    @property
    def request_ids(self) -> Sequence[str]:
        """The ids of the requests that the device answered."""
        return tuple(self.fields.get("device_request_ids", ()))

    @property
    def attempts(self) -> int:
        """The number of requests to the device."""
        return int(self.fields.get("attempts", 1))

    @property
    def duration(self) -> timedelta:
        """The time of the device and the checks together."""
        return timedelta(microseconds=self.fields.get("duration_us", 0))


@dataclass(frozen=True, slots=True)
class MalformedRecord:
    """
    A record with the event of a signature that no process of the service wrote.

    ``record_id`` may be any text; ``problem`` says what is wrong with the record.
    """

    record_id: str
    problem: str


def read_signing_records(
    records: Iterable[Record], backend: str
) -> tuple[list[SigningRecord], list[MalformedRecord]]:
    """Return the signing records of *backend* by time, requests first, and others."""
    found: list[SigningRecord] = []
    malformed: list[MalformedRecord] = []
    for record in genuine(records, SIGN_REQUESTED | SIGN_FINISHED):
        fields = read_fields(record)
        of = fields.get("backend")
        if isinstance(of, str) and of != backend:
            continue
        if (problem := _find_problem(record, fields)) is None:
            found.append(SigningRecord(record.id, _read_time(fields), fields))
        else:
            malformed.append(MalformedRecord(record.id, problem))
    found.sort(key=lambda record: (record.at, not record.is_request))
    return found, malformed


def _find_problem(record: Record, fields: Mapping[str, Any]) -> str | None:
    """Return why *record* cannot be a signing record of ours; None if it can."""
    if not is_canonical(record):
        return "its id or body is not in canonical form"
    checks = {
        "backend": isinstance(fields.get("backend"), str),
        "timestamp": _EARLIEST <= _read_time(fields) <= _LATEST,
        "key_id": _is_printable(fields.get("key_id")),
        "device_request_ids": _are_printable(fields.get("device_request_ids", [])),
        "attempts": _is_number(fields.get("attempts", 1), _MAX_ATTEMPTS),
        "duration_us": _is_number(fields.get("duration_us", 0), _MAX_DURATION_US),
        "pid": _is_number(fields.get("pid", 0), _MAX_PID),
        **{name: isinstance(fields.get(name), str | None) for name in _TEXTS},
    }
    invalid = [name for name, is_valid in checks.items() if not is_valid]
    return f"it has no valid {', '.join(invalid)}" if invalid else None


def _read_time(fields: Mapping[str, Any]) -> datetime:
    """Return the time of a record; ``_NO_TIME`` if it has no valid one."""
    try:
        at = datetime.fromisoformat(fields["timestamp"])
        return at.astimezone(UTC) if at.tzinfo is not None else _NO_TIME
    except (KeyError, TypeError, ValueError, OverflowError):
        return _NO_TIME


def _is_printable(value: object) -> bool:
    # These are printed, and must not move the cursor of a terminal.
    return isinstance(value, str) and len(value) <= _MAX_TEXT and value.isprintable()


def _are_printable(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_printable, value))


def _is_number(value: object, maximum: int) -> bool:
    return type(value) is int and 0 <= value <= maximum
