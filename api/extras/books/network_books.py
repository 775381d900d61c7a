"""The books of one network: what was compared over a range of final blocks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from api.extras.books.accounts import Account, BalanceBook, Openings
from api.extras.books.comparison import Comparison
from api.extras.books.entries import (
    REORGANISED,
    Assets,
    BlockRange,
    Difference,
    Period,
    UsedNonce,
    find_blocks,
    header_at,
    windows,
)
from signer.config.networks import Network
from signer.errors import ChainUnavailableError
from signer.ports.book_reader import BookReader
from signer.ports.chain_history import ChainHistory


@dataclass(frozen=True, slots=True)
class Progress:
    """How many of the range's blocks were read."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class NetworkBooks:
    """
    The result of one network.

    ``refunds``, ``sweeps`` and ``others`` (fillers, foreign and unknown transactions)
    count what used nonces.  ``notes`` say what could not be checked.
    """

    network: str
    chain_id: int
    blocks: BlockRange
    assets: Assets
    accounts: Sequence[Account]
    refunds: int
    sweeps: int
    others: int
    notes: Sequence[str]


Event = Difference | UsedNonce | Progress | NetworkBooks


class BookKeeper:
    """
    Compares ledger and chain of one network; changes nothing.

    *addresses* are those of the wallets, besides those that the ledger has opened.
    *openings* are balances that an earlier report has, for nodes without old states.
    """

    def __init__(
        self,
        name: str,
        network: Network,
        history: ChainHistory,
        reader: BookReader,
        *,
        addresses: Sequence[str],
        openings: Openings | None = None,
    ) -> None:
        self._name = name
        self._network = network
        self._history = history
        self._reader = reader
        self._addresses = addresses
        self._openings = openings

    def compare(self, period: Period) -> Iterator[Event]:
        """
        Yield each difference, each used nonce and the progress; at last the result.

        Raises:
            InvalidInputError: No block of the period is final yet.
            ChainUnavailableError: Too few nodes answer, they contradict each other, or
                the chain was reorganised meanwhile.
        """
        chain_id = self._network.chain_id
        blocks = find_blocks(self._history, period, self._network.confirmations)
        assets = Assets.of(self._network, self._reader.refunded_tokens(chain_id))
        comparison = Comparison(
            self._name,
            chain_id,
            self._history,
            self._reader,
            blocks=blocks,
            assets=assets,
            addresses=self._addresses,
        )
        comparison.open()
        first, last = blocks.numbers
        for start, end in windows(first, last):
            yield from comparison.read_window(start, end)
            yield Progress(end - first + 1, blocks.count)
        yield from comparison.finish()
        accounts = comparison.accounts
        balances = BalanceBook(self._history, blocks, assets, self._openings)
        gaps = balances.fill(accounts, comparison.wallets)
        accounts.settle_coin(comparison.unfound)
        yield from accounts.differences(self._name, assets)
        if header_at(self._history, last) != blocks.last:
            raise ChainUnavailableError(REORGANISED)
        counts = comparison.counts
        yield NetworkBooks(
            network=self._name,
            chain_id=chain_id,
            blocks=blocks,
            assets=assets,
            accounts=[each for each in accounts if not each.is_empty],
            refunds=counts["refund"],
            sweeps=counts["sweep"],
            others=counts.total() - counts["refund"] - counts["sweep"],
            notes=[*_describe_gaps(comparison, gaps)],
        )


def _describe_gaps(comparison: Comparison, unread: Sequence[str]) -> Iterator[str]:
    if unread:
        yield (
            "balances of these assets were not compared, because no quorum of nodes has"
            f" the state of the range's first or last block: {', '.join(unread)}. Use"
            " an archive node, or --previous with the report of the period before"
        )
    if missing := comparison.unfound.total():
        yield (
            f"{missing} transactions of unknown nonces were not found, so the coin that"
            " wallets received is not known"
        )
    if earlier := comparison.counts["earlier"]:
        yield (
            f"{earlier} transactions were sent before this service had the wallet, and"
            " were not compared"
        )
