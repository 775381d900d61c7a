"""``hotwallet audit``: export, verify, check and reconcile the audit log."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from api.cli.audit_files import create_key, read_checkpoints, read_lines
from api.cli.exit_status import CommandError, errors_exit_with_2
from api.cli.output import Result, command_logging, json_option, print_result, prints
from signer.private_files import open_atomic


if TYPE_CHECKING:
    from signer.config.settings import Settings
    from signer.ports.ledger import Ledger


_PROGRESS_LINES = 100_000

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class _AuditGroup(click.Group):
    """Commands that exit with 2 on errors, since 1 means that a problem was found."""

    def invoke(self, ctx: click.Context) -> None:
        with errors_exit_with_2():
            super().invoke(ctx)


@click.group(cls=_AuditGroup)
def audit() -> None:
    """
    Export, verify, check and reconcile the audit log.

    Exits with 0 if all is well, 1 if a problem was found, 2 if the command could not
    check or do what was asked.
    """


@audit.command()
@click.argument("export", type=_FILE)
@click.option(
    "--public-key",
    "keys",
    type=_FILE,
    multiple=True,
    required=True,
    help="The public checkpoint key in PEM; repeat it for earlier keys.",
)
@click.option(
    "--checkpoint",
    "checkpoints",
    type=_FILE,
    multiple=True,
    help="A file of checkpoints kept elsewhere: notes, or log lines with notes.",
)
@prints
def verify(export: Path, keys: Sequence[Path], checkpoints: Sequence[Path]) -> Result:
    """Verify EXPORT with public keys only, and report the first bad record."""
    from api.backend_factories import open_record_sequences
    from api.views.audit_reports import verdict_document, verdict_lines
    from signer.audit import verify as verification
    from signer.audit.checkpoints import Verifier

    with export.open("rb") as file:
        verifier = Verifier(*(path.read_bytes() for path in keys))
        notes = [
            note for path in checkpoints for note in read_checkpoints(path, verifier)
        ]
        verdict = verification.verify(
            _report_progress(read_lines(file)),
            verifier,
            notes,
            open_record_sequences(),
        )
    return Result(verdict_document(verdict), verdict_lines(verdict), verdict.is_good)


@audit.command()
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this file, which appears once it is complete.",
)
def export(out: Path | None) -> None:
    """Write the whole chain to standard output, or to a file."""
    from signer.audit import export as exports

    settings, journal = _open_ledger()
    origin = f"hotwallet/{settings.audit_origin}"
    lines = _report_progress(exports.export(journal, origin))
    if out is None:
        sys.stdout.buffer.writelines(lines)
        sys.stdout.buffer.flush()
    else:
        with open_atomic(out) as file:
            file.writelines(lines)


@audit.command()
@click.option("--new", is_flag=True, help="Sign one of the whole chain now.")
@prints
def checkpoint(new: bool) -> Result:
    """Print the newest checkpoint, to keep it outside this host."""
    from api.checkpoint_key import open_checkpoint_key
    from api.views.audit_reports import checkpoint_document
    from signer.alerts import Alerts
    from signer.audit.checkpoints import find_newest
    from signer.audit.sealer import Sealer

    settings, ledger = _open_ledger()
    if new:
        sealer = Sealer(ledger, open_checkpoint_key(settings), Alerts(ledger))
        sealer.work()
        made = sealer.checkpoint()
    else:
        signing = open_checkpoint_key(settings)
        found = find_newest(ledger, None if signing is None else signing.verify)
        made = found.checkpoint or next(iter(found.of_others), None)
    if made is None:
        remedy = "`hotwallet audit checkpoint --new` signs one"
        # Outside production a missing key is created.
        if settings.is_production and settings.audit_signing_key_file is None:
            remedy = "set AUDIT_SIGNING_KEY_FILE; `hotwallet audit key` creates a key"
        raise CommandError(f"there is no checkpoint yet: {remedy}")
    return Result(checkpoint_document(made), made.note.splitlines())


@audit.command()
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
    from api.views.audit_reports import (
        describe_empty,
        reconciliation_document,
        reconciliation_lines,
    )
    from signer.audit import export as exports
    from signer.audit import reconcile as reconciliation
    from signer.audit.chain_reader import batches
    from signer.audit.cloudtrail import read_trail

    trail = read_trail(trails)
    if source is None:
        _, ledger = _open_ledger()
        known, backend = ledger.keys(), reconciliation.BACKEND
        ring = [key.key_id for key in known if key.backend == backend]
        records = (each.record for batch in batches(ledger) for each in batch)
        found = reconciliation.reconcile(records, trail, keys, ring)
    else:
        with source.open("rb") as file:
            lines = _report_progress(read_lines(file))
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


@audit.command()
@click.option(
    "--export", "source", type=_FILE, help="Read an export instead of the database."
)
@prints
def configurations(source: Path | None) -> Result:
    """
    List the configurations that processes ran and signed under.

    Exits with 1 if something was signed under a configuration that no start-up record
    describes.
    """
    from api.views.audit_reports import configurations_document, configurations_lines
    from signer.audit import export as exports
    from signer.audit.chain_reader import batches
    from signer.audit.configurations import report_configurations

    if source is None:
        _, ledger = _open_ledger()
        found = report_configurations(
            each.record for batch in batches(ledger) for each in batch
        )
    else:
        with source.open("rb") as file:
            lines = _report_progress(read_lines(file))
            found = report_configurations(exports.records(lines))
    return Result(
        configurations_document(found), configurations_lines(found), found.is_good
    )


@audit.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The private key file; the public key gets this name with .pub.pem added.",
)
@prints
def key(out: Path) -> Result:
    """Create a checkpoint key, and its public key for those who verify."""
    public, is_new = create_key(out)
    document = {
        "privateKeyFile": str(out),
        "publicKeyFile": str(public),
        "created": is_new,
    }
    line = (
        f"created {out} (private) and {public} (public)"
        if is_new
        else f"{out} exists and was not changed; created {public} (public)"
    )
    return Result(document, [line])


def _require_key_arns(names: Sequence[str]) -> Sequence[str]:
    from signer.audit.cloudtrail import is_key_arn

    for number, name in enumerate(names, 1):
        if not is_key_arn(name):
            # The value is not repeated: no output contains ARNs, or parts of them.
            raise click.BadParameter(
                f"value {number} is not a full key ARN;"
                " `aws kms describe-key` prints it"
            )
    return names


def _open_ledger() -> tuple[Settings, Ledger]:
    from api.bootstrap import build_container

    with command_logging() as settings:
        return settings, build_container().store


def _report_progress(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Print progress to standard error: a long chain takes minutes."""
    for number, line in enumerate(lines, 1):
        yield line
        if number % _PROGRESS_LINES == 0:
            click.echo(f"{number} lines", err=True)
