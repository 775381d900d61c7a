"""The report of the books: its document and its lines."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from api.views.refunds import timestamp
from signer.books.accounts import Account
from signer.books.balances import Openings
from signer.books.differences import Difference
from signer.books.network_books import NetworkBooks
from signer.books.period import Period
from signer.errors import HotWalletError, InvalidInputError
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
