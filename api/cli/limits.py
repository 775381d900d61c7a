"""``hotwallet limits``: raised limits, which need another administrator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from api.cli.operator import REASON, identified_operator
from api.cli.output import Result, reports


if TYPE_CHECKING:
    from api.container import Container
    from signer.startup.policy_approval import LimitsDifference


@click.group()
def limits() -> None:
    """
    Compare NETWORKS_FILE and TENANTS_FILE with the accepted limits.

    Processes start with a raised limit, and keep the accepted one until another
    administrator has approved it.  Set both variables to the new files before you
    deploy them.
    """


@limits.command()
@reports
def show(container: Container) -> Result:
    """Show what differs; exits with 1 if something needs an approval."""
    return _report(container, container.limits_guard.compare())


@limits.command("raise")
@REASON
@reports
def raise_limits(container: Container, reason: str) -> Result:
    """Ask another administrator to approve what is raised."""
    guard = container.limits_guard
    if guard.is_approved(guard.compare()):
        return _report(container, guard.compare())
    operator = identified_operator(container, "limits:raise", reason)
    return _report(container, guard.request(operator))


def _report(container: Container, difference: LimitsDifference) -> Result:
    from api.views.values import timestamp

    is_approved = container.limits_guard.is_approved(difference)
    row, proposal = difference.row, difference.proposal
    document = {
        "acceptedAt": None if row is None else timestamp(row.accepted_at),
        "authentic": row is None or row.is_authentic,
        "version": difference.version,
        "changed": difference.changed,
        "raised": difference.raised,
        "digest": proposal.digest if difference.raised else None,
        "mayStart": is_approved,
    }
    return Result(document, _lines(difference, is_approved=is_approved), is_approved)


def _lines(difference: LimitsDifference, *, is_approved: bool) -> Iterator[str]:
    from signer.approvals import SHOWN_DIGITS
    from signer.startup.policy_approval import describe

    yield _accepted(difference)
    shown = tuple(difference.raised)
    yield from (f"  raised: {line}" for line in describe(difference.raised))
    for path, change in difference.changed.items():
        # A new network is shown once, and not with each of its values.
        if not any(path == each or path.startswith(f"{each}.") for each in shown):
            yield from (f"  changed: {line}" for line in describe({path: change}))
    if is_approved:
        yield "processes may start"
    else:
        digest = difference.proposal.digest[:SHOWN_DIGITS]
        yield f"needs an approval ({digest}): hotwallet limits raise"


def _accepted(difference: LimitsDifference) -> str:
    from api.views.values import timestamp

    row = difference.row
    if row is None:
        is_new = difference.before is None
        started = "no process has" if is_new else "no worker of this release has"
        return f"{started} started with this database"
    if not row.is_authentic:
        return "not authentic: another program changed the row of the accepted limits"
    return f"accepted at {timestamp(row.accepted_at)}, version {row.version}"
