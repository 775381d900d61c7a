"""The stops in force, as sentences; every page of a session shows them."""

from collections.abc import Mapping, Sequence

from api.console.rendering import format_time
from api.container import Container
from signer.model.stop import EVERYTHING, Stop


def describe_stops(container: Container) -> Sequence[str]:
    """Return a sentence about each stop in force; raises ``StoreError``."""
    switch = container.kill_switch
    names = switch.names()
    return [describe_stop(stop, names) for stop in switch.stops()]


def describe_stop(stop: Stop, names: Mapping[int, str]) -> str:
    """Return what *stop* stops; *names* are those of the networks, by chain id."""
    scope = names.get(stop.chain_id, f"chain {stop.chain_id}")
    scope = "every network" if stop.chain_id == EVERYTHING else scope
    if not stop.is_authentic:
        return f"Another program changed the row of the stop of {scope}"
    since = format_time(stop.at)
    return (
        f"Signing is stopped for {scope} since {since}, by {stop.requested_by}:"
        f" {stop.reason}"
    )
