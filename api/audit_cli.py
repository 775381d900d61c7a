"""``hotwallet audit``: hand the evidence out, and hold it against others'."""

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn

import click

from api.audit_reports import (
    reconciliation_document,
    reconciliation_told,
    verdict_document,
    verdict_told,
)
from api.logs import answer_alone
from signer.audit.checkpoints import CheckpointKey, Verifier, read
from signer.audit.cloudtrail import read_trail
from signer.audit.export import export as exported
from signer.audit.export import records
from signer.audit.lines import MAX_LINE
from signer.audit.notary import Signing
from signer.audit.reconcile import reconcile as compare
from signer.audit.record import Record
from signer.audit.sealing import Sealer
from signer.audit.verify import verify as judge
from signer.audit.walking import batches, newest
from signer.errors import ConfigurationError, HotWalletError, InvalidInputError
from signer.ports import Journal
from signer.settings import Settings
from softhsm.files import appearing, write_whole


_EVERY = 100_000

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FILE_OR_FOLDER = click.Path(exists=True, path_type=Path)
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one object.")


@click.group()
def audit() -> None:
    """
    The evidence: what was asked of which key, by whom, and what came of it.

    Exits with 0 when all is well, 1 when something was found, 2 when that could not
    be told.
    """


@audit.command()
@click.argument("export", type=_FILE)
@click.option(
    "--public-key",
    "keys",
    type=_FILE,
    multiple=True,
    required=True,
    help="The checkpoint key, and those before it.",
)
@click.option(
    "--checkpoint",
    "kept",
    type=_FILE,
    multiple=True,
    help="One that was kept elsewhere: a note, or log lines that hold notes.",
)
@_AS_JSON
def verify(
    export: Path, keys: Sequence[Path], kept: Sequence[Path], as_json: bool
) -> None:
    """Verify EXPORT with a public key alone, and name the first record that is bad."""
    with _what_cannot_be_told(), export.open("rb") as file:
        verifier = Verifier(*(path.read_bytes() for path in keys))
        notes = [note for path in kept for note in _notes(path)]
        verdict = judge(_lines(file), verifier, notes)
    _answer(verdict_document(verdict), verdict_told(verdict), as_json=as_json)
    if not verdict.is_good:
        sys.exit(1)


@audit.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path))
def export(out: Path | None) -> None:
    """Write the whole chain to standard output, or to a file."""
    with _what_cannot_be_told():
        settings, journal = _opened()
        lines = _counted(exported(journal, _origin(settings)))
        if out is None:
            sys.stdout.buffer.writelines(lines)
            sys.stdout.buffer.flush()
        else:
            with appearing(out) as file:
                file.writelines(lines)


@audit.command()
@click.option("--new", is_flag=True, help="Make one now.")
def checkpoint(new: bool) -> None:
    """Print the newest checkpoint, for somebody who keeps it elsewhere."""
    with _what_cannot_be_told():
        settings, journal = _opened()
        if new:
            sealer = Sealer(journal, _signing(settings))
            sealer.work()
            made = sealer.checkpoint()
        else:
            made = newest(journal)
    if made is None:
        _cannot_tell("there is no checkpoint: set AUDIT_SIGNING_KEY_FILE")
    click.echo(made.note, nl=False)


@audit.command()
@click.option(
    "--cloudtrail",
    "trails",
    type=_FILE_OR_FOLDER,
    multiple=True,
    required=True,
    help="A log file of CloudTrail, or a folder of them.",
)
@click.option("--export", "source", type=_FILE, help="Instead of the database.")
@click.option("--key", "keys", multiple=True, help="Look at the key of this ARN alone.")
@_AS_JSON
def reconcile(
    trails: Sequence[Path], source: Path | None, keys: Sequence[str], as_json: bool
) -> None:
    """Hold our records against CloudTrail's: did anybody else sign?"""
    with _what_cannot_be_told():
        trail = read_trail(trails)
        with contextlib.ExitStack() as stack:
            if source is None:
                ours = _of_journal(_opened()[1])
            else:
                ours = records(_lines(stack.enter_context(source.open("rb"))))
            found = compare(ours, trail, keys)
    told = reconciliation_told(found)
    _answer(reconciliation_document(found), told, as_json=as_json)
    if not found.is_good:
        sys.exit(1)


@audit.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
def key(out: Path) -> None:
    """Make a key for checkpoints; its public key goes beside it, to hand out."""
    made = CheckpointKey.generate()
    with _what_cannot_be_told():
        write_whole(out, made.private_pem(), os.link)
        public = out.with_name(f"{out.name}.pub.pem")
        write_whole(public, made.public_pem(), os.link, mode=0o644)
    click.echo(f"wrote {out} and {public}")


def _opened() -> tuple[Settings, Journal]:
    from api.bootstrap import open_ledger  # noqa: PLC0415  Help needs no backend.

    with answer_alone() as settings:
        return settings, open_ledger(os.environ)


def _origin(settings: Settings) -> str:
    return f"hotwallet/{settings.audit_origin}"


def _signing(settings: Settings) -> Signing | None:
    path = settings.audit_signing_key_file
    if path is None:
        return None
    return Signing(CheckpointKey.load(path), _origin(settings))


def _of_journal(journal: Journal) -> Iterator[Record]:
    for batch in batches(journal):
        for each in batch:
            yield each.record


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines, none of which is longer than a line of ours can be."""
    while line := file.readline(MAX_LINE):
        yield line


def _notes(path: Path) -> list[str]:
    """
    Return the checkpoints in a file: a note, or log lines with notes in them.

    Raises:
        InvalidInputError: There is none.
    """
    text = path.read_bytes().decode(errors="replace")
    if not text.lstrip().startswith("{"):
        read(text)
        return [text]
    notes = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            said = json.loads(line)
            if isinstance(said, dict) and said.get("event") == "audit-checkpoint":
                notes.append(str(said.get("note")))
    if not notes:
        raise InvalidInputError(f"{path.name} holds no checkpoint")
    return notes


def _counted(lines: Iterable[bytes]) -> Iterator[bytes]:
    for number, line in enumerate(lines, 1):
        yield line
        if number % _EVERY == 0:
            click.echo(f"{number} lines", err=True)


def _answer(document: object, told: Iterable[str], *, as_json: bool) -> None:
    for line in [json.dumps(document)] if as_json else told:
        click.echo(line)


class _CannotTellError(click.ClickException):
    exit_code = 2


def _cannot_tell(problem: str) -> NoReturn:
    raise _CannotTellError(problem)


@contextlib.contextmanager
def _what_cannot_be_told() -> Iterator[None]:
    """Keep 1 for what was found: whatever stands in the way of looking is a 2."""
    try:
        yield
    except ConfigurationError:
        raise
    except HotWalletError as e:
        problem = f"{e.code}: {e}"
    except OSError as e:
        problem = f"{e.strerror or type(e).__name__}"
    else:
        return
    _cannot_tell(problem)
