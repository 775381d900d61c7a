"""The books as JSON, text, CSV and HTML, and the lines of the accounting export."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from api.extras.books.accounts import Openings
from api.extras.books.bank_statement import BankStatements
from api.extras.books.comparison import NetworkBooks
from api.extras.books.entries import Asset, Difference, Period, UsedNonce
from api.extras.books.general_ledger import COLUMNS as LEDGER_COLUMNS
from api.extras.books.general_ledger import GeneralLedger
from api.views.refund_files import write_csv
from api.views.values import timestamp
from signer.amounts import COIN_DECIMALS, format_units
from signer.errors import HotWalletError, InvalidInputError
from signer.model.refund import Refund
from signer.ports.chain import Header
from signer.strict_json import parse


MOST_LISTED = 10_000
"""How many differences a report lists; all are counted."""


@dataclass(slots=True)
class BookReport:
    """The books of all networks; ``failed`` has those that could not be compared."""

    period: Period
    made_at: datetime
    networks: list[NetworkBooks] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    ledger: GeneralLedger = field(default_factory=GeneralLedger)
    statements: BankStatements = field(default_factory=lambda: BankStatements({}))

    @property
    def count(self) -> int:
        return self.codes.total()

    def add(self, event: object) -> None:
        """Add a result, or a difference; of other events only the entries."""
        self.ledger.add(event)
        self.statements.add(event)
        if isinstance(event, NetworkBooks):
            self.networks.append(event)
        elif isinstance(event, Difference):
            self.codes[str(event.code)] += 1
            if len(self.differences) < MOST_LISTED:
                self.differences.append(event)

    def fail(self, network: str, error: HotWalletError) -> None:
        self.ledger.discard()
        self.statements.discard()
        self.failed[network] = f"{error.code}: {error}"


def block_time(header: Header) -> str:
    return timestamp(datetime.fromtimestamp(header.timestamp, UTC))


def books_document(report: BookReport) -> dict[str, Any]:
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
                **{
                    name: _format(books.assets[each.asset], getattr(each, name))
                    for name in _AMOUNTS
                },
                "checked": each.is_checked,
                "closing_units": None if each.closing is None else str(each.closing),
            }
            for each in books.accounts
        ],
        "notes": list(books.notes),
    }


def _format(asset: Asset, units: int | None) -> str | None:
    return None if units is None else asset.format(units)


def read_openings(text: bytes) -> Mapping[str, Openings]:
    """Return the closing balances of a report, by network."""
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
    for books in books_document(report)["networks"]:
        yield _BLOCKS.format_map(books)
        for account in books["accounts"]:
            known = {name: account[name] or "unknown" for name in _AMOUNTS}
            yield _ACCOUNT.format_map({**account, **known})
        for note in books["notes"]:
            yield f"  NOTE {note}"


def summary(report: BookReport) -> str:
    if report.count:
        return (
            f"{report.count} differences: `hotwallet explain-code CODE` explains each"
        )
    if report.failed:
        return f"not compared: {', '.join(report.failed)}"
    paid = sum(books.refunds for books in report.networks)
    return f"no difference; {paid} refunds were compared"


def describe(difference: Difference) -> str:
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


_BLOCKS = """\
{network}: blocks {first_block} to {last_block} ({first_block_at} to {last_block_at})
  used nonces: {refunds} refunds, {sweeps} sweeps, {others} others"""
_ACCOUNT = """\
  {wallet} {asset}
    opening {opening} + received {received} - refunds {refunds} - sweeps {sweeps}\
 - other {other} - fees {fees} = closing {closing}"""

_AMOUNTS = ("opening", "received", "refunds", "sweeps", "other", "fees", "closing")

_DIFFERENCE = (
    *("code", "network", "wallet", "asset", "refund_id", "nonce", "tx_hash"),
    *("expected", "found", "detail"),
)

_COLUMNS = ("record", *_DIFFERENCE, *_AMOUNTS)


def books_csv(report: BookReport) -> str:
    """Return *report* as CSV: a row per difference, account, note and failure."""
    return write_csv(_COLUMNS, _rows(books_document(report)))


def _rows(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for difference in document["differences"]:
        yield {"record": "difference", **difference}
    for books in document["networks"]:
        network = books["network"]
        for account in books["accounts"]:
            yield {"record": "account", "network": network, **account}
        for note in books["notes"]:
            yield {"record": "note", "network": network, "detail": note}
    for name, problem in document["not_compared"].items():
        yield {"record": "not-compared", "network": name, "detail": problem}


def ledger_csv(report: BookReport) -> str:
    start, end = timestamp(report.period.start), timestamp(report.period.end)
    rows = ({"from": start, "to": end, **each} for each in report.ledger.rows)
    return write_csv(LEDGER_COLUMNS, rows)


def books_html(report: BookReport) -> str:
    """Return *report* as one page without scripts and external files."""
    environment = Environment(
        loader=PackageLoader("api.extras.books"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("books.html").render(
        report=books_document(report),
        summary=summary(report),
        difference_columns=_DIFFERENCE,
        account_columns=("wallet", "asset", *_AMOUNTS),
        amounts=_AMOUNTS,
    )


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
            "network_fee": format_units(
                settled.fee if used.has_fee else 0, COIN_DECIMALS
            ),
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
