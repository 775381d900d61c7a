"""``hotwallet audit report`` and ``hotwallet audit verify-report``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from api.cli.audit import (
    checkpoints_option,
    open_ledger,
    public_keys_option,
    read_checkpoints,
    read_lines,
    report_progress,
)
from api.cli.options import read_moment
from api.cli.output import Result, prints
from signer.private_files import write_whole


if TYPE_CHECKING:
    from api.extras.audit_report.report import Report, ReportPeriod
    from signer.audit.checkpoints import CheckpointKey, Verifier

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_NEW = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("export", type=_FILE, required=False)
@click.option(
    "--from",
    "start",
    callback=read_moment,
    required=True,
    help="The first day, or time (UTC), of the period.",
)
@click.option(
    "--to",
    "end",
    callback=read_moment,
    required=True,
    help="The day, or time, before which the period ends.",
)
@click.option("--out", type=_NEW, required=True, help="Write the report to this file.")
@click.option("--html", "page", type=_NEW, help="Write it as a page to this file.")
@click.option(
    "--public-key",
    "keys",
    type=_FILE,
    multiple=True,
    help="The public checkpoint key in PEM; repeat it for earlier keys. The service's"
    " own is known.",
)
@checkpoints_option
@prints
def report(
    *,
    export: Path | None,
    start: datetime,
    end: datetime,
    out: Path,
    page: Path | None,
    keys: Sequence[Path],
    checkpoints: Sequence[Path],
) -> Result:
    """
    Write what was changed in a period, as evidence that verifies offline.

    It has each change of keys, people, rules, limits and configuration, each stop,
    restore and failed check, with its record. It reads EXPORT, or else the database,
    and then AUDIT_SIGNING_KEY_FILE signs it.

    Example: hotwallet audit report --from 2026-11-01 --to 2026-12-01 --out nov.jsonl
    """
    from api.extras.audit_report.page import render
    from api.extras.audit_report.report import ReportPeriod, sign

    period = ReportPeriod(start, end)
    pems = [path.read_bytes() for path in keys]
    key = None
    if export is None:
        key, read = _open_database()
        pems += [] if key is None else [key.public_pem()]
    else:
        read = _reader(export)
    if not pems:
        raise click.UsageError("pass --public-key: there is no checkpoint key")
    made = _make(read, period, pems, checkpoints)
    if made.lines is None:
        return _refusal(made)
    signature = []
    if key is not None:
        signature.append(sign(made.lines, str(made.verdict.origin), key))
    write_whole(out, b"".join([*made.lines, *signature]))
    if page is not None:
        write_whole(page, render(made.lines).encode())
    listed = len(made.lines) - 2
    document = {"ok": True, "listed": listed, "signed": bool(signature)}
    signed = "signed" if signature else "not signed: the service signs its own"
    return Result(document, [f"wrote {listed} records to {out}, {signed}"])


@click.command("verify-report")
@click.argument("report", type=_FILE)
@click.argument("export", type=_FILE)
@public_keys_option
@click.option("--html", "page", type=_FILE, help="Compare this page as well.")
@checkpoints_option
@prints
def verify_report(
    *,
    report: Path,
    export: Path,
    keys: Sequence[Path],
    page: Path | None,
    checkpoints: Sequence[Path],
) -> Result:
    """
    Verify EXPORT, make the report of the same period from it, and compare REPORT.

    Exits with 1 if one of them was changed.
    """
    from api.extras.audit_report.page import render
    from api.extras.audit_report.report import find_problems, read_report

    lines = report.read_bytes().splitlines(keepends=True)
    period, signature = read_report(lines)
    pems = [path.read_bytes() for path in keys]
    made = _make(_reader(export), period, pems, checkpoints)
    if made.lines is None:
        return _refusal(made)
    problems = list(find_problems(lines, made.lines, _verifier(pems)))
    if page is not None and page.read_bytes() != render(made.lines).encode():
        problems.append(f"{page} is not the page that this release makes of the log")
    document = {
        "ok": not problems,
        "listed": len(made.lines) - 2,
        "signed": signature is not None,
        "problems": problems,
    }
    signed = "signed" if signature is not None else "not signed"
    good = f"ok: {len(made.lines) - 2} records, as in the log; {signed}"
    bad = [f"BAD: {each}" for each in problems]
    return Result(document, bad or [good], not problems)


def _verifier(pems: Sequence[bytes]) -> Verifier:
    from signer.audit.checkpoints import Verifier

    return Verifier(*pems)


def _reader(export: Path) -> Callable[[], Iterable[bytes]]:
    def read() -> Iterable[bytes]:
        with export.open("rb") as file:
            yield from report_progress(read_lines(file))

    return read


def _open_database() -> tuple[CheckpointKey | None, Callable[[], Iterable[bytes]]]:
    from api.backend_factories import open_checkpoint_key
    from signer.audit import export as exports

    settings, ledger = open_ledger()
    signing = open_checkpoint_key(settings)
    origin = f"hotwallet/{settings.audit_origin}"
    return (
        None if signing is None else signing.key,
        lambda: report_progress(exports.export(ledger, origin)),
    )


def _make(
    read: Callable[[], Iterable[bytes]],
    period: ReportPeriod,
    pems: Sequence[bytes],
    checkpoints: Sequence[Path],
) -> Report:
    from api.extras.audit_report.report import make_report
    from backends.record_sequences import RecordSequences

    verifier = _verifier(pems)
    notes = [note for path in checkpoints for note in read_checkpoints(path, verifier)]
    return make_report(read, period, verifier, notes, RecordSequences())


def _refusal(made: Report) -> Result:
    """Return that the log does not verify, as ``audit verify`` does."""
    from api.views.audit_reports import verdict_document, verdict_lines

    return Result(verdict_document(made.verdict), verdict_lines(made.verdict), ok=False)
