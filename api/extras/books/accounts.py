"""What each wallet held, received and spent, per asset: exact sums in base units."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from api.extras.books.entries import (
    Assets,
    BlockRange,
    Code,
    Difference,
    Movement,
    windows,
)
from signer.errors import ChainUnavailableError
from signer.model.refund import COIN_ADDRESS
from signer.ports.chain import ChainHistory


@dataclass(slots=True)
class Account:
    """
    One asset of one wallet during the period, in base units.

    ``opening`` and ``closing`` are None if no quorum of nodes could read them.
    ``refunds``, ``sweeps`` and ``other`` are what left; the last has accepted foreign
    payments, and differences.  ``received`` has top-ups and sweeps.  The chain has no
    list of incoming coin, so that is computed from the balances, or None.
    """

    wallet: str
    asset: str
    refunds: int = 0
    sweeps: int = 0
    other: int = 0
    fees: int = 0
    received: int | None = 0
    opening: int | None = None
    closing: int | None = None

    @property
    def spent(self) -> int:
        """The sum of all that left."""
        return self.refunds + self.sweeps + self.other + self.fees

    @property
    def is_empty(self) -> bool:
        """Whether the wallet had nothing to do with the asset."""
        moved = self.spent or self.received
        return not (moved or self.opening or self.closing)

    @property
    def is_checked(self) -> bool:
        """Whether both balances were read, so that the sums are proved."""
        return self.opening is not None and self.closing is not None


@dataclass(frozen=True, slots=True)
class Openings:
    """
    The closing balances of an earlier report: after ``block``, by wallet and asset.

    None is one that the report does not know.  What it does not have was zero.
    """

    block: int
    balances: Mapping[tuple[str, str], int | None]


@dataclass(eq=False, repr=False)
class Accounts:
    """
    All accounts of one network, by wallet and asset.

    Balances need the state of a block that nodes may have pruned.  A closing balance of
    a token is then computed: from the newest final balance, and the transfers since the
    range.  *openings* replace opening balances.
    """

    history: ChainHistory
    blocks: BlockRange
    assets: Assets
    openings: Openings | None

    def __post_init__(self) -> None:
        self._accounts: dict[tuple[str, str], Account] = {}

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    def of(self, wallet: str, asset: str) -> Account:
        return self._accounts.setdefault((wallet, asset), Account(wallet, asset))

    def book(self, movement: Movement) -> None:
        account = self.of(movement.wallet, movement.asset)
        moved = getattr(account, movement.name) + movement.amount
        setattr(account, movement.name, moved)

    def settle_coin(self, unknown: Mapping[str, int]) -> None:
        """
        Compute the coin that each wallet received.

        *unknown* has the number of used nonces by wallet whose transactions, and so
        whose fees, were not found: the coin cannot be computed then.
        """
        for account in self:
            if account.asset != COIN_ADDRESS:
                continue
            account.received = None
            if not unknown.get(account.wallet) and (
                account.opening is not None and account.closing is not None
            ):
                account.received = account.closing + account.spent - account.opening

    def differences(self, network: str) -> Iterator[Difference]:
        """Yield the accounts whose balances contradict the sums."""
        for account in self:
            opening, closing, received = (
                account.opening,
                account.closing,
                account.received,
            )
            if opening is None or closing is None or received is None:
                continue
            asset = self.assets[account.asset]
            expected = opening + max(received, 0) - account.spent
            if expected != closing:
                yield Difference(
                    Code.BALANCE_MISMATCH,
                    network,
                    account.wallet,
                    "opening balance, plus received, minus spent, is not the closing"
                    " balance",
                    asset=asset.symbol,
                    expected=asset.format(expected),
                    found=asset.format(closing),
                )

    def fill(self, wallets: Sequence[str]) -> Sequence[str]:
        """Fill the balances of *wallets*; return the symbols that have gaps."""
        first, last = self.blocks.numbers
        for wallet in wallets:
            for asset in self.assets.held:
                account = self.of(wallet, asset.address)
                account.opening = self._opening(wallet, asset.address, first - 1)
                account.closing = self._read(wallet, asset.address, last)
        self._compute_closings(wallets)
        gaps = {each.asset for each in self if not each.is_checked}
        return sorted(self.assets[address].symbol for address in gaps)

    def _opening(self, wallet: str, asset: str, block: int) -> int | None:
        read = self._read(wallet, asset, block)
        if read is None and self.openings and self.openings.block == block:
            return self.openings.balances.get((wallet, asset), 0)
        return read

    def _compute_closings(self, wallets: Sequence[str]) -> None:
        missing = [
            each for each in self if each.closing is None and each.asset != COIN_ADDRESS
        ]
        if not missing:
            return
        final = self.blocks.final
        since = self._moved_since(self.blocks.numbers[1], wallets)
        for account in missing:
            newest = self._read(account.wallet, account.asset, final)
            if newest is not None:
                account.closing = newest - since[account.wallet, account.asset]

    def _moved_since(
        self, last: int, wallets: Sequence[str]
    ) -> Mapping[tuple[str, str], int]:
        """Return what each wallet received, less what it sent, after block *last*."""
        moved = Counter[tuple[str, str]]()
        for start, end in windows(last + 1, self.blocks.final):
            for each in self.history.transfers(self.assets.tokens, wallets, start, end):
                moved[each.recipient, each.token] += each.amount
                moved[each.sender, each.token] -= each.amount
        return moved

    def _read(self, wallet: str, asset: str, block: int) -> int | None:
        """Return a balance after *block*; None if the nodes do not have its state."""
        try:
            if asset == COIN_ADDRESS:
                return self.history.coin_balance(wallet, block)
            return self.history.token_balance(asset, wallet, block)
        except ChainUnavailableError:
            return None
