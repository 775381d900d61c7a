"""``hotwallet stop``, ``resume`` and ``stops``: the kill switch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from api.cli.operator import current_operator, identified_operator
from api.cli.output import Result, reports


if TYPE_CHECKING:
    from signer.refunds.kill_switch import SwitchResult


def _ask_reason(
    context: click.Context, parameter: click.Parameter, reason: str | None
) -> str:
    """Ask on a terminal: in an incident the bare command must stop signing."""
    if reason is not None:
        return reason
    if not sys.stdin.isatty():
        raise click.MissingParameter(ctx=context, param=parameter)
    return click.prompt("Reason", err=True, type=str)


_REASON = click.option(
    "--reason",
    callback=_ask_reason,
    help="Why, for the audit log and the alert.  Required; asked for on a terminal.",
)

_CHAIN_ID = click.option(
    "--chain-id",
    type=click.IntRange(-(2**63), 2**63 - 1),
    help="Instead of --network: a chain of `stops` that the networks file lacks.",
)


@click.command()
@click.option("--network", help="Stop this network only.")
@_CHAIN_ID
@_REASON
@reports
def stop(network: str | None, chain_id: int | None, reason: str) -> Result:
    """
    Sign nothing more on any host until `hotwallet resume`: the kill switch.

    Runs without confirmation, and needs neither the key nor a node.  Refunds are still
    accepted, and wait; transactions that nodes have already are still confirmed.

    It also replaces a stop that another program changed, so that it can be ended.
    """
    from signer.refunds.kill_switch import KillSwitch

    statuses = "stopped", "already stopped"
    return _switch(KillSwitch.stop, network, chain_id, reason, statuses)


@click.command()
@click.option("--network", help="End the stop of this network.")
@_CHAIN_ID
@_REASON
@reports
def resume(network: str | None, chain_id: int | None, reason: str) -> Result:
    """
    End the stop of a network, or without --network the stop of everything.

    Stops of networks and the stop of everything are ended separately; the remaining
    ones are listed.  Wallets that are paused stay paused.
    """
    from signer.refunds.kill_switch import KillSwitch

    statuses = "resumed", "not stopped"
    return _switch(KillSwitch.resume, network, chain_id, reason, statuses)


@click.command()
@reports
def stops() -> Result:
    """List the stops in force; exits with 1 if there is one."""
    from api.bootstrap import build_container
    from api.views.stops import stop_documents, stop_lines

    switch = build_container().kill_switch
    found, names = switch.stops(), switch.names()
    return Result(
        {"stops": stop_documents(found, names)}, stop_lines(found, names), not found
    )


def _switch(
    change: Callable[..., SwitchResult],
    network: str | None,
    chain_id: int | None,
    reason: str,
    statuses: tuple[str, str],
) -> Result:
    """Apply *change*; *statuses* are the words for a change, and for none."""
    from api.bootstrap import build_container
    from api.views.stops import stop_documents, stop_lines
    from signer.refunds.kill_switch import KillSwitch

    if network is not None and chain_id is not None:
        raise click.UsageError("give --network or --chain-id, not both")
    container = build_container()
    switch = container.kill_switch
    # A stop must not fail because a token has expired.
    operator = (
        current_operator()
        if change is KillSwitch.stop
        else identified_operator(container, "signing:stop")
    )
    result = change(switch, network, reason, operator, chain_id=chain_id)
    names = switch.names()
    done, unchanged = statuses
    status = done if result.changed else unchanged
    document = {
        "status": status.replace(" ", "-"),
        "network": network,
        "stops": stop_documents(result.stops, names),
    }
    scope = network or (f"chain {chain_id}" if chain_id else "everything")
    others = stop_lines(result.stops, names) if result.stops else ()
    return Result(document, [f"{scope}: {status}", *others])
