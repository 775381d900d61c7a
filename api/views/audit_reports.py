"""What ``hotwallet audit`` found, for programs and for people."""

from collections.abc import Iterator, Mapping
from typing import Any

from api.views.refunds import timestamp
from signer.audit.cloudtrail import SignEvent
from signer.audit.reconcile import Reconciliation
from signer.audit.verify import Verdict


def verdict_document(verdict: Verdict) -> Mapping[str, Any]:
    """Return the verdict as JSON has it."""
    found = verdict.finding
    return {
        "ok": verdict.is_good,
        "origin": verdict.origin,
        "records": verdict.records,
        "head": verdict.head.hex(),
        "checkpoints": verdict.checkpoints,
        "signed": verdict.signed,
        "signedAt": verdict.signed_at and timestamp(verdict.signed_at),
        "newestAt": verdict.newest_at and timestamp(verdict.newest_at),
        "signedLate": [
            {
                "record": each.first,
                "records": each.records,
                "seconds": int(each.waited.total_seconds()),
            }
            for each in verdict.late
        ],
        "finding": found
        and {
            "code": found.code,
            "record": found.sequence,
            "line": found.line,
            "message": found.message,
        },
    }


def verdict_told(verdict: Verdict) -> Iterator[str]:
    """Say it in lines."""
    if verdict.finding is not None:
        yield f"BAD: {verdict.finding}"
        yield f"proved: the first {verdict.signed} records"
        return
    yield f"ok: {verdict.records} records of {verdict.origin}"
    if verdict.newest_at is not None:
        yield f"newest: of {timestamp(verdict.newest_at)}"
    if verdict.signed_at is not None:
        at = timestamp(verdict.signed_at)
        yield f"signed: the first {verdict.signed}, at {at}"
    if verdict.late:
        longest = max(verdict.late, key=lambda each: each.waited)
        yield (
            f"signed late: {len(verdict.late)} times, longest the {longest.records}"
            f" from {longest.first} on, {int(longest.waited.total_seconds())} s after"
            " a checkpoint was due: was the service stopped then?"
        )
    if behind := verdict.records - verdict.signed:
        yield f"not signed yet: the last {behind}; a newer checkpoint covers them"


def reconciliation_document(found: Reconciliation) -> Mapping[str, Any]:
    """Return the comparison as JSON has it."""
    return {
        "ok": found.is_good and not found.is_empty,
        "compared": not found.is_empty,
        "matched": found.matched,
        "intruders": [_event_document(event) for event in found.intruders],
        "missing": [
            {
                "record": asked.record_id,
                "requestId": asked.request_id,
                "at": timestamp(asked.at),
            }
            for asked in found.missing
        ],
        "explained": [
            {
                **_event_document(each.event),
                "record": each.record_id,
                "reason": each.reason,
            }
            for each in found.explained
        ],
        "outside": found.outside,
        "failed": found.failed,
        "records": found.ours,
        "passedOver": found.passed_over,
        "otherKeys": found.other_keys,
    }


def reconciliation_told(found: Reconciliation) -> Iterator[str]:
    """Say it in lines, the worst first."""
    for event in found.intruders:
        yield (
            f"INTRUDER: {event.prefix} signed at {timestamp(event.at)} for nobody of"
            f" ours: request {event.request_id}, event {event.event_id}"
        )
    for asked in found.missing:
        yield f"not in CloudTrail: {asked.request_id} of record {asked.record_id}"
    for each in found.explained:
        yield (
            f"explained by {each.reason} of {each.record_id}: request"
            f" {each.event.request_id} at {timestamp(each.event.at)}"
        )
    yield (
        f"{found.matched} matched, {found.failed} refused by KMS,"
        f" {found.outside} of a time that the files may not cover"
    )
    if found.passed_over:
        yield (
            f"passed over: {found.passed_over} events of Sign by"
            f" {found.other_keys} other keys"
        )


def why_empty(found: Reconciliation) -> str:
    """Say why nothing was compared, and what to do."""
    if found.ours == 0:
        return (
            f"no record of ours is of the keys that count, and {found.events} events"
            " are: is this the right DATABASE_URL or --export, and the right --key?"
        )
    if found.passed_over:
        return (
            f"all {found.passed_over} events of Sign are of other keys: are these the"
            " files of the key's account and region, and is it the right --key?"
        )
    return (
        "there is no event of Sign in the files: give those of a time at which"
        " something was signed; the trail must log read events (alarms.md)"
    )


def _event_document(event: SignEvent) -> dict[str, Any]:
    # Who called and from where is in CloudTrail, and stays there.
    return {
        "eventId": event.event_id,
        "requestId": event.request_id,
        "keyId": event.prefix,
        "at": timestamp(event.at),
    }
