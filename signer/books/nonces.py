"""Walks through the nonces that a wallet used in a range of blocks."""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator

from signer.books.period import REORGANISED, BlockRange
from signer.errors import ChainUnavailableError
from signer.ports.book_reader import BookReader, NonceEntry
from signer.ports.chain_history import ChainHistory, Settled


_PAGE = 200


class NonceWalk:
    """
    The used nonces of one wallet, in their order, which is that of their blocks.

    ``unknown`` collects the entries of nonces of which the ledger knows no mined
    transaction.
    """

    def __init__(
        self, history: ChainHistory, reader: BookReader, chain_id: int, wallet: str
    ) -> None:
        self.wallet = wallet
        self.unknown: list[NonceEntry] = []
        self._history = history
        self._reader = reader
        self._chain_id = chain_id
        self._blocks: range = range(0)
        self._nonces: range = range(0)
        self._next = 0
        self._page: deque[tuple[NonceEntry, Settled | None]] = deque()

    @property
    def nonces(self) -> range:
        """The nonces of the range of blocks."""
        return self._nonces

    def open(self, blocks: BlockRange) -> None:
        """Find the nonces of *blocks*."""
        first, last = blocks.numbers
        self._blocks = range(first, last + 1)
        start, end = self._find_nonces(first, last)
        self._nonces = range(start, end)
        self._next = start

    def until(self, block: int) -> Iterator[tuple[NonceEntry, Settled]]:
        """
        Yield the next used nonces up to *block*, included, with their transactions.

        Raises:
            ChainUnavailableError: A transaction is in another block than its nonce: the
                chain was reorganised meanwhile.
        """
        while self._page or self._load():
            entry, settled = self._page[0]
            if settled is None:
                self.unknown.append(entry)
            elif settled.block.number not in self._blocks:
                raise ChainUnavailableError(REORGANISED)
            elif settled.block.number > block:
                return
            else:
                yield entry, settled
            self._page.popleft()

    def _load(self) -> bool:
        """Load the next page; return whether there is one."""
        start, end = self._next, min(self._next + _PAGE, self._nonces.stop)
        self._next = end
        found = self._entries(start, end)
        settled = self._settled(found)
        for entry in found:
            self._page.append((entry, settled.get(entry.nonce)))
        return bool(found)

    def _entries(self, start: int, end: int) -> list[NonceEntry]:
        """Return the entry of each nonce from *start* on; one without rows is empty."""
        if start >= end:
            return []
        rows = self._reader.nonce_entries(
            self._chain_id, self.wallet, start, end - start
        )
        by_nonce = {each.nonce: each for each in rows}
        return [by_nonce.get(nonce) or NonceEntry(nonce) for nonce in range(start, end)]

    def _settled(self, entries: list[NonceEntry]) -> dict[int, Settled]:
        """Return the mined transaction of each nonce, as far as the ledger knows it."""
        hashes = [each for entry in entries for each in _hashes(entry)]
        found = self._history.settled(hashes)
        # Another program may have written hashes of other wallets.
        own = [each for each in found.values() if each.sender == self.wallet]
        return {each.nonce: each for each in own}

    def _find_nonces(self, first: int, last: int) -> tuple[int, int]:
        used = self._history.transaction_count(self.wallet)
        if used == 0:
            return 0, 0
        try:
            return (
                self._history.transaction_count(self.wallet, first - 1),
                self._history.transaction_count(self.wallet, last),
            )
        except ChainUnavailableError:
            pass  # Only an archive node has the states of old blocks.
        opened = self._reader.wallet(self._chain_id, self.wallet)
        known = range(0 if opened is None else min(opened.first_nonce, used), used)
        start = known.start + bisect_left(known, first, key=self._block_of)
        rest = range(start, used)
        return start, start + bisect_left(rest, last + 1, key=self._block_of)

    def _block_of(self, nonce: int) -> int:
        """Return the block of a used nonce."""
        settled = self._settled(self._entries(nonce, nonce + 1)).get(nonce)
        if settled is not None:
            return settled.block.number
        mined = self._history.find_transaction(self.wallet, nonce)
        if mined is None:
            raise ChainUnavailableError(
                f"no node has the state that shows when nonce {nonce} of {self.wallet}"
                " was used: add an archive node to rpc_urls"
            )
        return mined.block.number


def _hashes(entry: NonceEntry) -> Iterator[str]:
    """Yield each hash under which the nonce may have been used."""
    for attempt in entry.attempts:
        yield attempt.tx_hash
    if entry.refund is not None and entry.refund.tx_hash is not None:
        yield entry.refund.tx_hash
    if entry.unrecorded is not None:
        yield entry.unrecorded.tx_hash
