"""``hotwallet refund export``: settled refunds with their fees, for accounting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from api.cli.book_periods import (
    open_keeper,
    period_options,
    select_networks,
    with_progress,
)
from api.cli.exit_status import errors_exit_with_2
from api.cli.output import command_logging
from signer.private_files import open_atomic


if TYPE_CHECKING:
    from api.container import Container
    from signer.books.period import Period


_PAGE = 50
"""How many transactions share the request for their blocks' times."""


@click.command("export")
@period_options
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Write to this file, which appears once it is complete.",
)
def export_file(
    start: datetime, end: datetime, names: Sequence[str], csv_file: Path
) -> None:
    """
    Write one line per refund that the chain settled, with its fee in coin.

    Sweeps, cancellations and other transactions of the wallets have lines too, since
    they cost fees.  The period is that of the blocks.  Exits with 2 if a network could
    not be read; the file is then not written.

    Example: hotwallet refund export --from 2026-01-01 --to 2026-02-01 --csv january.csv
    """
    from api.bootstrap import build_container
    from api.views.csv_files import write_csv
    from api.views.settlements import COLUMNS
    from signer.books.period import Period

    count = 0
    with errors_exit_with_2(), command_logging():
        container = build_container()
        period = Period(start, end)
        with open_atomic(csv_file) as file:
            file.write(write_csv(COLUMNS, ()).encode())
            for name in select_networks(container, names):
                for row in _rows(container, name, period):
                    file.write(write_csv(COLUMNS, [row], header=False).encode())
                    count += 1
    click.echo(f"wrote {count} transactions to {csv_file}")


def _rows(container: Container, name: str, period: Period) -> Iterator[dict[str, Any]]:
    from api.views.settlements import settlement_row
    from signer.books.used_nonces import UsedNonce

    keeper, history = open_keeper(container, name)
    events = with_progress(keeper.compare(period), name)
    settled = (each for each in events if isinstance(each, UsedNonce) and each.settled)
    while page := list(islice(settled, _PAGE)):
        blocks = [each.settled.block.number for each in page if each.settled]
        numbers = sorted(set(blocks))
        headers = dict(zip(numbers, history.headers(numbers), strict=True))
        for used, number in zip(page, blocks, strict=True):
            yield settlement_row(name, used, headers[number])
