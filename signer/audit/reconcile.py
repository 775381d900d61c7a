"""
Hold our records against CloudTrail, both ways, by the ids of the requests to KMS.

A signature in CloudTrail that no record of ours asked for is an intruder's.  Two
things can make one of ours look like that, and each leaves a trace in our records: a
reply that was lost, so that its id is unknown (more ``attempts`` than ids), and a
process that died between its intent and its outcome.  Such a trace explains as many
events as it can have caused, near its own time, and they are told apart.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from signer.audit.cloudtrail import SignEvent, Trail
from signer.audit.log import SIGN_FINISHED, SIGN_REQUESTED, SUCCESS
from signer.model.audit_record import Record
from signer.redact import key_prefix


BACKEND = "aws-kms"

SKEW = timedelta(seconds=30)
"""How far our clock and CloudTrail's, which tells whole seconds, may be apart."""

CRASH = timedelta(minutes=2)
"""How long after its intent a process that died may have had something signed."""

GRACE = timedelta(minutes=15)
"""CloudTrail delivers late, and a file may begin anywhere."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A signature of ours that should stand in CloudTrail."""

    record_id: str
    request_id: str
    prefix: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Explained:
    """An event without an id of ours, and the record that accounts for it."""

    event: SignEvent
    record_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """
    What came of it.

    ``missing`` are signatures of ours, of the time that the files surely cover, that
    CloudTrail does not have; ``outside`` counts those of other times that it does not
    have.  ``failed`` counts the events of refused calls, which signed nothing.

    ``ours`` counts our records of the keys that count.  ``passed_over`` counts the
    events of ``other_keys`` other keys.
    """

    matched: int
    intruders: tuple[SignEvent, ...]
    missing: tuple[Asked, ...]
    explained: tuple[Explained, ...]
    outside: int
    failed: int
    ours: int
    passed_over: int
    other_keys: int

    @property
    def events(self) -> int:
        """How many events of the keys that count there are."""
        found = len(self.intruders) + len(self.explained)
        return self.matched + found + self.failed

    @property
    def is_empty(self) -> bool:
        """Whether a side has nothing of the keys that count: nothing was compared."""
        return self.ours == 0 or self.events == 0

    @property
    def is_good(self) -> bool:
        """Whether each side has what the other one has, be it nothing."""
        return not self.intruders and not self.missing


@dataclass(slots=True)
class _Trace:
    """What may account for *left* events of a key between two times."""

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


@dataclass(frozen=True, slots=True)
class _Said:
    """One of our signing records, read once."""

    id: str
    at: datetime
    fields: Mapping[str, Any]

    @property
    def prefix(self) -> str:
        return str(self.fields["key_id"])

    @property
    def is_intent(self) -> bool:
        return self.fields["event"] in SIGN_REQUESTED


def reconcile(
    records: Iterable[Record],
    trail: Trail,
    keys: Collection[str] = (),
    ring: Collection[str] = (),
    *,
    grace: timedelta = GRACE,
) -> Reconciliation:
    """
    Compare *records*, all there are, with the calls of ``Sign`` in *trail*.

    Args:
        records: Ours, in any order, from before the files begin until now.
        trail: What CloudTrail has.
        keys: ARNs of the keys that count.  Without any, those whose first eight
            characters our records or *ring* mention.
        ring: Keys that are ours, whether or not a record mentions them.
        grace: How much of the files' time, at either end, they may not have whole.
    """
    said = sorted(_signing(records), key=lambda each: (each.at, not each.is_intent))
    prefixes = set(map(key_prefix, keys)) or {
        *map(key_prefix, ring),
        *(each.prefix for each in said),
    }
    events = [
        event
        for event in trail.signs
        if event.prefix in prefixes
        # Where CloudTrail has no ARN, the prefix is all there is.
        and (not keys or event.key_id in keys or ":" not in event.key_id)
    ]
    counted = {event.event_id for event in events}
    others = [event for event in trail.signs if event.event_id not in counted]
    signed = [event for event in events if event.error_code is None]
    ours = {
        request_id: each
        for each in said
        for request_id in each.fields.get("device_request_ids", ())
    }
    strangers = [event for event in signed if event.request_id not in ours]
    explained = _explain(strangers, [*_lost(said), *_crashed(said)])
    accounted = {each.event.event_id for each in explained}
    missing = _missing(said, {event.request_id for event in signed}, prefixes)
    first, last = trail.first + grace, trail.last - grace
    within = [asked for asked in missing if first <= asked.at <= last]
    return Reconciliation(
        matched=len(signed) - len(strangers),
        intruders=tuple(e for e in strangers if e.event_id not in accounted),
        missing=tuple(within),
        explained=tuple(explained),
        outside=len(missing) - len(within),
        failed=len(events) - len(signed),
        ours=sum(each.prefix in prefixes for each in said),
        passed_over=len(others),
        other_keys=len({event.key_id for event in others}),
    )


def _signing(records: Iterable[Record]) -> Iterator[_Said]:
    for record in records:
        fields = record.fields
        if (
            fields.get("event") in SIGN_REQUESTED | SIGN_FINISHED
            and fields.get("backend") == BACKEND
        ):
            at = datetime.fromisoformat(fields["timestamp"])
            yield _Said(record.id, at, fields)


def _missing(
    said: Iterable[_Said], signed: Collection[str], prefixes: Collection[str]
) -> list[Asked]:
    """
    Return the signatures that we say we have, and that nobody saw.

    What KMS refused it need not have logged; only success is a signature for sure.
    """
    return [
        Asked(each.id, request_id, each.prefix, each.at)
        for each in said
        if each.fields.get("outcome") == SUCCESS and each.prefix in prefixes
        for request_id in each.fields.get("device_request_ids", ())
        if request_id not in signed
    ]


def _lost(said: Iterable[_Said]) -> Iterator[_Trace]:
    """Yield the outcomes that asked more often than they were answered."""
    for each in said:
        if each.is_intent:
            continue
        asked = int(each.fields.get("attempts", 1))
        unknown = asked - len(each.fields.get("device_request_ids", ()))
        if unknown > 0:
            took = timedelta(microseconds=int(each.fields.get("duration_us", 0)))
            yield _Trace(
                each.id, "lost-reply", each.prefix, each.at - took, each.at, unknown
            )


def _crashed(said: Iterable[_Said]) -> Iterator[_Trace]:
    """
    Yield the intents that no outcome followed.

    An outcome ends the last intent of its purpose.  One before that is of a process
    that died, and had its signature, if any, before somebody took the work up again.
    """
    waiting: dict[tuple[object, ...], _Said] = {}
    for each in said:
        begun = waiting.pop(_purpose(each), None)
        if each.is_intent:
            waiting[_purpose(each)] = each
            if begun is not None:
                yield _trace(begun, until=each.at)
    for begun in waiting.values():
        yield _trace(begun, until=begun.at + CRASH)


def _trace(intent: _Said, until: datetime) -> _Trace:
    ends = min(until, intent.at + CRASH)
    return _Trace(intent.id, "crash", intent.prefix, intent.at, ends, left=1)


def _purpose(each: _Said) -> tuple[object, ...]:
    """
    Return what an intent has in common with its outcome.

    For a refund that is the refund: an intent that rides in its reservation has no
    digest yet, and another process may take the work up.
    """
    fields = each.fields
    refund_id = fields.get("refund_id")
    who = (fields["key_id"], fields.get("operation"), fields.get("network"))
    if refund_id is not None:
        return (*who, refund_id)
    names = ("digest", "actor", "request_id", "node", "pid")
    return (*who, *map(fields.get, names))


def _explain(
    strangers: Sequence[SignEvent], traces: Sequence[_Trace]
) -> list[Explained]:
    """
    Give each event to a trace that may have caused it, and each trace its share only.

    To the one that ends first: the others may be needed for what comes later.
    """
    found: list[Explained] = []
    in_time = sorted(traces, key=lambda trace: trace.ends)
    for event in strangers:
        trace = next((trace for trace in in_time if trace.fits(event)), None)
        if trace is not None:
            trace.left -= 1
            found.append(Explained(event, trace.record_id, trace.reason))
    return found
