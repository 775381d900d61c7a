"""
Explains signatures whose CloudTrail request id is in no audit record.

Two things can cause one, and each leaves a trace in the audit: a reply that was lost,
so that its request id is unknown (more ``attempts`` than ids), and a process that died
between request and result.  A trace explains only as many events as it can have caused,
near its own time.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from signer.audit.cloudtrail import SignEvent
from signer.audit.signing_records import SigningRecord


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
    # For a refund that is the refund: the request in its reservation has no digest yet,
    # and another process may continue the work.
    fields = record.fields
    refund_id = fields.get("refund_id")
    key = (fields["key_id"], fields.get("operation"), fields.get("network"))
    if refund_id is not None:
        return (*key, refund_id)
    names = ("digest", "actor", "request_id", "node", "pid")
    return (*key, *map(fields.get, names))
