"""Compares the signatures in audit records with the ``Sign`` events of CloudTrail."""

import gzip
import json
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from signer.audit.actions import SIGN_FINISHED, SIGN_REQUESTED, SUCCESS
from signer.audit.hash_chain import (
    genuine,
    is_canonical,
    read_fields,
    signed_work,
)
from signer.errors import InvalidInputError
from signer.model.audit_record import Record
from signer.redact import key_prefix


_GZIP = b"\x1f\x8b"

_KEY_ARN = re.compile(
    r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/"
    r"([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32})"
)


@dataclass(frozen=True, slots=True)
class SignEvent:
    """
    One call of ``Sign`` in KMS.

    ``key_id`` is an ARN if CloudTrail knows the key.  ``error_code`` is None if the
    call succeeded.  ``principal`` is the ARN of the caller, ``address`` its IP address.
    """

    event_id: str
    request_id: str
    key_id: str = field(repr=False)
    at: datetime
    error_code: str | None
    principal: str | None = field(repr=False)
    address: str | None

    @property
    def prefix(self) -> str:
        """The start of the key id, as audit records show it."""
        return key_prefix(self.key_id)


@dataclass(frozen=True, slots=True)
class Trail:
    """The times that the files span, and their ``Sign`` events."""

    first: datetime
    last: datetime
    signs: tuple[SignEvent, ...]


def is_key_arn(name: str) -> bool:
    """
    Return whether *name* is a full key ARN, as CloudTrail contains it.

    >>> is_key_arn("1234abcd-12ab-34cd-56ef-1234567890ab")
    False
    """
    return _KEY_ARN.fullmatch(name) is not None


def read_trail(paths: Iterable[Path]) -> Trail:
    """
    Read log files, and all files ``*.json`` and ``*.json.gz`` in directories.

    An event that was delivered twice counts once.  Another file, or files without any
    event, raise ``InvalidInputError``.
    """
    times: set[datetime] = set()
    signs: dict[str, SignEvent] = {}
    for path in _files(paths):
        for event in _events(path):
            at = _time(event, path)
            times.add(at)
            if _is_sign(event):
                sign = _sign(event, at, path)
                signs[sign.event_id] = sign
    if not times:
        raise InvalidInputError(
            "the CloudTrail files contain no event: are the paths right?"
        )
    ordered = sorted(signs.values(), key=lambda sign: (sign.at, sign.event_id))
    return Trail(min(times), max(times), tuple(ordered))


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted([*path.rglob("*.json"), *path.rglob("*.json.gz")])
        else:
            yield path


def _events(path: Path) -> list[Any]:
    problem = "is not a CloudTrail log file"
    try:
        content = path.read_bytes()
        if content.startswith(_GZIP):
            content = gzip.decompress(content)
        events = json.loads(content)["Records"]
        if isinstance(events, list):
            return events
    except OSError as e:
        problem = f"cannot be read ({type(e).__name__})"
    except (ValueError, KeyError, TypeError, EOFError, zlib.error, RecursionError):
        pass
    raise InvalidInputError(f"{path.name} {problem}")


def _is_sign(event: Mapping[str, Any]) -> bool:
    call = event.get("eventSource"), event.get("eventName")
    return call == ("kms.amazonaws.com", "Sign")


def _time(event: object, path: Path) -> datetime:
    try:
        at = datetime.fromisoformat(event["eventTime"])  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        at = None
    if at is None or at.tzinfo is None:
        raise InvalidInputError(f"{path.name} has an event without eventTime")
    return at.astimezone(UTC)


def _sign(event: Mapping[str, Any], at: datetime, path: Path) -> SignEvent:
    event_id, request_id = _text(event.get("eventID")), _text(event.get("requestID"))
    if event_id is None or request_id is None:
        raise InvalidInputError(
            f"{path.name} has a Sign event without eventID or requestID"
        )
    return SignEvent(
        event_id=event_id,
        request_id=request_id,
        key_id=_key_id(event),
        at=at,
        error_code=_text(event.get("errorCode")),
        principal=_text(_object(event, "userIdentity").get("arn")),
        address=_text(event.get("sourceIPAddress")),
    )


def _key_id(event: Mapping[str, Any]) -> str:
    """Return the ARN of the key, or else the key id that the caller used."""
    resources = event.get("resources")
    for resource in resources if isinstance(resources, list) else ():
        if isinstance(resource, Mapping) and (found := _text(resource.get("ARN"))):
            return found
    return _text(_object(event, "requestParameters").get("keyId")) or ""


def _object(event: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = event.get(name)
    return found if isinstance(found, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


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
    """A record of a signature that no process of the service wrote, and why not."""

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


SKEW = timedelta(seconds=30)
"""How far our clock and CloudTrail's (whole seconds) may differ."""

CRASH = timedelta(minutes=2)
"""How long after its request a process that died may have had a digest signed."""


@dataclass(frozen=True, slots=True)
class ExplainedEvent:
    """An event without an id of ours, and the record that explains it."""

    event: SignEvent
    record_id: str
    reason: str


@dataclass(slots=True)
class _Trace:
    """May explain *left* events of a key between two times."""

    record_id: str
    reason: str
    prefix: str
    begins: datetime
    ends: datetime
    left: int

    def fits(self, event: SignEvent) -> bool:
        return (
            self.left > 0
            and self.prefix == event.prefix
            and self.begins - SKEW <= event.at <= self.ends + SKEW
        )


def explain(
    events: Sequence[SignEvent], records: Sequence[SigningRecord]
) -> list[ExplainedEvent]:
    """
    Return the *events* that *records* explain; both are in the order of time.

    Each event uses the matching trace that ends first, since later events may need the
    others.
    """
    traces = [*_lost_replies(records), *_crashes(records)]
    traces.sort(key=lambda trace: trace.ends)
    found: list[ExplainedEvent] = []
    for event in events:
        trace = next((trace for trace in traces if trace.fits(event)), None)
        if trace is not None:
            trace.left -= 1
            found.append(ExplainedEvent(event, trace.record_id, trace.reason))
    return found


def _lost_replies(records: Iterable[SigningRecord]) -> Iterator[_Trace]:
    """Yield the results with more attempts than request ids."""
    for record in records:
        if record.is_request:
            continue
        unknown = record.attempts - len(record.request_ids)
        if unknown > 0:
            span = record.at - record.duration, record.at
            yield _Trace(record.id, "lost-reply", record.prefix, *span, unknown)


def _crashes(records: Iterable[SigningRecord]) -> Iterator[_Trace]:
    """Yield the requests without a result."""
    # A result belongs to the last request of its work.  An earlier one is of a process
    # that died: if it got a signature, then before another process continued the work.
    waiting: dict[tuple[object, ...], SigningRecord] = {}
    for record in records:
        earlier = waiting.pop(_work(record), None)
        if record.is_request:
            waiting[_work(record)] = record
            if earlier is not None:
                yield _crash(earlier, min(record.at, earlier.at + CRASH))
    for request in waiting.values():
        yield _crash(request, request.at + CRASH)


def _crash(request: SigningRecord, ends: datetime) -> _Trace:
    return _Trace(request.id, "crash", request.prefix, request.at, ends, left=1)


def _work(record: SigningRecord) -> tuple[object, ...]:
    """Return what a request and its result have in common."""
    # For a refund or a batch that is its name: the request in its reservation has no
    # digest yet, and another process may continue the work.
    fields = record.fields
    of = signed_work(fields)
    key = (fields["key_id"], fields.get("operation"), fields.get("network"))
    if of is not None:
        return (*key, of)
    names = ("digest", "actor", "request_id", "node", "pid")
    return (*key, *map(fields.get, names))


BACKEND = "aws-kms"

MARGIN = timedelta(minutes=15)
"""Time at both ends of the files that they may not cover: CloudTrail delivers late."""


@dataclass(frozen=True, slots=True)
class RecordedSignature:
    """A signature in the audit that CloudTrail should have as well."""

    record_id: str
    request_id: str
    prefix: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """
    The result of a comparison.

    ``missing`` are recorded signatures that CloudTrail lacks although the files cover
    their time; ``outside`` counts those that it lacks at other times.  ``failed``
    counts the events of refused calls, which signed nothing.  ``records`` counts our
    signing records of the compared keys, ``skipped`` the events of ``other_keys``.
    ``malformed`` are records that another program wrote, and that were not compared.
    """

    matched: int
    intruders: tuple[SignEvent, ...]
    missing: tuple[RecordedSignature, ...]
    explained: tuple[ExplainedEvent, ...]
    outside: int
    failed: int
    records: int
    skipped: int
    other_keys: int
    malformed: tuple[MalformedRecord, ...] = ()

    @property
    def events(self) -> int:
        """The number of CloudTrail events of the compared keys."""
        found = len(self.intruders) + len(self.explained)
        return self.matched + found + self.failed

    @property
    def is_empty(self) -> bool:
        """Whether one side has nothing about the compared keys."""
        return self.records == 0 or self.events == 0

    @property
    def is_good(self) -> bool:
        """Whether both sides agree; also true if nothing was compared."""
        return not self.intruders and not self.missing and not self.malformed


def reconcile(
    records: Iterable[Record],
    trail: Trail,
    keys: Collection[str] = (),
    ring: Collection[str] = (),
) -> Reconciliation:
    """
    Compare all audit *records*, in any order, with the ``Sign`` events in *trail*.

    *keys* are the ARNs of the keys to compare.  By default all keys are compared whose
    first eight characters are in our records or in *ring*, our key ids.
    """
    known, malformed = read_signing_records(records, BACKEND)
    prefixes = set(map(key_prefix, keys)) or {
        *map(key_prefix, ring),
        *(record.prefix for record in known),
    }
    events = [
        event
        for event in trail.signs
        if event.prefix in prefixes
        # Where CloudTrail has no ARN, only the prefix can be compared.
        and (not keys or event.key_id in keys or ":" not in event.key_id)
    ]
    compared = {event.event_id for event in events}
    others = [event for event in trail.signs if event.event_id not in compared]
    signed = [event for event in events if event.error_code is None]
    recorded = {request_id for record in known for request_id in record.request_ids}
    unrecorded = [event for event in signed if event.request_id not in recorded]
    explained = explain(unrecorded, known)
    accounted = {each.event.event_id for each in explained}
    missing = _missing(known, {event.request_id for event in signed}, prefixes)
    first, last = trail.first + MARGIN, trail.last - MARGIN
    within = [each for each in missing if first <= each.at <= last]
    return Reconciliation(
        matched=len(signed) - len(unrecorded),
        intruders=tuple(e for e in unrecorded if e.event_id not in accounted),
        missing=tuple(within),
        explained=tuple(explained),
        outside=len(missing) - len(within),
        failed=len(events) - len(signed),
        records=sum(record.prefix in prefixes for record in known),
        skipped=len(others),
        other_keys=len({event.key_id for event in others}),
        malformed=tuple(malformed),
    )


def _missing(
    known: Iterable[SigningRecord], signed: Collection[str], prefixes: Collection[str]
) -> list[RecordedSignature]:
    # KMS need not log a call that it refused, so only successes count.
    return [
        RecordedSignature(record.id, request_id, record.prefix, record.at)
        for record in known
        if record.fields.get("outcome") == SUCCESS and record.prefix in prefixes
        for request_id in record.request_ids
        if request_id not in signed
    ]
