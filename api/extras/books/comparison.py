"""Compares the used nonces and transfers of a network's wallets with their rows."""

from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from api.extras.books.accounts import Account, Accounts, Openings
from api.extras.books.batches import split_batch
from api.extras.books.entries import (
    NO_NONCE,
    REORGANISED,
    Assets,
    BlockRange,
    Code,
    Difference,
    Movement,
    Period,
    UsedNonce,
    find_blocks,
    header_at,
    read_movements,
    read_payments,
    windows,
)
from api.extras.books.matching import Matcher
from api.extras.books.tables import BookTables, NonceEntry
from signer.config.networks import Network
from signer.errors import ChainUnavailableError, RowNotAuthenticError
from signer.model.refund import Refund
from signer.model.transaction import Transaction
from signer.ports.chain import ChainHistory, Settled, TokenTransfer


_NONCES_READ = 200


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


Event = Difference | UsedNonce | Movement | Progress | NetworkBooks


class NonceWalk:
    """
    The used nonces of one wallet, in their order, which is that of their blocks.

    ``unknown`` collects the entries of nonces of which the ledger knows no mined
    transaction.
    """

    def __init__(
        self, history: ChainHistory, reader: BookTables, chain_id: int, wallet: str
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
        return self._nonces

    def open(self, blocks: BlockRange) -> None:
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
        start, end = self._next, min(self._next + _NONCES_READ, self._nonces.stop)
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
    if entry.row is not None and entry.row.tx_hash is not None:
        yield entry.row.tx_hash
    if entry.unrecorded is not None:
        yield entry.unrecorded.tx_hash


_PAGE = 500

_MOST_SEARCHES = 100
"""How many unknown transactions of one wallet are searched for in old states."""

_MOST_WITH_MEMO = 1000
"""How many payments are compared with the memos of all refunds."""


class Comparison:
    """
    One comparison of a network's ledger and chain over *period*; it changes nothing.

    *addresses* are those of the wallets, besides those that the ledger has opened.
    *openings* are balances that an earlier report has, for nodes without old states.
    """

    def __init__(
        self,
        name: str,
        network: Network,
        history: ChainHistory,
        reader: BookTables,
        period: Period,
        *,
        addresses: Sequence[str],
        openings: Openings | None = None,
    ) -> None:
        """Find the blocks of *period*, and the nonces that the wallets used in them."""
        chain_id = network.chain_id
        self._network = name
        self._chain_id = chain_id
        self._history = history
        self._reader = reader
        self._counts = Counter[str]()
        self._unfound = Counter[str]()  # Nonces by wallet whose transactions are not.
        self._blocks = blocks = find_blocks(history, period, network)
        self._assets = Assets(network, reader.refunded_tokens(chain_id))
        self._accounts = Accounts(history, blocks, self._assets, openings)
        self._opened = {
            each.sender: each for each in reader.wallets() if each.chain_id == chain_id
        }
        self._walks = {
            wallet: NonceWalk(history, reader, chain_id, wallet)
            for wallet in sorted({*addresses, *self._opened})
        }
        of_network = [] if network.vault is None else [network.vault]
        self._vaults = {*reader.vaults(chain_id), *of_network}
        self._matcher = Matcher(
            name,
            self._assets,
            self._vaults,
            is_late=lambda number: number < blocks.late_before,
            is_authentic=self._is_authentic,
        )
        self._authentic: tuple[object, bool] = None, False
        self._with_memo: list[UsedNonce] = []
        for walk in self._walks.values():
            walk.open(blocks)

    def run(self) -> Iterator[Event]:
        """
        Yield each difference, each used nonce and the progress, and then the result.

        Raises:
            ChainUnavailableError: Too few nodes answer, they contradict each other, or
                the chain was reorganised meanwhile.
        """
        first, last = self._blocks.numbers
        for start, end in windows(first, last):
            yield from self._read_window(start, end)
            yield Progress(end - first + 1, self._blocks.count)
        yield from self._finish()
        accounts, counts = self._accounts, self._counts
        gaps = accounts.fill([*self._walks, *sorted(self._vaults)])
        accounts.settle_coin(self._unfound)
        yield from accounts.differences(self._network)
        if header_at(self._history, last) != self._blocks.last:
            raise ChainUnavailableError(REORGANISED)
        yield NetworkBooks(
            network=self._network,
            chain_id=self._chain_id,
            blocks=self._blocks,
            assets=self._assets,
            accounts=[each for each in accounts if not each.is_empty],
            refunds=counts["refund"],
            sweeps=counts["sweep"],
            others=counts.total() - counts["refund"] - counts["sweep"],
            notes=[*self._describe_gaps(gaps)],
        )

    def _read_window(self, start: int, end: int) -> Iterator[Event]:
        """Yield the used nonces of the next blocks, and their differences."""
        own = [*self._walks, *sorted(self._vaults)]
        transfers = self._history.transfers(self._assets.tokens, own, start, end)
        outgoing: dict[tuple[str, str], list[TokenTransfer]] = {}
        for each in transfers:
            if each.recipient in own:
                to, hash_ = each.recipient, each.tx_hash
                asset, amount = self._assets.account_of(each.token, each.amount)
                yield self._book(
                    Movement("received", to, asset, amount, hash_, each.sender)
                )
            if each.sender in own and not self._assets.is_fee(each):
                outgoing.setdefault((each.sender, each.tx_hash), []).append(each)
        for wallet, walk in self._walks.items():
            for entry, settled in walk.until(end):
                moved = self._take_moved(outgoing, wallet, settled.tx_hash)
                yield from self._add(_use(wallet, entry, settled, moved))
        yield from self._read_unexplained(outgoing)

    def _take_moved(
        self,
        outgoing: dict[tuple[str, str], list[TokenTransfer]],
        wallet: str,
        tx_hash: str,
    ) -> Sequence[TokenTransfer]:
        """Remove and return what left *wallet* and the vaults in its transaction."""
        payers = wallet, *sorted(self._vaults)
        moved = [outgoing.pop((payer, tx_hash), []) for payer in payers]
        return [each for some in moved for each in some]

    def _finish(self) -> Iterator[Event]:
        """Yield what can be compared only after the last window."""
        yield from self._read_unknown()
        yield from self._explain_memos()
        yield from self._compare_claims()
        yield from self._name_left_out()
        for wallet, opened in self._opened.items():
            if not opened.is_authentic:
                yield Difference(
                    Code.ROW_CHANGED,
                    self._network,
                    wallet,
                    "another program changed the wallet's row (`wallets`)",
                )

    def _name_left_out(self) -> Iterator[Difference]:
        """Yield one difference for each sender that is no wallet of the comparison."""
        numbers = self._blocks.numbers
        senders = self._reader.senders_in_blocks(self._chain_id, numbers)
        for sender, count in senders.items():
            if sender not in self._walks:
                yield Difference(
                    Code.UNKNOWN_SENDER,
                    self._network,
                    sender,
                    "neither the key ring nor the audit log has the sender, so its"
                    " refunds were not compared",
                    found=f"{count} refunds",
                )

    def _describe_gaps(self, unread: Sequence[str]) -> Iterator[str]:
        if unread:
            yield (
                "balances of these assets were not compared, because no quorum of nodes"
                " has the state of the range's first or last block:"
                f" {', '.join(unread)}. Use an archive node, or --previous with the"
                " report of the period before"
            )
        if missing := self._unfound.total():
            yield (
                f"{missing} transactions of unknown nonces were not found, so the coin"
                " that wallets received is not known"
            )
        if earlier := self._counts["earlier"]:
            yield (
                f"{earlier} transactions were sent before this service had the wallet,"
                " and were not compared"
            )

    def _is_authentic(self, row: Refund | Transaction) -> bool:
        if row is not self._authentic[0]:  # The items of a batch have the same one.
            try:
                self._reader.require_authentic(row)
            except RowNotAuthenticError:
                self._authentic = row, False
            else:
                self._authentic = row, True
        return self._authentic[1]

    def _read_unexplained(
        self, outgoing: dict[tuple[str, str], list[TokenTransfer]]
    ) -> Iterator[Event]:
        """Compare transfers by transactions that the ledger does not know."""
        found = self._history.settled(sorted({tx_hash for _, tx_hash in outgoing}))
        while outgoing:
            wallet, tx_hash = next(iter(outgoing))
            settled = found.get(tx_hash)
            if settled is None:
                raise ChainUnavailableError(
                    "the nodes have a transfer whose transaction they do not agree on"
                )
            entry = NonceEntry(NO_NONCE)
            is_payer = settled.sender == wallet or wallet in self._vaults
            if is_payer and settled.sender in self._walks:
                wallet = settled.sender
                entry = _take(self._walks[wallet].unknown, settled.nonce)
                moved = self._take_moved(outgoing, wallet, tx_hash)
            else:
                moved = outgoing.pop((wallet, tx_hash))
            yield from self._add(_use(wallet, entry, settled, moved))

    def _read_unknown(self) -> Iterator[Event]:
        """Compare used nonces whose transactions moved no token."""
        for wallet, walk in self._walks.items():
            for position, entry in enumerate(walk.unknown):
                settled = None
                if position < _MOST_SEARCHES:
                    settled = self._search(wallet, entry.nonce)
                if settled is None:
                    self._unfound[wallet] += 1
                yield from self._add(_use(wallet, entry, settled, ()))

    def _search(self, wallet: str, nonce: int) -> Settled | None:
        mined = self._history.find_transaction(wallet, nonce)
        if mined is None:
            return None
        return self._history.settled([mined.tx_hash]).get(mined.tx_hash)

    def _add(self, used: UsedNonce) -> Iterator[Event]:
        """Add *used* to the accounts; yield it with its differences."""
        opened = self._opened.get(used.wallet)
        if opened is not None and NO_NONCE < used.entry.nonce < opened.first_nonce:
            used = replace(used, precedes_ledger=True)
        for each in split_batch(used, self._vaults):
            yield from self._add_one(each)

    def _book(self, movement: Movement) -> Movement:
        self._accounts.book(movement)
        return movement

    def _add_one(self, used: UsedNonce) -> Iterator[Event]:
        yield from map(self._book, read_movements(used, self._assets))
        self._counts[used.kind] += 1
        yield used
        yield from self._matcher.compare(used)
        if used.memo is None or not used.payments or used.precedes_ledger:
            return
        if len(self._with_memo) < _MOST_WITH_MEMO:
            self._with_memo.append(used)
        else:
            yield from self._matcher.explain_memo(used, None)

    def _explain_memos(self) -> Iterator[Difference]:
        """Compare payments with the refunds whose memos they have."""
        waiting = defaultdict[bytes, list[UsedNonce]](list)
        for used in self._with_memo:
            waiting[used.memo or b""].append(used)
        after = ""
        while waiting:
            page = self._reader.refunds_of_chain(
                self._chain_id, after=after, limit=_PAGE
            )
            for refund in page:
                for used in waiting.pop(refund.memo, ()):
                    yield from self._matcher.explain_memo(used, refund)
            if len(page) < _PAGE:
                break
            after = page[-1].id
        for each in waiting.values():
            for used in each:
                yield from self._matcher.explain_memo(used, None)

    def _compare_claims(self) -> Iterator[Difference]:
        """Find rows with a block of the range whose nonce the range did not use."""
        for wallet, walk in self._walks.items():
            after, is_full = NO_NONCE, True
            while is_full:
                page = self._reader.entries_in_blocks(
                    self._chain_id,
                    wallet,
                    self._blocks.numbers,
                    after=after,
                    limit=_PAGE,
                )
                is_full = len(page) == _PAGE
                for entry in page:
                    after = entry.nonce
                    if after not in walk.nonces:
                        yield from self._matcher.compare_claim(wallet, entry)


def _use(
    wallet: str,
    entry: NonceEntry,
    settled: Settled | None,
    moved: Sequence[TokenTransfer],
) -> UsedNonce:
    if settled is None:
        return UsedNonce(wallet, entry, None)
    if any(each.block != settled.block for each in moved):
        raise ChainUnavailableError(REORGANISED)
    # The coin of another account's transaction is not the wallet's.
    coin = settled if settled.sender == wallet else None
    return UsedNonce(wallet, entry, settled, read_payments(wallet, coin, moved))


def _take(unknown: list[NonceEntry], nonce: int) -> NonceEntry:
    """Remove and return the entry of *nonce*."""
    for position, entry in enumerate(unknown):
        if entry.nonce == nonce:
            return unknown.pop(position)
    raise ChainUnavailableError("the nodes contradict each other about a nonce")
