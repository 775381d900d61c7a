"""``hotwallet approvals``: changes that need two administrators."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from api.cli.confirmation import confirm, yes_option
from api.cli.operator import identified_operator
from api.cli.output import Result, reports
from signer.model.audit_record import Actor


if TYPE_CHECKING:
    from signer.approvals import Approvals
    from signer.model.approval import Approval


_REASON = click.option("--reason", required=True, help="Why, for the audit log.")


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
def list_approvals(*, cursor: int) -> Result:
    """
    List what waits for a decision; exits with 1 if there is something.

    What administrators asked for comes first, then refunds, in which tenants take
    turns.
    """
    from api.bootstrap import build_container
    from api.views.approvals import list_document, list_lines

    found = build_container().approvals.list(cursor)
    is_empty = found.is_complete and not (found.approvals or found.changed)
    return Result(list_document(found), list_lines(found), is_empty)


@approvals.command()
@click.argument("digest")
@_REASON
@yes_option
@reports
def approve(digest: str, *, reason: str, yes: bool) -> Result:
    """Approve the proposal DIGEST; then the request can be repeated."""
    from signer.approvals import Approvals

    return _decide(Approvals.approve, digest, reason, "approvals:decide", yes=yes)


@approvals.command()
@click.argument("digest")
@_REASON
@yes_option
@reports
def reject(digest: str, *, reason: str, yes: bool) -> Result:
    """Refuse the proposal DIGEST, or withdraw your own."""
    from signer.approvals import Approvals

    return _decide(Approvals.reject, digest, reason, "approvals:decide", yes=yes)


@approvals.command("break-glass")
@click.argument("digest")
@_REASON
@yes_option
@reports
def break_glass(digest: str, *, reason: str, yes: bool) -> Result:
    """
    Approve the proposal DIGEST alone, in an emergency.

    It sounds the alert `break-glass`, and the audit log has it for ever.
    """
    from signer.approvals import Approvals

    scope = "approvals:break-glass"
    return _decide(Approvals.break_glass, digest, reason, scope, yes=yes)


def _decide(
    decide: Callable[[Approvals, str, Actor, str], Approval],
    digest: str,
    reason: str,
    scope: str,
    *,
    yes: bool,
) -> Result:
    from api.bootstrap import build_container
    from api.views.approvals import approval_document, approval_lines

    container = build_container()
    if not yes:
        for line in approval_lines([container.approvals.find(digest)]):
            click.echo(line, err=True)
        confirm("Is this what you want to decide about?")
    decided = decide(
        container.approvals, digest, identified_operator(container, scope), reason
    )
    return Result(approval_document(decided), approval_lines([decided]))
