"""What the commands about the books share: their options, networks and progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from api.cli.dates import read_moment
from signer.errors import InvalidInputError


if TYPE_CHECKING:
    from api.container import Container
    from signer.books.balances import Openings
    from signer.books.network_books import BookKeeper, Event
    from signer.ports.chain_history import ChainHistory


_Command = TypeVar("_Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--from",
        "start",
        callback=read_moment,
        required=True,
        help="The first day, or time (UTC); also `yesterday`.",
    ),
    click.option(
        "--to",
        "end",
        callback=read_moment,
        default="now",
        show_default=True,
        help="The day, or time, before which the period ends.",
    ),
    click.option(
        "--network",
        "names",
        multiple=True,
        help="Only this network; repeat it for others.",
    ),
)


def period_options(command: _Command) -> _Command:
    """Add ``--from``, ``--to`` and ``--network`` to *command*."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def select_networks(container: Container, names: Sequence[str]) -> Sequence[str]:
    """
    Return *names* without duplicates; all networks if there is none.

    Raises:
        InvalidInputError: The networks file does not have one of *names*.
    """
    unknown = set(names) - container.networks.keys()
    if unknown:
        raise InvalidInputError(
            f"{min(unknown)} is not in the networks file", field="--network"
        )
    return list(dict.fromkeys(names)) or list(container.networks)


def open_keeper(
    container: Container, name: str, openings: Openings | None = None
) -> tuple[BookKeeper, ChainHistory]:
    """Return what compares the network *name*, and its chain; no request is sent."""
    from api.backend_factories import open_histories
    from signer.books.network_books import BookKeeper

    network, store = container.networks[name], container.store
    keys = store.keys()
    ring = [key.address for key in keys]
    history = open_histories({name: network})[name]
    addresses = sorted({*ring, *store.logged_addresses()})
    keeper = BookKeeper(
        name, network, history, store, addresses=addresses, openings=openings
    )
    return keeper, history


def with_progress(events: Iterator[Event], label: str) -> Iterator[Event]:
    """Yield *events* without their progress, which is shown on a terminal."""
    from signer.books.network_books import Progress

    with click.progressbar(
        length=1, label=label, file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as bar:
        done = 0
        for event in events:
            if not isinstance(event, Progress):
                yield event
                continue
            bar.length = event.total
            bar.update(event.done - done)
            done = event.done
