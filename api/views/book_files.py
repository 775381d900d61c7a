"""The report of the books as CSV, and as a page for a browser."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from html import escape
from typing import Any

from api.views.books import (
    BookReport,
    account_amounts,
    block_time,
    summary,
)
from api.views.csv_files import write_csv
from api.views.refunds import timestamp
from signer.books.network_books import NetworkBooks


_AMOUNTS = ("opening", "received", "refunds", "sweeps", "other", "fees", "closing")

_DIFFERENCE = (
    *("code", "network", "wallet", "asset", "refund_id", "nonce", "tx_hash"),
    *("expected", "found", "detail"),
)

_COLUMNS = ("record", *_DIFFERENCE, *_AMOUNTS)

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem;
  padding: 0 1rem; color: #1a1a1a; background: #fff; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; display: block;
  overflow-x: auto; }
th, td { border-bottom: 1px solid #ccc; padding: .3rem .6rem; text-align: left;
  vertical-align: top; white-space: nowrap; }
td.amount { text-align: right; font-variant-numeric: tabular-nums; }
td.text { white-space: normal; min-width: 18rem; }
.good, .bad { padding: .6rem 1rem; border-left: .4rem solid; }
.good { background: #e8f5e9; border-color: #1b5e20; }
.bad { background: #fdecea; border-color: #b71c1c; }
"""


def books_csv(report: BookReport) -> str:
    """Return *report* as CSV: a row per difference, account, note and failure."""
    return write_csv(_COLUMNS, _rows(report))


def _rows(report: BookReport) -> Iterator[Mapping[str, Any]]:
    for difference in report.differences:
        yield {"record": "difference", **asdict(difference)}
    for books in report.networks:
        for account in books.accounts:
            yield {
                "record": "account",
                "network": books.network,
                "wallet": account.wallet,
                "asset": books.assets[account.asset].symbol,
                **account_amounts(books, account),
            }
        for note in books.notes:
            yield {"record": "note", "network": books.network, "detail": note}
    for name, problem in report.failed.items():
        yield {"record": "not-compared", "network": name, "detail": problem}


def books_html(report: BookReport) -> str:
    """Return *report* as one page without scripts and external files."""
    start, end = timestamp(report.period.start), timestamp(report.period.end)
    kind = "bad" if report.count or report.failed else "good"
    return "\n".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Books {escape(start)}</title><style>{_STYLE}</style></head><body>",
            "<h1>Books against chain</h1>",
            f'<p class="{kind}" role="status">{escape(summary(report))}</p>',
            f"<p>From {escape(start)} up to {escape(end)}.</p>",
            f"<p>Made at {escape(timestamp(report.made_at))}.</p>",
            *_difference_parts(report),
            *(part for books in report.networks for part in _network_parts(books)),
            "</body></html>\n",
        )
    )


def _difference_parts(report: BookReport) -> Iterator[str]:
    for name, problem in report.failed.items():
        yield f'<p class="bad">{escape(name)} was not compared: {escape(problem)}</p>'
    if not report.differences:
        return
    yield "<h2>Differences</h2>"
    yield "<table><thead><tr><th>how many</th><th>code</th></tr></thead><tbody>"
    for code, count in sorted(report.codes.items()):
        yield f'<tr><td class="amount">{count}</td><td>{escape(code)}</td></tr>'
    yield "</tbody></table>"
    yield from _table(
        _DIFFERENCE, (asdict(each) for each in report.differences), text={"detail"}
    )
    if len(report.differences) < report.count:
        yield f"<p>{report.count - len(report.differences)} more are not listed.</p>"


def _network_parts(books: NetworkBooks) -> Iterator[str]:
    first, last = books.blocks.first, books.blocks.last
    yield f"<h2>{escape(books.network)}</h2>"
    yield (
        f"<p>Blocks {first.block.number} to {last.block.number},"
        f" {escape(block_time(first))} to {escape(block_time(last))}:"
        f" {books.refunds} refunds, {books.sweeps} sweeps, {books.others} other used"
        " nonces.</p>"
    )
    for note in books.notes:
        yield f'<p class="bad">{escape(note)}</p>'
    rows = (
        {
            "wallet": each.wallet,
            "asset": books.assets[each.asset].symbol,
            **account_amounts(books, each),
        }
        for each in books.accounts
    )
    yield from _table(("wallet", "asset", *_AMOUNTS), rows, amounts={*_AMOUNTS})


def _table(
    columns: Iterable[str],
    rows: Iterable[Mapping[str, Any]],
    *,
    text: Iterable[str] = (),
    amounts: Iterable[str] = (),
) -> Iterator[str]:
    names = list(columns)
    classes = {**dict.fromkeys(text, "text"), **dict.fromkeys(amounts, "amount")}
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    yield f"<table><thead><tr>{heads}</tr></thead><tbody>"
    for row in rows:
        cells = "".join(
            f'<td class="{classes.get(name, "")}">{_shown(row.get(name), name)}</td>'
            for name in names
        )
        yield f"<tr>{cells}</tr>"
    yield "</tbody></table>"


def _shown(value: object, name: str) -> str:
    if value is None:
        return "unknown" if name in _AMOUNTS else ""
    return escape(str(value))
