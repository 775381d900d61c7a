"""``hotwallet stop``, ``resume`` and ``stops``: the kill switch."""

import click

from api.bootstrap import build_container
from api.cli.operator import current_operator
from api.cli.output import Result, reports
from api.container import Container
from api.views.stops import stop_documents, stop_lines
from signer.refunds.kill_switch import SwitchResult


_REASON = click.option(
    "--reason", required=True, help="Why, for the audit log and the alert."
)


@click.command()
@click.option("--network", help="Stop this network only.")
@_REASON
@reports
def stop(network: str | None, reason: str) -> Result:
    """
    Sign nothing more on any host until `hotwallet resume`: the kill switch.

    Runs without confirmation, and needs neither the key nor a node.  Refunds are still
    accepted, and wait; transactions that nodes have already are still confirmed.
    """
    container = build_container()
    done = container.kill_switch.stop(network, reason, current_operator())
    return _switched(container, network, done, "stopped", "already stopped")


@click.command()
@click.option("--network", help="End the stop of this network.")
@_REASON
@reports
def resume(network: str | None, reason: str) -> Result:
    """
    End the stop of a network, or without --network the stop of everything.

    Stops of networks and the stop of everything are ended separately; the remaining
    ones are listed.  Wallets that are paused stay paused.
    """
    container = build_container()
    done = container.kill_switch.resume(network, reason, current_operator())
    return _switched(container, network, done, "resumed", "not stopped")


@click.command()
@reports
def stops() -> Result:
    """List the stops in force; exits with 1 if there is one."""
    switch = build_container().kill_switch
    found, names = switch.stops(), switch.names()
    return Result(
        {"stops": stop_documents(found, names)}, stop_lines(found, names), not found
    )


def _switched(
    container: Container,
    network: str | None,
    result: SwitchResult,
    done: str,
    unchanged: str,
) -> Result:
    names = container.kill_switch.names()
    status = done if result.changed else unchanged
    document = {
        "status": status.replace(" ", "-"),
        "network": network,
        "stops": stop_documents(result.stops, names),
    }
    lines = [f"{network or 'everything'}: {status}"]
    others = stop_lines(result.stops, names) if result.stops else ()
    return Result(document, [*lines, *others])
