"""``hotwallet audit reconcile`` compares signatures with CloudTrail."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from api.cli.audit import open_ledger, read_lines, report_progress
from api.cli.output import json_option, print_result


if TYPE_CHECKING:
    from api.extras.cloudtrail.reconciliation import Reconciliation, SignEvent


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_MAX_ID = 100
"""How many characters are printed of an id that another program may have chosen."""


@click.command()
@click.option(
    "--cloudtrail",
    "trails",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    required=True,
    help="A CloudTrail log file, or a directory of them.",
)
@click.option(
    "--export", "source", type=_FILE, help="Read an export instead of the database."
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    callback=lambda _, __, names: _require_key_arns(names),
    help="The ARN of a key to compare; by default all of ours.",
)
@json_option
def reconcile(
    trails: Sequence[Path], source: Path | None, keys: Sequence[str], as_json: bool
) -> None:
    """
    Compare audit records with CloudTrail, to find signatures that we did not request.

    Exits with 0 if both sides agree, 1 if they differ, and 2 if nothing was compared:
    the wrong files, keys or database.
    """
    from api.extras.cloudtrail import reconciliation
    from api.extras.cloudtrail.reconciliation import read_trail
    from signer.audit import export as exports
    from signer.audit.hash_chain import batches

    trail = read_trail(trails)
    if source is None:
        _, ledger = open_ledger()
        known, backend = ledger.keys(), reconciliation.BACKEND
        ring = [key.key_id for key in known if key.backend == backend]
        records = (each.record for batch in batches(ledger) for each in batch)
        found = reconciliation.reconcile(records, trail, keys, ring)
    else:
        with source.open("rb") as file:
            lines = report_progress(read_lines(file))
            found = reconciliation.reconcile(exports.records(lines), trail, keys)
    print_result(
        reconciliation_document(found), reconciliation_lines(found), as_json=as_json
    )
    if found.is_empty:
        click.echo(f"nothing was compared: {describe_empty(found)}", err=True)
    if not found.is_good:
        sys.exit(1)
    if found.is_empty:
        sys.exit(2)


def _require_key_arns(names: Sequence[str]) -> Sequence[str]:
    from api.extras.cloudtrail.reconciliation import is_key_arn

    for number, name in enumerate(names, 1):
        if not is_key_arn(name):
            # The value is not repeated: no output contains ARNs, or parts of them.
            raise click.BadParameter(
                f"value {number} is not a full key ARN;"
                " `aws kms describe-key` prints it"
            )
    return names


def reconciliation_document(found: Reconciliation) -> Mapping[str, Any]:
    from api.views.values import fields, timestamp

    return {
        "ok": found.is_good and not found.is_empty,
        "compared": not found.is_empty,
        "matched": found.matched,
        "intruders": [_event_document(event) for event in found.intruders],
        "missing": [
            {
                "record": signature.record_id,
                "requestId": signature.request_id,
                "at": timestamp(signature.at),
            }
            for signature in found.missing
        ],
        "explained": [
            {
                **_event_document(each.event),
                "record": each.record_id,
                "reason": each.reason,
            }
            for each in found.explained
        ],
        **fields(found, "outside", "failed", "records"),
        "passedOver": found.skipped,
        "otherKeys": found.other_keys,
        "malformed": [
            {"record": each.record_id, "problem": each.problem}
            for each in found.malformed
        ],
    }


def reconciliation_lines(found: Reconciliation) -> Iterator[str]:
    from api.views.audit_reports import printable
    from api.views.values import timestamp

    for event in found.intruders:
        yield (
            f"INTRUDER: {event.prefix} signed at {timestamp(event.at)} without an audit"
            f" record: request {event.request_id}, event {event.event_id}; follow"
            " docs/how-to/key-compromise.md"
        )
    for record in found.malformed:
        name = printable(record.record_id[:_MAX_ID])
        yield (
            f"MALFORMED: {name}: {record.problem}: another program wrote this record to"
            " the database; follow docs/how-to/alarms.md, audit-record-forged"
        )
    for signature in found.missing:
        yield (
            f"not in CloudTrail: request {signature.request_id} of record"
            f" {signature.record_id}; is a log file missing?"
        )
    for each in found.explained:
        yield (
            f"explained by {each.reason} of {each.record_id}: request"
            f" {each.event.request_id} at {timestamp(each.event.at)}"
        )
    yield (
        f"{found.matched} matched, {found.failed} refused by KMS,"
        f" {found.outside} outside the time that the files cover"
    )
    if found.skipped:
        yield f"skipped: {found.skipped} Sign events of {found.other_keys} other keys"


def describe_empty(found: Reconciliation) -> str:
    """Return why nothing was compared, and what to do."""
    if found.records == 0:
        return (
            f"the audit has no record of the compared keys, and CloudTrail"
            f" {found.events} events: check DATABASE_URL or --export, and --key"
        )
    if found.skipped:
        return (
            f"all {found.skipped} Sign events are of other keys: check that the files"
            " are of the account and region of the key, and check --key"
        )
    return (
        "the files contain no Sign event: use files of a time at which something was"
        " signed; the trail must log read events (docs/how-to/alarms.md)"
    )


def _event_document(event: SignEvent) -> dict[str, Any]:
    from api.views.values import timestamp

    # The caller and its address stay in CloudTrail.
    return {
        "eventId": event.event_id,
        "requestId": event.request_id,
        "keyId": event.prefix,
        "at": timestamp(event.at),
    }
