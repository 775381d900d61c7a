"""``hotwallet audit``: export, verify, check and reconcile the audit log."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from api.cli.lazy import LazyGroup
from api.cli.options import CommandError, errors_exit_with_2
from api.cli.output import Result, command_logging, prints
from signer.errors import ConfigurationError, InvalidInputError
from signer.private_files import create_once, open_atomic, write_whole


if TYPE_CHECKING:
    from signer.audit.checkpoints import Verifier
    from signer.config.settings import Settings
    from signer.model.approvers import Approvers
    from signer.ports.ledger import Ledger


_EXPECTED = (
    "expected notes as `hotwallet audit checkpoint` prints them, or log lines with the"
    " event audit-checkpoint, signed by a key of --public-key"
)


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of an export; an overlong line is split, to bound memory."""
    from signer.audit.export import MAX_LINE

    while line := file.readline(MAX_LINE):
        yield line


def read_checkpoints(path: Path, verifier: Verifier) -> Sequence[str]:
    """Return the notes in a file of checkpoints, each verified by *verifier*."""
    from signer.audit.checkpoints import read_notes

    try:
        notes = read_notes(path.read_bytes().decode(errors="replace"))
        for note in notes:
            verifier.verify(note)
    except InvalidInputError as e:
        problem = str(e)
    else:
        return notes
    raise InvalidInputError(f"{path}: {problem}; {_EXPECTED}")


def create_key(
    out: Path, settings: Settings | None = None, arn: str | None = None
) -> tuple[Path, bool]:
    """
    Create a checkpoint key at *out*; return its public key file, and if *out* is new.

    With *arn*, *out* names that key of KMS.

    If *out* is already a checkpoint key, only a missing public key is written.
    """
    from api.backend_factories import load_checkpoint_key, open_checkpoint_signer
    from signer.audit.checkpoints import CheckpointKey

    public = out.with_name(f"{out.name}.pub.pem")
    if public.exists():
        files = f"{out} and {public} exist" if out.exists() else f"{public} exists"
        raise InvalidInputError(
            f"{files}; keys are never overwritten: choose another name for --out"
        )
    if settings is not None and arn is not None:
        open_checkpoint_signer(settings, arn)  # A wrong ARN must leave no file.
    is_new = create_once(
        out,
        lambda: f"{arn}\n".encode() if arn else CheckpointKey.generate().private_pem(),
    )
    try:
        key = (
            CheckpointKey.load(out)
            if settings is None
            else load_checkpoint_key(settings, out)
        )
    except ConfigurationError as e:
        problem = e.refusals[0].message.partition(": ")[2]
        raise InvalidInputError(
            f"{out} exists and is not a usable checkpoint key ({problem}):"
            " fix it, or choose another name for --out"
        ) from None
    write_whole(public, key.public_pem(), os.link, mode=0o644)
    return public, is_new


_PROGRESS_LINES = 100_000

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_EXPORT = click.File("rb")

public_keys_option = click.option(
    "--public-key",
    "keys",
    type=_FILE,
    multiple=True,
    required=True,
    help="The public checkpoint key in PEM; repeat it for earlier keys.",
)

checkpoints_option = click.option(
    "--checkpoint",
    "checkpoints",
    type=_FILE,
    multiple=True,
    help="A file of checkpoints kept elsewhere: notes, or log lines with notes.",
)


class _AuditGroup(LazyGroup):
    """Commands that exit with 2 on errors, since 1 means that a problem was found."""

    def invoke(self, ctx: click.Context) -> None:
        with errors_exit_with_2():
            super().invoke(ctx)


@click.group(cls=_AuditGroup, core={}, path="audit")
def audit() -> None:
    """
    Export, verify, check and reconcile the audit log.

    Exits with 0 if all is well, 1 if a problem was found, 2 if the command could not
    check or do what was asked.
    """


@audit.command()
@click.argument("export", type=_EXPORT, required=False)
@public_keys_option
@checkpoints_option
@click.option(
    "--against",
    metavar="URL",
    help="The shipped log, s3://BUCKET/PREFIX or file:///FOLDER, to verify as well.",
)
@prints
def verify(
    export: BinaryIO | None,
    keys: Sequence[Path],
    checkpoints: Sequence[Path],
    against: str | None,
) -> Result:
    """
    Verify EXPORT with public keys only, and report the first bad record.

    EXPORT may be - for standard input.  With --against, the shipped log is verified
    first.  What it has and EXPORT lacks was deleted.
    """
    from api.views.audit_reports import verdict_document, verdict_lines
    from backends.record_sequences import RecordSequences
    from signer.audit import verify as verification
    from signer.audit.checkpoints import Verifier

    if export is None and against is None:
        raise click.UsageError("pass EXPORT, --against, or both")
    verifier = Verifier(*(path.read_bytes() for path in keys))
    notes = [note for path in checkpoints for note in read_checkpoints(path, verifier)]
    if against is not None:
        return _verify_against(against, export, verifier, notes)
    assert export is not None  # noqa: S101
    verdict = verification.verify(
        report_progress(read_lines(export)), verifier, notes, RecordSequences()
    )
    return Result(verdict_document(verdict), verdict_lines(verdict), verdict.is_good)


def _verify_against(
    url: str, export: BinaryIO | None, verifier: Verifier, notes: Sequence[str]
) -> Result:
    """Verify the log that was shipped to *url*, and *export*, and compare them."""
    from api.extension import open_shipped_log
    from api.views.audit_reports import comparison_document, comparison_lines
    from backends.record_sequences import RecordSequences
    from signer.audit import verify as verification
    from signer.audit.comparison import Comparison

    log, comparison = open_shipped_log(url, os.environ), Comparison()
    lines = comparison.remember(report_progress(log.lines()))
    shipped = verification.verify(lines, verifier, notes, RecordSequences())
    verdict = None
    if export is not None:
        lines = comparison.compare(report_progress(read_lines(export)))
        kept = [*notes, *verifier.select(log.notes)]
        verdict = verification.verify(lines, verifier, kept, RecordSequences())
    found = shipped, verdict, comparison, log
    document = comparison_document(*found)
    return Result(document, comparison_lines(*found), bool(document["ok"]))


@audit.command()
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this file, which appears once it is complete.",
)
def export(out: Path | None) -> None:
    """Write the whole chain to standard output, or to a file."""
    from signer.audit import export as exports

    settings, journal = open_ledger()
    origin = f"hotwallet/{settings.audit_origin}"
    lines = report_progress(exports.export(journal, origin))
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
    from api.backend_factories import open_checkpoint_key
    from api.views.audit_reports import checkpoint_document
    from signer.alerts import Alerts
    from signer.audit.checkpointer import Checkpointer
    from signer.audit.checkpoints import find_newest
    from signer.audit.sealer import Sealer

    settings, ledger = open_ledger()
    if new:
        signing = open_checkpoint_key(settings)
        checkpointer = Checkpointer(ledger, signing, Alerts(ledger))
        Sealer(checkpointer).work()
        made = checkpointer.checkpoint()
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
    from signer.audit.configurations import report_configurations
    from signer.audit.hash_chain import batches

    if source is None:
        _, ledger = open_ledger()
        found = report_configurations(
            each.record for batch in batches(ledger) for each in batch
        )
    else:
        with source.open("rb") as file:
            lines = report_progress(read_lines(file))
            found = report_configurations(exports.records(lines))
    return Result(
        configurations_document(found), configurations_lines(found), found.is_good
    )


@audit.command()
@click.argument("export", type=_EXPORT)
@click.option(
    "--approvers",
    type=_FILE,
    multiple=True,
    required=True,
    help="An APPROVERS_FILE; repeat it for earlier ones.",
)
@prints
def approvals(export: BinaryIO, approvers: Sequence[Path]) -> Result:
    """
    Verify the signatures of approvals in EXPORT, which `audit verify` has verified.
    """
    from signer.audit import export as exports
    from signer.audit.signed_approvals import verify_approvals

    records = exports.records(report_progress(read_lines(export)))
    found = verify_approvals(records, read_approvers(approvers))
    document = {"signed": found.signed, "problems": list(found.problems)}
    lines = [f"{found.signed} approvals are signed by enough people"]
    lines += [f"PROBLEM: {each}" for each in found.problems]
    return Result(document, lines, found.is_good)


def read_approvers(paths: Sequence[Path]) -> Sequence[Approvers]:
    """Return the approvers in the files at *paths*."""
    from signer.model.approvers import load_approvers

    return [each for path in paths if (each := load_approvers(path))]


@audit.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The private key file; the public key gets this name with .pub.pem added.",
)
@click.option("--kms", "arn", metavar="ARN", help="Name this Ed25519 key of KMS.")
@prints
def key(out: Path, arn: str | None) -> Result:
    """Create a checkpoint key, and its public key for those who verify."""
    from signer.config.settings import Settings

    public, is_new = create_key(out, Settings.from_env(os.environ), arn)
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


def open_ledger() -> tuple[Settings, Ledger]:
    from api.bootstrap import build_container

    with command_logging() as settings:
        return settings, build_container().store


def report_progress(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Print progress to standard error: a long chain takes minutes."""
    for number, line in enumerate(lines, 1):
        yield line
        if number % _PROGRESS_LINES == 0:
            click.echo(f"{number} lines", err=True)
