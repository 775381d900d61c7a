"""
The groups of commands for administrators: ``keys``, ``tenants``, ``approvals``, ...

Actions are made of their declarations; each group also lists what its actions change.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from api.actions import holds
from api.actions.action import Answer, Values
from api.actions.keys import ROTATE, find_revoked_operators
from api.cli.actions import Run, add_commands, command_of
from api.cli.options import CommandError, confirm
from api.cli.output import Result, reports
from signer.errors import InvalidInputError, NewKeyUnhealthyError
from signer.private_files import write_whole
from signer.redact import key_prefix


if TYPE_CHECKING:
    from api.container import Container
    from signer.model.key import Key
    from signer.refunds.hold_admin import TenantStatus


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


_RETRY_SECONDS = 5.0


@click.group()
def keys() -> None:
    """
    List, rotate, fail over, revoke, reinstate and sweep signing keys.

    Commands that change keys ask for confirmation on a terminal, and refuse to run
    elsewhere without --yes.
    """


@keys.command("list")
@reports
def list_keys(container: Container) -> Result:
    """
    List every key of the key ring, the active one first.

    The last lines are what is to be done about revoked keys that a vault lets pay.
    """
    from api.views.administration import KeyDocument

    ring = container.store.keys()
    steps = find_revoked_operators(container, ring)
    lines = [*_format_ring(ring), *(f"next: {step}" for step in steps)]
    return Result([KeyDocument.of(key).dump() for key in ring], lines)


def _format_ring(ring: Sequence[Key]) -> Iterator[str]:
    from api.views.values import timestamp

    if not ring:
        yield (
            "the key ring is empty: the first key is added when the service starts, or"
            " by `hotwallet guard`"
        )
    for key in ring:
        cause = f", {key.blocked_by}" if key.blocked_by else ""
        if key.reinstatable_until is not None:
            cause = f", can be reinstated until {timestamp(key.reinstatable_until)}"
        yield (
            f"{key_prefix(key.key_id):12} {key.backend:8} {key.address} "
            f" {key.state}{cause}, epoch {key.epoch or '-'}"
        )


def _rotate_with_retries(run: Run, values: Values) -> Answer:
    """Rotate again while KMS does not know the key or its permissions yet."""
    deadline = time.monotonic() + values["wait"]
    while (left := deadline - time.monotonic()) > 0:
        try:
            return run({**values, "will_retry": True})
        except NewKeyUnhealthyError as e:
            if not e.may_pass:
                raise
        click.echo("not yet; trying again ...", err=True)
        time.sleep(min(_RETRY_SECONDS, left))
    # The last attempt alone raises an alert if it fails.
    return run(values)


_WAIT = click.Option(
    ["--wait"],
    default=0.0,
    show_default=True,
    help="Seconds to retry while KMS does not know the key or its permissions yet.",
)

keys.add_command(command_of(ROTATE, _WAIT, around=_rotate_with_retries))
add_commands(keys)


def _of_chain(run: Run, values: Values) -> Answer:
    network, chain_id = values["network"], values["chain_id"]
    if network is not None and chain_id is not None:
        raise click.UsageError("give --network or --chain-id, not both")
    if chain_id is not None:
        network = f"{holds.CHAIN}{chain_id}"
    return run({**values, "network": network})


def _chain_id() -> click.Option:
    return click.Option(
        ["--chain-id"],
        type=click.IntRange(-(2**63), 2**63 - 1),
        help="Instead of --network: a chain of `stops` that the networks file lacks.",
    )


stop = command_of(holds.STOP, _chain_id(), around=_of_chain)
resume = command_of(holds.RESUME, _chain_id(), around=_of_chain)


@click.command()
@reports
def stops(container: Container) -> Result:
    """List the stops in force; exits with 1 if there is one."""
    from api.views.administration import StopsDocument, stop_lines

    found, names = container.holds.stops(), container.holds.names()
    return Result(
        StopsDocument.of_holds(found, names).dump(), stop_lines(found, names), not found
    )


@click.group()
def tenants() -> None:
    """List, block and unblock tenants."""


@tenants.command("list")
@reports
def list_tenants(container: Container) -> Result:
    """List the tenants of TENANTS_FILE, and all that are blocked."""
    from api.views.administration import tenant_document

    found = container.holds.tenants()
    documents = [tenant_document(each) for each in found]
    return Result(documents, _format_tenants(found))


def _format_tenants(found: Sequence[TenantStatus]) -> Iterator[str]:
    from api.views.administration import evidence_line
    from api.views.values import timestamp

    if not found:
        yield "TENANTS_FILE is not set: each token subject is a tenant of its own"
    for each in found:
        callers = ", ".join((*each.tenant.subjects, *each.tenant.client_ids))
        # Another program may have inserted a block with any name.
        name = each.name if each.name.isprintable() else ascii(each.name)
        yield f"{name}: {callers or 'not in TENANTS_FILE'}"
        if each.block is not None and not each.block.is_authentic:
            yield (
                "  not authentic: another program changed this row; block again and"
                " unblock"
            )
        elif each.block is not None:
            by = each.block.requested_by
            reason = f": {each.block.reason}" if each.block.reason else ""
            yield f"  blocked since {timestamp(each.block.at)} by {by}{reason}"
            if each.block.evidence is not None:
                yield f"  {each.block.alert}: {evidence_line(each.block)}"


add_commands(tenants)


@click.group()
def approvals() -> None:
    """
    List, approve and reject changes that need two administrators.

    Both show who they are by a token: OPERATOR_TOKEN_FILE names the file of a bearer
    token, which a command uses up.
    """


@approvals.command("list")
@click.option("--cursor", type=click.IntRange(0), default=0, help="Of the next page.")
@reports
def list_approvals(container: Container, *, cursor: int) -> Result:
    """
    List what waits for a decision; exits with 1 if there is something.

    What administrators asked for comes first, then refunds, in which tenants take
    turns.
    """
    from api.views.administration import ApprovalListDocument, list_lines

    found = container.approvals.list(cursor)
    is_empty = found.is_complete and not (found.approvals or found.changed)
    return Result(ApprovalListDocument.of(found).dump(), list_lines(found), is_empty)


for _each in (print_text, sign_text, print_key, write_page):
    approvals.add_command(_each)
add_commands(approvals)


@click.group()
def nonce() -> None:
    """Inspect and repair the nonces of wallets."""


add_commands(nonce)
