"""The stops of the kill switch, as JSON and as text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from api.views.document import format_time, timestamp
from signer.model.hold import EVERYTHING, Hold


def stop_documents(
    stops: Sequence[Hold], names: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Return *stops* as JSON; *names* are those of the networks, by chain id."""
    return [
        {
            "network": names.get(stop.chain_id),
            "chainId": None if stop.chain_id == EVERYTHING else stop.chain_id,
            "at": timestamp(stop.at),
            "reason": stop.reason,
            "requestedBy": stop.requested_by,
            "authentic": stop.is_authentic,
        }
        for stop in stops
    ]


def stop_lines(stops: Sequence[Hold], names: Mapping[int, str]) -> Iterator[str]:
    """Return *stops* as lines of text."""
    for stop in stops:
        scope = names.get(stop.chain_id, f"chain {stop.chain_id}")
        scope = "everything" if stop.chain_id == EVERYTHING else scope
        if not stop.is_authentic:
            yield (
                f"{scope}: not authentic: another program changed this row; stop again"
                " and resume"
            )
            continue
        yield (
            f"{scope}: stopped at {timestamp(stop.at)} by {stop.requested_by}:"
            f" {stop.reason}"
        )
    if not stops:
        yield "nothing is stopped"


def describe_stop(stop: Hold, names: Mapping[int, str]) -> str:
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
