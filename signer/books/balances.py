"""The balances before and after a range of blocks, where nodes have the states."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from signer.books.accounts import Accounts
from signer.books.assets import Assets
from signer.books.period import BlockRange, windows
from signer.errors import ChainUnavailableError
from signer.model.refund import COIN_ADDRESS
from signer.ports.chain_history import ChainHistory


@dataclass(frozen=True, slots=True)
class Openings:
    """
    The closing balances of an earlier report: after ``block``, by wallet and asset.

    None is one that the report does not know.  What it does not have was zero.
    """

    block: int
    balances: Mapping[tuple[str, str], int | None]


class BalanceBook:
    """
    Reads balances, which need the state of a block that nodes may have pruned.

    A closing balance of a token is then computed: from the newest final balance, and
    the transfers since the range.  *openings* replace opening balances.
    """

    def __init__(
        self,
        history: ChainHistory,
        blocks: BlockRange,
        assets: Assets,
        openings: Openings | None,
    ) -> None:
        self._history = history
        self._blocks = blocks
        self._assets = assets
        self._openings = openings

    def fill(self, accounts: Accounts, wallets: Sequence[str]) -> Sequence[str]:
        """Fill the balances of *accounts*; return the symbols that have gaps."""
        first, last = self._blocks.numbers
        for wallet in wallets:
            for asset in self._assets:
                account = accounts.of(wallet, asset.address)
                account.opening = self._opening(wallet, asset.address, first - 1)
                account.closing = self._read(wallet, asset.address, last)
        self._compute_closings(accounts, wallets)
        gaps = {each.asset for each in accounts if not each.is_checked}
        return sorted(self._assets[address].symbol for address in gaps)

    def _opening(self, wallet: str, asset: str, block: int) -> int | None:
        read = self._read(wallet, asset, block)
        if read is None and self._openings and self._openings.block == block:
            return self._openings.balances.get((wallet, asset), 0)
        return read

    def _compute_closings(self, accounts: Accounts, wallets: Sequence[str]) -> None:
        missing = [
            each
            for each in accounts
            if each.closing is None and each.asset != COIN_ADDRESS
        ]
        if not missing:
            return
        final = self._blocks.final
        since = self._moved_since(self._blocks.numbers[1], wallets)
        for account in missing:
            newest = self._read(account.wallet, account.asset, final)
            if newest is not None:
                account.closing = newest - since[account.wallet, account.asset]

    def _moved_since(
        self, last: int, wallets: Sequence[str]
    ) -> Mapping[tuple[str, str], int]:
        """Return what each wallet received, less what it sent, after block *last*."""
        moved = Counter[tuple[str, str]]()
        for start, end in windows(last + 1, self._blocks.final):
            for each in self._history.transfers(
                self._assets.tokens, wallets, start, end
            ):
                moved[each.recipient, each.token] += each.amount
                moved[each.sender, each.token] -= each.amount
        return moved

    def _read(self, wallet: str, asset: str, block: int) -> int | None:
        """Return a balance after *block*; None if the nodes do not have its state."""
        try:
            if asset == COIN_ADDRESS:
                return self._history.coin_balance(wallet, block)
            return self._history.token_balance(asset, wallet, block)
        except ChainUnavailableError:
            return None
