"""
A day of the books as a bank statement: camt.053.001.08 of ISO 20022.

Each account of a token is a statement of the message.  A person says for which currency
a token stands; nothing is converted.

The schema has five decimals, and anyone can send a wallet less than that.  So balances
are rounded down, and an entry is the change of the balance so stated.  An amount of at
most five decimals is always exact, and entries always add up to the balances.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, time, timedelta
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from api.extras.books.accounts import Account
from api.extras.books.comparison import NetworkBooks
from api.extras.books.entries import Asset, Movement, Period
from api.views.values import timestamp
from signer.errors import InvalidInputError
from signer.model.refund import COIN_ADDRESS


NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"

# ActiveOrHistoricCurrencyAndAmount; Max34Text, of an account; Max35Text.
_MOST_DECIMALS, _MOST_DIGITS, _ACCOUNT_ID, _ID = 5, 18, 34, 35

# Family and sub-family of the domain PMNT (external bank transaction codes), by the
# accounts of the general ledger.
_CODES = {
    "refunds": ("ICDT", "OTHR"),
    "sweeps": ("ICDT", "BOOK"),
    "other": ("ICDT", "OTHR"),
    "fees": ("ICDT", "CHRG"),
    "received": ("RCDT", "OTHR"),
}

_Tree = Mapping[str, "str | _Tree | Sequence[str | _Tree] | None"]
"""Elements by name, in the order of the schema; None is left out."""


class BankStatements:
    """Collects movements of one network after the other, and writes the message."""

    def __init__(self, currencies: Mapping[str, str]) -> None:
        """Have a statement for each account of a token in *currencies*."""
        self._currencies = currencies
        self._movements: list[Movement] = []
        self._networks: list[tuple[NetworkBooks, list[Movement]]] = []

    def add(self, event: object) -> None:
        """Add a movement, or the end of a network."""
        if isinstance(event, Movement) and self._currencies:
            self._movements.append(event)
        elif isinstance(event, NetworkBooks):
            self._networks.append((event, self._movements))
            self.discard()

    def discard(self) -> None:
        """Forget a network that could not be compared."""
        self._movements = []

    def write(self, period: Period, made_at: datetime) -> bytes:
        """
        Return the message about the day *period*.

        Raises:
            InvalidInputError: No wallet has the tokens, the day has blocks that are not
                final, or a statement cannot have an amount or a balance.
        """
        root = Element("Document", xmlns=NAMESPACE)
        message = SubElement(root, "BkToCstmrStmt")
        now = timestamp(made_at)
        _append(message, {"GrpHdr": {"MsgId": _digest(now), "CreDtTm": now}}, "")
        days = {"FrDtTm": timestamp(period.start), "ToDtTm": timestamp(period.end)}
        names = set[str]()
        for books, movements in self._networks:
            for account in books.accounts:
                asset = books.assets[account.asset]
                currency = self._currencies.get(asset.symbol)
                if currency is None:
                    continue
                name = f"{books.chain_id}-{asset.symbol}-{account.wallet[2:]}"
                name = name[:_ACCOUNT_ID]
                if name in names:
                    raise _refusal(f"two accounts would have the name {name}")
                names.add(name)
                entries = _entries(account, movements)
                tree: _Tree = {
                    "Id": _digest(f"{name} {period.start}"),
                    "CreDtTm": now,
                    "FrToDt": days,
                    "Acct": {
                        "Id": {"Othr": {"Id": name}},
                        "Ccy": currency,
                        "Prxy": {
                            "Tp": {"Prtry": "CAIP-10"},
                            "Id": f"eip155:{books.chain_id}:{account.wallet}",
                        },
                    },
                    **_balances_and_entries(books, account, entries, period),
                }
                _append(message, {"Stmt": tree}, currency)
        if not names:
            raise _refusal(f"no wallet has {', '.join(self._currencies)}")
        indent(root)
        return bytes(tostring(root, "UTF-8", xml_declaration=True)) + b"\n"


def require_day(period: Period) -> None:
    """
    Require that *period* is one day, from which all bookings have their date.

    Raises:
        InvalidInputError: It is another one.
    """
    is_day = period.end - period.start == timedelta(days=1)
    if not is_day or period.start.time() != time():
        problem = "needs one day, such as --from yesterday --to today"
        raise InvalidInputError(problem, field="--camt053")


def _balances_and_entries(
    books: NetworkBooks, account: Account, entries: Sequence[Movement], period: Period
) -> _Tree:
    asset, (_, last) = books.assets[account.asset], books.blocks.numbers
    opening, closing = account.opening, account.closing
    what = f"{asset.symbol} of {account.wallet} on {books.network}"
    if last == books.blocks.final:
        problem = f"the last block of the day on {books.network} is not final"
        raise _refusal(problem, "wait")
    if opening is None or closing is None:
        raise _refusal(f"the balance of {what} is not known")
    if opening + sum(map(_change, entries)) != closing:
        raise _refusal(f"the movements of {what} do not add up to its balance")
    date = {"Dt": period.start.date().isoformat()}
    notes, booked, held = [], [], opening
    step = 10 ** max(0, asset.decimals - _MOST_DECIMALS)
    for each in entries:
        before, held = held, held + _change(each)
        if stated := abs(held // step - before // step) * step:
            booked.append(_entry(each, stated, asset, date))
    if any(each % step for each in (opening, *(each.amount for each in entries))):
        notes.append("Balances are rounded down to five decimals: see the ledger.")
    coin = books.assets[COIN_ADDRESS]
    if asset is not coin:
        notes.append(f"Fees in {coin.symbol} are in the ledger only.")
    return {
        "Bal": [
            {
                "Tp": {"CdOrPrtry": {"Cd": code}},
                "Amt": _amount(asset, units - units % step),
                "CdtDbtInd": "CRDT",
                "Dt": date,
            }
            for code, units in (("OPBD", opening), ("CLBD", closing))
        ],
        "Ntry": booked,
        "AddtlStmtInf": " ".join(notes) or None,
    }


def _entries(account: Account, movements: Sequence[Movement]) -> Sequence[Movement]:
    """Return those of *account*, and the coin that came without an event."""
    key = account.wallet, account.asset
    found = [each for each in movements if (each.wallet, each.asset) == key]
    if account.asset == COIN_ADDRESS:
        listed = sum(each.amount for each in found if each.name == "received")
        found.append(Movement("received", *key, (account.received or 0) - listed))
    return [each for each in found if each.amount > 0]


def _change(movement: Movement) -> int:
    return movement.amount if movement.name == "received" else -movement.amount


def _entry(movement: Movement, stated: int, asset: Asset, date: _Tree) -> _Tree:
    is_credit, refund = movement.name == "received", movement.refund
    family, sub_family = _CODES[movement.name]
    reference = None if refund is None else refund.reference
    is_short = reference is not None and len(reference) <= _ID
    party = movement.party and {"Pty": {"Nm": movement.party}}
    paid_by = movement.tx_hash and f"transaction {movement.tx_hash}"
    return {
        "Amt": _amount(asset, stated),
        "CdtDbtInd": "CRDT" if is_credit else "DBIT",
        "Sts": {"Cd": "BOOK"},
        "BookgDt": date,
        "ValDt": date,
        "AcctSvcrRef": None if refund is None else refund.id,
        "BkTxCd": {
            "Domn": {"Cd": "PMNT", "Fmly": {"Cd": family, "SubFmlyCd": sub_family}},
            "Prtry": {"Cd": movement.name},
        },
        "NtryDtls": {
            "TxDtls": {
                "Refs": {
                    "AcctSvcrRef": None if refund is None else refund.id,
                    "EndToEndId": reference if is_short else "NOTPROVIDED",
                },
                "RltdPties": party and {"Dbtr" if is_credit else "Cdtr": party},
                "RmtInf": paid_by
                and {"Ustrd": [each for each in (paid_by, reference) if each]},
            }
        },
    }


def _amount(asset: Asset, units: int) -> str:
    """Return *units*, of at most five decimals, as the schema has amounts."""
    whole, _, decimals = asset.format(units).partition(".")
    decimals = decimals.rstrip("0")
    if len(whole) + len(decimals) > _MOST_DIGITS:
        raise _refusal(f"{asset.format(units)} {asset.symbol} has too many digits")
    return f"{whole}.{decimals:0<2}"


def _append(parent: Element, tree: _Tree, currency: str) -> None:
    for name, content in tree.items():
        if content is None:
            continue
        for each in [content] if isinstance(content, str | Mapping) else content:
            child = SubElement(parent, name)
            if name == "Amt":
                child.set("Ccy", currency)
            if isinstance(each, str):
                child.text = each
            else:
                _append(child, each, currency)


def _digest(text: str) -> str:
    """Return a name of at most 35 characters for *text*."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _refusal(problem: str, cure: str = "use --ledger") -> InvalidInputError:
    return InvalidInputError(f"{problem}: {cure}", field="--camt053")
