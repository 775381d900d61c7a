"""
Reconciles audit records with CloudTrail, in both directions, by KMS request id.

A signature in CloudTrail that no audit record requested is an intruder's, unless
``signing_traces`` explains it.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from signer.audit.actions import SUCCESS
from signer.audit.cloudtrail import SignEvent, Trail
from signer.audit.signing_records import (
    MalformedRecord,
    SigningRecord,
    read_signing_records,
)
from signer.audit.signing_traces import ExplainedEvent, explain
from signer.model.audit_record import Record
from signer.redact import key_prefix


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
    *,
    margin: timedelta = MARGIN,
) -> Reconciliation:
    """
    Compare all audit *records*, in any order, with the ``Sign`` events in *trail*.

    *keys* are the ARNs of the keys to compare.  By default all keys are compared whose
    first eight characters are in our records or in *ring*, our key ids.  *margin* is
    the time at both ends of the files that they may not cover completely.
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
    first, last = trail.first + margin, trail.last - margin
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
