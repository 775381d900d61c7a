"""``hotwallet audit``: hand the evidence out, and hold it against others'."""

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import click

from api.checkpoint_key import open_signing
from api.cli.audit_files import kept as kept_in
from api.cli.audit_files import lines, make_key
from api.logs import answer_alone
from api.views.audit_reports import (
    reconciliation_document,
    reconciliation_told,
    verdict_document,
    verdict_told,
    why_empty,
)
from signer.alerts import Alerts
from signer.audit.chain_reader import batches, newest
from signer.audit.checkpoints import Verifier
from signer.audit.cloudtrail import is_key_arn, read_trail
from signer.audit.export import export as exported
from signer.audit.export import records
from signer.audit.reconcile import BACKEND
from signer.audit.reconcile import reconcile as compare
from signer.audit.sealer import Sealer
from signer.audit.verify import verify as judge
from signer.config.settings import Settings
from signer.errors import ConfigurationError, HotWalletError
from signer.model.audit_record import Record
from signer.ports import Journal, Ledger
from signer.private_files import appearing


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
    help="Those that were kept elsewhere: notes, or log lines that hold notes.",
)
@_AS_JSON
def verify(
    export: Path, keys: Sequence[Path], kept: Sequence[Path], as_json: bool
) -> None:
    """Verify EXPORT with a public key alone, and name the first record that is bad."""
    with _what_cannot_be_told(), export.open("rb") as file:
        verifier = Verifier(*(path.read_bytes() for path in keys))
        notes = [note for path in kept for note in kept_in(path, verifier)]
        verdict = judge(_counted(lines(file)), verifier, notes)
    _answer(verdict_document(verdict), verdict_told(verdict), as_json=as_json)
    if not verdict.is_good:
        sys.exit(1)


@audit.command()
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file, which appears when all of it is written.",
)
def export(out: Path | None) -> None:
    """Write the whole chain to standard output, or to a file."""
    with _what_cannot_be_told():
        settings, journal = _opened()
        told = _counted(exported(journal, _origin(settings)))
        if out is None:
            sys.stdout.buffer.writelines(told)
            sys.stdout.buffer.flush()
        else:
            with appearing(out) as file:
                file.writelines(told)


@audit.command()
@click.option("--new", is_flag=True, help="Make one now.")
def checkpoint(new: bool) -> None:
    """Print the newest checkpoint, for somebody who keeps it elsewhere."""
    with _what_cannot_be_told():
        settings, ledger = _opened()
        if new:
            sealer = Sealer(ledger, open_signing(settings), Alerts(ledger))
            sealer.work()
            made = sealer.checkpoint()
        else:
            made = newest(ledger)
    if made is None:
        # Outside production a key is made where there is none.
        lacks_key = settings.is_production and settings.audit_signing_key_file is None
        cure = "set AUDIT_SIGNING_KEY_FILE" if lacks_key else "--new makes one"
        _cannot_tell(f"there is no checkpoint: {cure}")
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
@click.option(
    "--key",
    "keys",
    multiple=True,
    callback=lambda _, __, names: _key_arns(names),
    help="The ARN of a key to look at, instead of all that are ours.",
)
@_AS_JSON
def reconcile(
    trails: Sequence[Path], source: Path | None, keys: Sequence[str], as_json: bool
) -> None:
    """
    Hold our records against CloudTrail's: did anybody else sign?

    Exits with 0 when both sides have the same, 1 when something was found, and 2 when
    nothing was compared: the wrong files, keys or database.
    """
    with _what_cannot_be_told():
        trail = read_trail(trails)
        if source is None:
            _, ledger = _opened()
            known = ledger.keys()
            ring = [key.key_id for key in known if key.backend == BACKEND]
            found = compare(_of_journal(ledger), trail, keys, ring)
        else:
            with source.open("rb") as file:
                found = compare(records(_counted(lines(file))), trail, keys)
    told = reconciliation_told(found)
    _answer(reconciliation_document(found), told, as_json=as_json)
    if found.is_empty:
        click.echo(f"nothing was compared: {why_empty(found)}", err=True)
    if not found.is_good:
        sys.exit(1)
    if found.is_empty:
        sys.exit(2)


@audit.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The private key; .pub.pem is added for the public one.",
)
def key(out: Path) -> None:
    """Make a key for checkpoints; its public key goes beside it, to hand out."""
    with _what_cannot_be_told():
        told = make_key(out)
    click.echo(told)


def _key_arns(names: Sequence[str]) -> Sequence[str]:
    """Require ARNs; ids, aliases and parts would be of a key that nobody knows."""
    for number, name in enumerate(names, 1):
        if not is_key_arn(name):
            # Not said again: what is shown has no ARNs, nor parts of them.
            raise click.BadParameter(
                f"number {number} is no key's whole ARN, which `aws kms describe-key`"
                " tells; an id, an alias or a part of it is none"
            )
    return names


def _opened() -> tuple[Settings, Ledger]:
    from api.bootstrap import build_container  # noqa: PLC0415  Help needs no backend.

    with answer_alone() as settings:
        return settings, build_container().store


def _origin(settings: Settings) -> str:
    return f"hotwallet/{settings.audit_origin}"


def _of_journal(journal: Journal) -> Iterator[Record]:
    for batch in batches(journal):
        for each in batch:
            yield each.record


def _counted(told: Iterable[bytes]) -> Iterator[bytes]:
    """Say how far it is: a long chain takes minutes, to write and to read."""
    for number, line in enumerate(told, 1):
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
        where = "" if e.filename is None else f"{e.filename}: "
        problem = f"{where}{e.strerror or type(e).__name__}"
    else:
        return
    _cannot_tell(problem)
