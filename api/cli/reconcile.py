"""``hotwallet reconcile``: compare the ledger with the chain."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from api.cli.book_periods import (
    open_keeper,
    period_options,
    select_networks,
    with_progress,
)
from api.cli.exit_status import errors_exit_with_2
from api.cli.output import command_logging, json_option, print_result
from signer.errors import HotWalletError, NotFoundError
from signer.private_files import write_whole


if TYPE_CHECKING:
    from api.container import Container
    from api.views.books import BookReport
    from signer.books.balances import Openings
    from signer.books.period import Period


_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@period_options
@click.option("--csv", "csv_file", type=_FILE, help="Write the report to this file.")
@click.option("--html", "html_file", type=_FILE, help="Write a page to this file.")
@click.option(
    "--previous",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The --json report of the period before: its closing balances are the opening"
    " ones if no node has the old state.",
)
@json_option
def reconcile(
    *,
    start: datetime,
    end: datetime,
    names: Sequence[str],
    csv_file: Path | None,
    html_file: Path | None,
    previous: Path | None,
    as_json: bool,
) -> None:
    """
    Compare every refund with its transfer, and every transfer with a refund.

    It also adds up fees and balances of each wallet.  Only final blocks count.  It
    changes nothing, and needs no key.

    Exits with 0 if there is no difference, 1 if there is one, and 2 if a network could
    not be compared.

    Example: hotwallet reconcile --from yesterday --to today
    """
    from api.bootstrap import build_container
    from api.views.book_files import books_csv, books_html
    from api.views.books import books_document, books_lines, read_openings
    from signer.alerts import Alert
    from signer.books.period import Period

    with errors_exit_with_2(), command_logging():
        container = build_container()
        report = _compare(
            container,
            Period(start, end),
            select_networks(container, names),
            {} if previous is None else read_openings(previous.read_bytes()),
            is_whole=not names,
        )
        if csv_file is not None:
            write_whole(csv_file, books_csv(report).encode())
        if html_file is not None:
            write_whole(html_file, books_html(report).encode())
        if report.count:
            container.alerts.sound(
                Alert.BOOKS_DIFFER,
                differences=report.count,
                codes=", ".join(sorted(report.codes)),
            )
    print_result(books_document(report), books_lines(report), as_json=as_json)
    if report.count:
        sys.exit(1)
    if report.failed:
        sys.exit(2)


def _compare(
    container: Container,
    period: Period,
    names: Sequence[str],
    openings: Mapping[str, Openings],
    *,
    is_whole: bool,
) -> BookReport:
    from api.views.books import BookReport
    from signer.ports.clock import utc_now

    report = BookReport(period, utc_now())
    for name in names:
        try:
            keeper, _ = open_keeper(container, name, openings.get(name))
            for event in with_progress(keeper.compare(period), name):
                report.add(event)
        except HotWalletError as e:
            report.fail(name, e)
    if is_whole:
        _name_left_out(container, report)
    return report


def _name_left_out(container: Container, report: BookReport) -> None:
    """Add the chains that no network of the file has, and whose refunds ended."""
    known = {network.chain_id for network in container.networks.values()}
    start, end = report.period.start, report.period.end
    ended = container.store.results_by_chain(start, end)
    for chain_id, (name, count) in ended.items():
        if chain_id not in known:
            left_out = f"{count} refunds of chain {chain_id}, which no network has"
            report.fail(name, NotFoundError(left_out))
