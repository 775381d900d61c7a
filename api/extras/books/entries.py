"""What the books are about: a period's blocks, assets, used nonces and differences."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from api.extras.books.tables import BookToken, NonceEntry, TransactionCost
from signer.amounts import COIN_DECIMALS, format_units
from signer.chain.chain import final_height
from signer.chain.erc20 import read_memo
from signer.config.networks import FeeForm, Network
from signer.errors import InvalidInputError
from signer.model.payment import PaymentPurpose
from signer.model.refund import COIN, COIN_ADDRESS, Refund
from signer.ports.chain import ChainHistory, Header, Settled, TokenTransfer


LATE_SECONDS = 3600
"""How long a worker may take to see that a transaction is final."""

REORGANISED = "the chain was reorganised while it was read: run the command again"

_WINDOW = 2000
"""Blocks of one window; nodes may return fewer at once."""


@dataclass(frozen=True, slots=True)
class Period:
    """A period from *start* up to, and without, *end*; both are in UTC."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise InvalidInputError("must be later than --from", field="--to")


@dataclass(frozen=True, slots=True)
class BlockRange:
    """
    The final blocks of a period, from *first* to *last*, both included.

    ``final`` is the height of the newest final block.  Refunds in blocks before
    ``late_before`` have been final for so long that the ledger should know.
    """

    first: Header
    last: Header
    final: int
    late_before: int

    @property
    def numbers(self) -> tuple[int, int]:
        return self.first.block.number, self.last.block.number

    @property
    def count(self) -> int:
        first, last = self.numbers
        return last - first + 1


def find_blocks(history: ChainHistory, period: Period, network: Network) -> BlockRange:
    """
    Return the blocks of *period* that are final.

    The genesis block is left out: it has no block before it, whose state is the opening
    one, and no transactions.

    Raises:
        InvalidInputError: No block of the period is final yet.
        ChainUnavailableError: As ``ChainHistory``.
    """
    final = final_height(network, history, history.latest_block())

    def find_first(timestamp: float) -> int:
        return bisect_left(
            range(final + 1),
            timestamp,
            key=lambda number: header_at(history, number).timestamp,
        )

    first = max(1, find_first(period.start.timestamp()))
    last = find_first(period.end.timestamp()) - 1
    if last < first:
        raise InvalidInputError(
            "has no final block yet: choose an earlier --from, or wait",
            field="the period",
        )
    newest = header_at(history, final)
    return BlockRange(
        header_at(history, first),
        header_at(history, last),
        final,
        find_first(newest.timestamp - LATE_SECONDS),
    )


def windows(first: int, last: int) -> Iterator[tuple[int, int]]:
    """
    Yield the first and last block of each part of the blocks from *first* to *last*.

    >>> list(windows(1, 2001))
    [(1, 2000), (2001, 2001)]
    """
    for start in range(first, last + 1, _WINDOW):
        yield start, min(start + _WINDOW - 1, last)


def header_at(history: ChainHistory, number: int) -> Header:
    """Return the canonical block at height *number*."""
    (header,) = history.headers([number])
    return header


@dataclass(frozen=True, slots=True)
class Asset:
    """A token by its contract's address, or the coin (``COIN_ADDRESS``)."""

    address: str
    symbol: str
    decimals: int

    def format(self, units: int) -> str:
        """Return *units*, which may be negative, in whole tokens."""
        sign = "-" if units < 0 else ""
        return sign + format_units(abs(units), self.decimals)


_COLLECTORS: Mapping[FeeForm | None, str] = {
    "tempo": "0xfeec000000000000000000000000000000000000"
}
"""What collects fees in a token; an event has each."""


class Assets:
    """
    The assets of one network, by address.

    A token that is the coin has no account of its own: wallets have one balance.
    """

    def __init__(self, network: Network, refunded: Iterable[BookToken]) -> None:
        """Have those of the configuration, and of the ledger's refunds."""
        self._by_address = {
            each.address: Asset(each.address, each.symbol, each.decimals)
            for each in refunded
            if each.address != COIN_ADDRESS
        }
        for symbol, token in network.tokens.items():
            self._by_address[token.address] = Asset(
                token.address, symbol, token.decimals
            )
        self.tokens = tuple(self._by_address)
        self._by_address[COIN_ADDRESS] = Asset(
            COIN_ADDRESS, network.coin_is or COIN, COIN_DECIMALS
        )
        self._shared = network.token_of_coin
        self._fee_token = network.fee_token
        if self._fee_token is not None:
            self._collector = _COLLECTORS[network.fees]

    @property
    def held(self) -> Sequence[Asset]:
        shared = self._shared and self._shared.address
        return [each for each in self._by_address.values() if each.address != shared]

    def account_of(self, address: str, units: int) -> tuple[str, int]:
        """Return the asset whose account has *units* of *address*, and its units."""
        if self._shared is None or address != self._shared.address:
            return address, units
        return COIN_ADDRESS, self._shared.in_coin(units)

    def fee(self, wei: int) -> int:
        """Return a fee in wei; a fee in a token is of whole units, rounded up."""
        unit = 1 if self._fee_token is None else self._fee_token.in_coin(1)
        return -(-wei // unit) * unit

    def is_fee(self, transfer: TokenTransfer) -> bool:
        """Return whether *transfer* is the fee of its transaction."""
        return (
            self._fee_token is not None
            and transfer.token == self._fee_token.address
            and transfer.recipient.lower() == self._collector
        )

    def __getitem__(self, address: str) -> Asset:
        return self._by_address[address]

    def format(self, address: str, units: int) -> str:
        """Return *units* of an asset in whole tokens, with its symbol."""
        asset = self[address]
        return f"{asset.format(units)} {asset.symbol}"


class Code(StrEnum):
    """The differences; ``docs/how-to/reconcile.md`` explains each."""

    REFUND_WITHOUT_TRANSFER = "refund-without-transfer"
    CONFIRMED_BUT_MISSING = "confirmed-but-missing"
    TRANSFER_WITHOUT_REFUND = "transfer-without-refund"
    COIN_WITHOUT_REFUND = "coin-without-refund"
    UNKNOWN_TRANSACTION = "unknown-transaction"
    FOREIGN_TRANSACTION = "foreign-transaction"
    WRONG_AMOUNT = "wrong-amount"
    WRONG_RECIPIENT = "wrong-recipient"
    WRONG_TOKEN = "wrong-token"  # noqa: S105  A code.
    WRONG_BLOCK = "wrong-block"
    PAID_TWICE = "paid-twice"
    REFUSED_BUT_PAID = "refused-but-paid"
    MINED_BUT_OPEN = "mined-but-open"
    FEE_MISMATCH = "fee-mismatch"
    BALANCE_MISMATCH = "balance-mismatch"
    VAULT_WITHDRAWAL = "vault-withdrawal"
    OTHER_OPERATOR = "other-operator"
    ROW_CHANGED = "row-changed"
    UNKNOWN_SENDER = "unknown-sender"


@dataclass(frozen=True, slots=True)
class Difference:
    """
    One difference.

    ``expected`` is what the ledger records and ``found`` what the chain shows, as text:
    amounts are decimal strings in whole tokens.  What does not apply is None.
    """

    code: Code
    network: str
    wallet: str
    detail: str
    refund_id: str | None = None
    nonce: int | None = None
    tx_hash: str | None = None
    asset: str | None = None
    expected: str | None = None
    found: str | None = None


NO_NONCE = -1
"""The nonce of a transfer that another account's transaction made."""


@dataclass(frozen=True, slots=True)
class Outflow:
    """
    An amount that left a wallet, in base units; the coin is ``COIN_ADDRESS``.

    ``payer`` is the vault that held it; None if the wallet's own address did.
    """

    asset: str
    recipient: str
    amount: int
    payer: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class UsedNonce:
    """
    One used nonce: its rows, its transaction, and what left the wallet in that.

    ``settled`` is None if no transaction was found.  ``precedes_ledger`` is whether the
    nonce was used before this service had the wallet.

    Of a batch, each ``item`` is one by its position, and ``has_fee`` is true for the
    first.  ``mark`` is that of an item whose refund is not known.
    """

    wallet: str
    entry: NonceEntry
    settled: Settled | None
    payments: tuple[Outflow, ...] = ()
    precedes_ledger: bool = False
    item: int | None = None
    mark: bytes | None = None
    has_fee: bool = True

    @property
    def attempt(self) -> TransactionCost | None:
        """The signed transaction that was mined, if the ledger has it."""
        return next(
            (
                each
                for each in self.entry.attempts
                if self.settled and each.tx_hash == self.settled.tx_hash
            ),
            None,
        )

    @property
    def is_own(self) -> bool:
        """Whether the transaction is one of the row that has the nonce."""
        row, settled = self.entry.row, self.settled
        if settled is None or row is None:
            return False
        return self.attempt is not None or row.tx_hash == settled.tx_hash

    @property
    def kind(self) -> str:
        """What used the nonce: refund, sweep, filler, other, or earlier."""
        refund = self.entry.refund
        if self.precedes_ledger:
            return "earlier"
        if not self.is_own:
            return "other"
        if refund is None:
            return "filler"
        return "sweep" if refund.purpose is PaymentPurpose.SWEEP else "refund"

    @property
    def is_accepted(self) -> bool:
        """Whether an operator accepted the foreign transaction that used the nonce."""
        seen = self.entry.unrecorded
        return seen is not None and seen.accepted_at is not None

    @property
    def memo(self) -> bytes | None:
        """The memo in the calldata of a transaction that no row of a refund has."""
        if self.mark is not None:
            return self.mark
        if self.is_own or self.settled is None:
            return None
        return read_memo(self.settled.data)


@dataclass(frozen=True, slots=True)
class Movement:
    """
    What changed an account, in base units.

    ``name`` is the sum of ``Account`` that has it, ``party`` the other side, and
    ``refund`` what was paid, or swept.
    """

    name: str
    wallet: str
    asset: str
    amount: int
    tx_hash: str | None = None
    party: str | None = None
    refund: Refund | None = None


_NAMES = {"other": "other", "earlier": "other", "sweep": "sweeps"}


def read_movements(used: UsedNonce, assets: Assets) -> Iterator[Movement]:
    """Yield what *used* paid, and its fee."""
    settled = used.settled
    if settled is None:
        return
    name = _NAMES.get(used.kind, "refunds")
    for each in used.payments:
        payer, refund = each.payer or used.wallet, used.entry.refund
        asset, amount = assets.account_of(each.asset, each.amount)
        known = refund if used.is_own else None
        to = each.recipient
        yield Movement(name, payer, asset, amount, settled.tx_hash, to, known)
    if used.has_fee and settled.sender == used.wallet:
        fee, tx_hash = assets.fee(settled.fee), settled.tx_hash
        yield Movement("fees", used.wallet, COIN_ADDRESS, fee, tx_hash)


def read_payments(
    wallet: str, settled: Settled | None, transfers: Sequence[TokenTransfer]
) -> tuple[Outflow, ...]:
    """Return what left *wallet*: *transfers*, and the coin of its own *settled*."""
    moved = [
        Outflow(
            each.token,
            each.recipient,
            each.amount,
            None if each.sender == wallet else each.sender,
        )
        for each in transfers
    ]
    if settled is None:
        return tuple(moved)
    if settled.succeeded and settled.value and settled.to != settled.sender:
        moved.append(Outflow(COIN_ADDRESS, str(settled.to), settled.value))
    return tuple(moved)
