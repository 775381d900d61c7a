"""The results of ``hotwallet audit``, as JSON documents and as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from api.views.values import fields, timestamp
from signer.audit.checkpoints import parse
from signer.audit.comparison import Comparison
from signer.audit.verify import BadRecord, ExportVerdict
from signer.ports.audit_journal import Checkpoint
from signer.ports.shipped_log import ShippedLog


if TYPE_CHECKING:  # It needs pydantic, which an auditor does not.
    from signer.audit.configurations import ConfigurationReport


def checkpoint_document(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Return a checkpoint as a JSON object."""
    statement = parse(checkpoint.note).statement
    return {
        "origin": statement.origin,
        "records": statement.size,
        "head": statement.hash.hex(),
        "signedAt": timestamp(statement.at),
        "note": checkpoint.note,
    }


def verdict_document(verdict: ExportVerdict) -> Mapping[str, Any]:
    """Return the verdict as a JSON object."""
    found, checkpoints = verdict.finding, verdict.forged_checkpoints
    return {
        "ok": verdict.is_good,
        "head": verdict.head.hex(),
        **fields(verdict, "origin", "records", "checkpoints", "signed"),
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
        "forged": [
            {
                "record": each.sequence,
                "declaredBy": each.declared_by,
                "canonical": each.is_canonical,
            }
            for each in verdict.forged
        ],
        "forgedCheckpoints": checkpoints
        and {
            **fields(checkpoints, "count", "line"),
            "record": checkpoints.sequence,
            "message": checkpoints.problem,
        },
        "finding": found and _finding(found),
    }


def _finding(found: BadRecord) -> Mapping[str, Any]:
    return {"record": found.sequence, **fields(found, "code", "line", "message")}


def comparison_document(
    shipped: ExportVerdict,
    verdict: ExportVerdict | None,
    comparison: Comparison,
    log: ShippedLog,
) -> Mapping[str, Any]:
    """Return the verdicts on a *shipped* log and an export of it as a JSON object."""
    verdicts = [each for each in (shipped, verdict) if each is not None]
    difference = None if verdict is None else comparison.difference()
    is_whole = not (log.replaced or difference)
    return {
        "ok": is_whole and all(each.is_good for each in verdicts),
        "shipped": verdict_document(shipped),
        "replaced": list(log.replaced),
        "ignored": list(log.ignored),
        "export": verdict and verdict_document(verdict),
        "difference": difference and _finding(difference),
        "unshipped": None if verdict is None else comparison.unshipped,
    }


def comparison_lines(
    shipped: ExportVerdict,
    verdict: ExportVerdict | None,
    comparison: Comparison,
    log: ShippedLog,
) -> Iterator[str]:
    """Return the verdicts on a *shipped* log and an export of it as lines of text."""
    # Another program may have chosen the names.
    lines = _comparison_lines(shipped, verdict, comparison, log)
    return map(printable, lines)


def _comparison_lines(
    shipped: ExportVerdict,
    verdict: ExportVerdict | None,
    comparison: Comparison,
    log: ShippedLog,
) -> Iterator[str]:
    yield from (f"shipped log: {line}" for line in verdict_lines(shipped))
    for name in log.replaced:
        yield f"BAD: another program wrote above {name}, or deleted it"
    for name in log.ignored:
        yield f"ignored: {name} is no part of the log"
    if verdict is None:
        return
    yield from (f"export: {line}" for line in verdict_lines(verdict))
    if difference := comparison.difference():
        yield f"BAD: the export differs: {difference}"
    elif comparison.unshipped:
        yield f"not shipped yet: the last {comparison.unshipped} records"


def verdict_lines(verdict: ExportVerdict) -> Iterator[str]:
    """Return the verdict as lines of text."""
    if verdict.finding is not None:
        yield f"BAD: {verdict.finding}"
        yield f"proved: the first {verdict.signed} records are unchanged"
        return
    yield f"ok: {verdict.records} records of {verdict.origin}"
    if verdict.newest_at is not None:
        yield f"newest record: {timestamp(verdict.newest_at)}"
    if verdict.signed_at is not None:
        at = timestamp(verdict.signed_at)
        yield f"signed: the first {verdict.signed} records, at {at}"
    if verdict.late:
        longest = max(verdict.late, key=lambda each: each.waited)
        yield (
            f"signed late: {len(verdict.late)} times; the longest delay was"
            f" {int(longest.waited.total_seconds())} s, for {longest.records} records"
            f" from record {longest.first}: was the service stopped at that time?"
        )
    if verdict.forged:
        first = verdict.forged[0]
        yield (
            f"forged: {len(verdict.forged)} records, the first is {first.sequence},"
            f" which record {first.declared_by} declares: another program wrote them to"
            " the database; follow docs/how-to/alarms.md, audit-record-forged"
        )
    if (found := verdict.forged_checkpoints) is not None:
        yield (
            f"ignored: {found.count} checkpoints, the first is on line {found.line},"
            f" after record {found.sequence}: {found.problem}; another program wrote"
            " them to the database, or an earlier key is missing (--public-key); follow"
            " docs/how-to/alarms.md, audit-checkpoint-forged"
        )
    if unsigned := verdict.records - verdict.signed:
        yield (
            f"not signed yet: the last {unsigned} records; to prove them, export again"
            " after the next checkpoint"
        )


def configurations_document(found: ConfigurationReport) -> Mapping[str, Any]:
    """Return the configurations as a JSON object."""
    return {
        "ok": found.is_good,
        "configurations": [
            {
                "hash": use.hash,
                "described": use.is_described,
                "signatures": use.signatures,
                "starts": dict(use.starts),
                "firstAt": use.first_at,
                "lastAt": use.last_at,
                "firstRecord": use.first_record,
            }
            for use in found.uses
        ],
        "unnamed": found.unnamed,
    }


def configurations_lines(found: ConfigurationReport) -> Iterator[str]:
    """Return the configurations as lines of text, undescribed ones first."""
    # Another program may have written the records.
    return map(printable, _configurations_lines(found))


def _configurations_lines(found: ConfigurationReport) -> Iterator[str]:
    for use in sorted(found.uses, key=lambda use: use.is_described):
        if not use.is_described:
            yield (
                f"UNDESCRIBED: {use.hash}: {use.signatures} signing records from"
                f" {use.first_record} ({use.first_at} to {use.last_at}); which host"
                " signed without a start-up record?"
            )
            continue
        starts = ", ".join(f"{n} x {kind}" for kind, n in sorted(use.starts.items()))
        yield (
            f"{use.hash}: {use.first_at} to {use.last_at}, started {starts},"
            f" {use.signatures} signing records"
        )
    if found.unnamed:
        yield f"{found.unnamed} signing records name no configuration"


def printable(text: str) -> str:
    """Return *text* without characters that move the cursor of a terminal."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()
