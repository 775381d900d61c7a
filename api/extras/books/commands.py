"""``hotwallet reconcile`` and ``hotwallet refund export``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from api.cli.options import errors_exit_with_2, read_moment
from api.cli.output import command_logging, json_option, print_result
from signer.errors import HotWalletError, InvalidInputError, NotFoundError
from signer.private_files import open_atomic, write_whole


if TYPE_CHECKING:
    from api.container import Container
    from api.extras.books.accounts import Openings
    from api.extras.books.comparison import Event
    from api.extras.books.entries import Period
    from api.extras.books.reports import BookReport
    from signer.ports.chain import ChainHistory


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
    """Return *names* without duplicates; all networks if there is none."""
    unknown = set(names) - container.networks.keys()
    if unknown:
        raise InvalidInputError(
            f"{min(unknown)} is not in the networks file", field="--network"
        )
    return list(dict.fromkeys(names)) or list(container.networks)


def compare_network(
    container: Container,
    name: str,
    history: ChainHistory,
    period: Period,
    openings: Openings | None = None,
) -> Iterator[Event]:
    """Compare the network *name*, whose chain is *history*, and show the progress."""
    from api.extras.books.comparison import Comparison
    from api.extras.books.tables import BookTables

    network, store = container.networks[name], container.store
    keys, tables = store.keys(), store.tables(BookTables)
    ring = [key.address for key in keys]
    comparison = Comparison(
        name,
        network,
        history,
        tables,
        period,
        addresses=sorted({*ring, *tables.logged_addresses()}),
        openings=openings,
    )
    yield from with_progress(comparison.run(), name)


def _open_history(container: Container, name: str) -> ChainHistory:
    """Return the chain of the network *name*; no request is sent."""
    from api.backend_factories import open_histories

    return open_histories({name: container.networks[name]})[name]


def with_progress(events: Iterator[Event], label: str) -> Iterator[Event]:
    """Yield *events* without their progress, which is shown on a terminal."""
    from api.extras.books.comparison import Progress

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


def _read_currencies(
    context: click.Context, __: click.Parameter, texts: Sequence[str]
) -> dict[str, str]:
    pairs = [each.rpartition("=") for each in texts]
    found = {token: currency for token, _, currency in pairs}
    if len(found) < len(pairs) or not all(
        token and re.fullmatch("[A-Z]{3}", currency)
        for token, currency in found.items()
    ):
        raise click.BadParameter("must be TOKEN=CODE, such as USDC=USD, once per token")
    return found


_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@period_options
@click.option("--csv", "csv_file", type=_FILE, help="Write the report to this file.")
@click.option("--html", "html_file", type=_FILE, help="Write a page to this file.")
@click.option(
    "--ledger",
    "ledger_file",
    type=_FILE,
    help="Write the general ledger to this CSV file, if all networks were compared.",
)
@click.option(
    "--camt053",
    "camt053_file",
    type=_FILE,
    help="Write a day's bank statements (ISO 20022), if all networks were compared.",
)
@click.option(
    "--currency",
    "currencies",
    metavar="TOKEN=CODE",
    multiple=True,
    callback=_read_currencies,
    help="A token of --camt053, and its currency (ISO 4217); repeat it.",
)
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
    camt053_file: Path | None,
    currencies: Mapping[str, str],
    previous: Path | None,
    as_json: bool,
    **files: Path | None,
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
    from api.extras.books.bank_statement import BankStatements, require_day
    from api.extras.books.entries import Period
    from api.extras.books.reports import (
        BookReport,
        books_document,
        books_lines,
        read_openings,
    )
    from signer.alerts import Alert
    from signer.ports.clock import utc_now

    if (camt053_file is None) == bool(currencies):
        raise click.UsageError("--camt053 and --currency need each other")
    with errors_exit_with_2(), command_logging():
        container = build_container()
        period = Period(start, end)
        if camt053_file is not None:
            require_day(period)
        statements = BankStatements(currencies)
        report = BookReport(period, utc_now(), statements=statements)
        _compare(
            container,
            report,
            select_networks(container, names),
            {} if previous is None else read_openings(previous.read_bytes()),
            is_whole=not names,
        )
        _write_files(report, files)
        if report.count:
            container.alerts.sound(
                Alert.BOOKS_DIFFER,
                differences=report.count,
                codes=", ".join(sorted(report.codes)),
            )
    print_result(books_document(report), books_lines(report), as_json=as_json)
    if camt053_file is not None and not report.failed:
        with errors_exit_with_2():
            write_whole(camt053_file, statements.write(period, report.made_at))
    if report.count:
        sys.exit(1)
    if report.failed:
        sys.exit(2)


def _write_files(report: BookReport, paths: Mapping[str, Path | None]) -> None:
    from api.extras.books.reports import books_csv, books_html, ledger_csv

    files = {"csv_file": books_csv, "html_file": books_html}
    if not report.failed:
        files["ledger_file"] = ledger_csv
    for name, write in files.items():
        path = paths[name]
        if path is not None:
            write_whole(path, write(report).encode())


def _compare(
    container: Container,
    report: BookReport,
    names: Sequence[str],
    openings: Mapping[str, Openings],
    *,
    is_whole: bool,
) -> None:
    for name in names:
        try:
            history = _open_history(container, name)
            opening = openings.get(name)
            for event in compare_network(
                container, name, history, report.period, opening
            ):
                report.add(event)
        except HotWalletError as e:
            report.fail(name, e)
    if is_whole:
        _name_left_out(container, report)


def _name_left_out(container: Container, report: BookReport) -> None:
    """Add the chains that no network of the file has, and whose refunds ended."""
    from api.extras.books.tables import BookTables

    known = {network.chain_id for network in container.networks.values()}
    start, end = report.period.start, report.period.end
    ended = container.store.tables(BookTables).results_by_chain(start, end)
    for chain_id, (name, count) in ended.items():
        if chain_id not in known:
            left_out = f"{count} refunds of chain {chain_id}, which no network has"
            report.fail(name, NotFoundError(left_out))


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
    from api.extras.books.entries import Period
    from api.extras.books.reports import COLUMNS
    from api.views.refund_files import write_csv

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
    from api.extras.books.entries import UsedNonce
    from api.extras.books.reports import settlement_row

    history = _open_history(container, name)
    events = compare_network(container, name, history, period)
    settled = (each for each in events if isinstance(each, UsedNonce) and each.settled)
    while page := list(islice(settled, _PAGE)):
        blocks = [each.settled.block.number for each in page if each.settled]
        numbers = sorted(set(blocks))
        headers = dict(zip(numbers, history.headers(numbers), strict=True))
        for used, number in zip(page, blocks, strict=True):
            yield settlement_row(name, used, headers[number])
