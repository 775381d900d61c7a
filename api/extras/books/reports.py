"""The books as JSON, text, CSV and HTML, and the lines of the accounting export."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from html import escape
from typing import Any

from api.extras.books.accounts import Account, Openings
from api.extras.books.entries import COIN_ASSET, Difference, Period, UsedNonce
from api.extras.books.network_books import NetworkBooks
from api.views.csv_files import write_csv
from api.views.document import timestamp
from signer.amounts import format_units
from signer.errors import HotWalletError, InvalidInputError
from signer.model.refund import Refund
from signer.ports.chain_history import Header
from signer.strict_json import parse


MOST_LISTED = 10_000
"""How many differences a report lists; all are counted."""


@dataclass(slots=True)
class BookReport:
    """
    The books of all networks, as they are compared.

    ``failed`` has the networks that could not be compared, and why.
    """

    period: Period
    made_at: datetime
    networks: list[NetworkBooks] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many differences there are."""
        return self.codes.total()

    def add(self, event: object) -> None:
        """Add a result, or a difference; ignore other events."""
        if isinstance(event, NetworkBooks):
            self.networks.append(event)
        elif isinstance(event, Difference):
            self.codes[str(event.code)] += 1
            if len(self.differences) < MOST_LISTED:
                self.differences.append(event)

    def fail(self, network: str, error: HotWalletError) -> None:
        """Add a network that could not be compared."""
        self.failed[network] = f"{error.code}: {error}"


def account_amounts(books: NetworkBooks, account: Account) -> dict[str, str | None]:
    """Return the amounts of *account* in whole tokens; None for an unknown one."""
    asset = books.assets[account.asset]
    units = {
        "opening": account.opening,
        "received": account.received,
        "refunds": account.refunds,
        "sweeps": account.sweeps,
        "other": account.other,
        "fees": account.fees,
        "closing": account.closing,
    }
    return {
        name: None if amount is None else asset.format(amount)
        for name, amount in units.items()
    }


def block_time(header: Header) -> str:
    """Return the time of a block."""
    return timestamp(datetime.fromtimestamp(header.timestamp, UTC))


def books_document(report: BookReport) -> dict[str, Any]:
    """Return *report* as JSON."""
    return {
        "ok": not (report.count or report.failed),
        "from": timestamp(report.period.start),
        "to": timestamp(report.period.end),
        "made_at": timestamp(report.made_at),
        "difference_count": report.count,
        "codes": dict(sorted(report.codes.items())),
        "differences": [
            {**asdict(each), "code": str(each.code)} for each in report.differences
        ],
        "networks": [_network_document(books) for books in report.networks],
        "not_compared": dict(report.failed),
    }


def _network_document(books: NetworkBooks) -> dict[str, Any]:
    first, last = books.blocks.first, books.blocks.last
    return {
        "network": books.network,
        "chain_id": books.chain_id,
        "first_block": first.block.number,
        "first_block_at": block_time(first),
        "last_block": last.block.number,
        "last_block_hash": last.block.hash,
        "last_block_at": block_time(last),
        "refunds": books.refunds,
        "sweeps": books.sweeps,
        "others": books.others,
        "accounts": [
            {
                "wallet": each.wallet,
                "asset": books.assets[each.asset].symbol,
                "asset_address": each.asset,
                "decimals": books.assets[each.asset].decimals,
                **account_amounts(books, each),
                "checked": each.is_checked,
                "closing_units": None if each.closing is None else str(each.closing),
            }
            for each in books.accounts
        ],
        "notes": list(books.notes),
    }


def read_openings(text: bytes) -> Mapping[str, Openings]:
    """
    Return the closing balances of a report, by network.

    Raises:
        InvalidInputError: *text* is not the JSON of a report.
    """
    try:
        document = parse(text)
        return {
            str(each["network"]): Openings(
                int(each["last_block"]),
                {
                    (str(account["wallet"]), str(account["asset_address"])): (
                        None
                        if account["closing_units"] is None
                        else int(account["closing_units"])
                    )
                    for account in each["accounts"]
                },
            )
            for each in document["networks"]
        }
    except (InvalidInputError, ValueError, TypeError, LookupError):
        raise InvalidInputError(
            "is not a report of `hotwallet reconcile --json`", field="--previous"
        ) from None


def books_lines(report: BookReport) -> Iterator[str]:
    """Return *report* for people: the summary, the differences, the totals."""
    yield summary(report)
    for each in report.differences:
        yield f"DIFFERENCE {describe(each)}"
    if len(report.differences) < report.count:
        yield f"... and {report.count - len(report.differences)} more"
    for name, problem in report.failed.items():
        yield f"NOT COMPARED {name}: {problem}"
    for books in report.networks:
        yield from _network_lines(books)


def summary(report: BookReport) -> str:
    """Return one sentence about the result."""
    if report.count:
        return (
            f"{report.count} differences: `hotwallet explain-code CODE` explains each"
        )
    if report.failed:
        return f"not compared: {', '.join(report.failed)}"
    paid = sum(books.refunds for books in report.networks)
    return f"no difference; {paid} refunds were compared"


def describe(difference: Difference) -> str:
    """Return *difference* as one line."""
    parts = [f"{difference.code}: {difference.detail}"]
    for name in ("network", "wallet", "nonce", "refund_id", "tx_hash", "asset"):
        value = getattr(difference, name)
        if value is not None:
            parts.append(f"{name.removesuffix('_id')} {value}")
    for name in ("expected", "found"):
        value = getattr(difference, name)
        if value is not None:
            parts.append(f"{name}: {value}")
    return "; ".join(parts)


def _network_lines(books: NetworkBooks) -> Iterator[str]:
    first, last = books.blocks.first, books.blocks.last
    yield (
        f"{books.network}: blocks {first.block.number} to {last.block.number}"
        f" ({block_time(first)} to {block_time(last)})"
    )
    yield (
        f"  used nonces: {books.refunds} refunds, {books.sweeps} sweeps,"
        f" {books.others} others"
    )
    for account in books.accounts:
        amounts = account_amounts(books, account)
        known = {name: amount or "unknown" for name, amount in amounts.items()}
        yield f"  {account.wallet} {books.assets[account.asset].symbol}"
        yield (
            "    opening {opening} + received {received} - refunds {refunds}"
            " - sweeps {sweeps} - other {other} - fees {fees}"
            " = closing {closing}".format(**known)
        )
    for note in books.notes:
        yield f"  NOTE {note}"


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


COLUMNS = (
    *("kind", "refund_id", "status", "tenant", "payment_session_id", "reference"),
    *("network", "chain_id", "token", "token_address", "recipient", "amount", "paid"),
    *("network_fee", "created_at", "block_time", "block_number", "tx_hash"),
    *("sender", "nonce", "failure_code"),
)


def settlement_row(network: str, used: UsedNonce, header: Header) -> dict[str, Any]:
    """
    Return *used* as a line; *header* is that of its block.

    ``kind`` is that of ``UsedNonce``.  ``paid`` is whether the
    amount left the wallet.  ``network_fee`` is in whole coins.
    """
    settled, refund = used.settled, used.entry.refund if used.is_own else None
    paid = {
        "kind": used.kind,
        "network": network,
        "sender": used.wallet,
        "nonce": used.entry.nonce,
    }
    if settled is not None:
        paid |= {
            "network_fee": COIN_ASSET.format(settled.fee),
            "block_time": block_time(header),
            "block_number": settled.block.number,
            "tx_hash": settled.tx_hash,
        }
    if refund is None:
        return paid
    return {**_refund_fields(refund), "paid": _yes(used, refund), **paid}


def _refund_fields(refund: Refund) -> dict[str, Any]:
    names = ("status", "tenant", "payment_session_id", "reference", "chain_id", "token")
    more = ("token_address", "recipient", "failure_code")
    return {
        "refund_id": refund.id,
        **{name: getattr(refund, name) for name in (*names, *more)},
        "amount": format_units(refund.amount, refund.decimals),
        "created_at": timestamp(refund.created_at),
    }


def _yes(used: UsedNonce, refund: Refund) -> str:
    amounts = [
        each.amount for each in used.payments if each.recipient == refund.recipient
    ]
    return "yes" if refund.amount in amounts else "no"
