"""``hotwallet approvals text|sign|key|page``: approvers with keys of their own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from api.cli.options import CommandError, confirm
from api.cli.output import Result, reports
from signer.errors import InvalidInputError
from signer.private_files import write_whole


if TYPE_CHECKING:
    from api.container import Container


PAGE = Path(__file__).with_name("approve.html")

_APPROVER = click.option(
    "--approver", required=True, help="A person in APPROVERS_FILE."
)


@click.command("text")
@click.argument("digest")
@_APPROVER
@click.option("--break-glass", is_flag=True, help="To approve alone, in an emergency.")
@reports
def print_text(
    container: Container, *, digest: str, approver: str, break_glass: bool
) -> Result:
    """
    Print exactly what a person signs to approve the proposal DIGEST.

    --json has the link to the approval page as well.
    """
    from signer.model.approvers import Consent, Statement

    found = container.approvals.find(digest)
    consent = Consent.BREAK_GLASS if break_glass else Consent.APPROVE
    approvers = container.required_approvers
    text = approvers.text(approver, consent, Statement.of(found))
    document = {"text": text, "link": approvers.link(text)}
    return Result(document, text.splitlines())


@click.command("sign")
@click.argument("text", type=click.File())
@click.option("--key", type=click.Path(), required=True, help="For `ssh-keygen -f`.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def sign_text(text: TextIO, key: str, *, yes: bool) -> None:
    """
    Show TEXT, a file, and sign it with a key of OpenSSH.

    Run it where the key is.
    """
    from signer.crypto.approver_keys import NAMESPACE

    shown = text.read()
    if not shown.isascii() or not shown.replace("\n", "").isprintable():
        raise InvalidInputError("must be what `approvals text` prints", field="TEXT")
    click.echo(shown, nl=False, err=True)
    if not yes:
        confirm("Sign exactly this?")
    command = ["ssh-keygen", "-Y", "sign", "-n", NAMESPACE, "-f", key]
    try:
        made = subprocess.run(  # noqa: S603  No shell reads it.
            command, input=shown, stdout=subprocess.PIPE, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as e:
        raise CommandError(f"ssh-keygen did not sign ({type(e).__name__})") from None
    click.echo(made.stdout, nl=False)


@click.command("key")
@click.argument("public_key", type=click.File())
@_APPROVER
@click.option("--name", required=True, help="The key's own name, such as laptop.")
def print_key(public_key: TextIO, approver: str, name: str) -> None:
    """Print the lines of APPROVERS_FILE for PUBLIC_KEY, a .pub file of OpenSSH."""
    from signer.crypto.approver_keys import parse_key

    line = public_key.read().strip()
    try:
        parse_key(line)
    except ValueError as e:
        raise InvalidInputError(str(e), field="PUBLIC_KEY") from None
    person, key = json.dumps(approver), json.dumps(name)
    click.echo(f"[people.{person}.keys]\n{key} = {json.dumps(line)}")


@click.command("page")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
def write_page(out: Path) -> None:
    """
    Write the approval page, one HTML file, on which people sign with WebAuthn.
    """
    write_whole(out, PAGE.read_bytes(), mode=0o644)
