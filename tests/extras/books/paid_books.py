"""A chain and a ledger on paper, in memory, for the rules of the books."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from api.extras.books.accounts import Openings
from api.extras.books.comparison import Comparison, Event, NetworkBooks
from api.extras.books.entries import Period
from api.extras.books.rows import BookToken, NonceEntry, TransactionCost
from api.extras.books.tables import BookTables
from signer.chain.erc20 import encode_transfer
from signer.config.networks import Network
from signer.errors import ChainUnavailableError, RowNotAuthenticError
from signer.model.refund import (
    COIN,
    COIN_ADDRESS,
    OPERATOR,
    PaymentPurpose,
    PaymentState,
    Refund,
    Status,
)
from signer.model.transaction import (
    Kind,
    Transaction,
    TransactionKind,
    TransactionStatus,
    compose,
)
from signer.model.wallet import UnrecordedTransaction, Wallet
from signer.ports.chain import Block, MinedTransaction
from signer.ports.chain_history import Header, Settled, TokenTransfer
from tests.fixtures.ledger import as_if


CHAIN_ID = 31337
START = datetime(2026, 1, 2, tzinfo=UTC)
BLOCK_SECONDS = 12

TOKEN, OTHER_TOKEN = ("0x" + digit * 40 for digit in "56")
WALLET, SECOND = ("0x" + digit * 40 for digit in "12")
SWEEP = {
    "tenant": OPERATOR,
    "purpose": PaymentPurpose.SWEEP,
    "bound_sender": WALLET,
}
CUSTOMER, STRANGER = ("0x" + digit * 40 for digit in "34")

FEE = 50_000 * 10**9
MOST_FEE = 65_000 * 2 * 10**9


def _hash(number: int) -> str:
    return f"0x{number:064x}"


class PaperChain:
    """
    A ``ChainHistory`` whose blocks are written by the test, one each 12 seconds.

    ``pruned`` is the height below which no state is known.
    """

    def __init__(self) -> None:
        self.head = 1
        self.fork = 0
        self.pruned = -1
        self.settled_by_hash: dict[str, Settled] = {}
        self.moves: list[TokenTransfer] = []
        self.windows: list[tuple[int, int]] = []
        self.counts: defaultdict[str, list[int]] = defaultdict(list)
        self._changes: defaultdict[tuple[str, str], list[tuple[int, int]]]
        self._changes = defaultdict(list)
        self._hashes = count(1)

    def mine(self, blocks: int = 1) -> None:
        """Add empty blocks: the next transaction is in the last of them."""
        self.head += blocks

    def block(self, number: int) -> Block:
        """Return the block at *number*."""
        return Block(number, f"0x{self.fork:02x}{number:062x}")

    def change(self, owner: str, asset: str, amount: int) -> None:
        """Change a balance by *amount* without an event."""
        self._changes[owner, asset].append((self.head, amount))

    def transfer(
        self, sender: str, recipient: str, amount: int, tx_hash: str, token: str = TOKEN
    ) -> None:
        """Write a ``Transfer`` into the last block, and change the balances."""
        index = len(self.moves)
        self.moves.append(
            TokenTransfer(
                token,
                sender,
                recipient,
                amount,
                tx_hash,
                self.block(self.head),
                index,
            )
        )
        self.change(sender, token, -amount)
        self.change(recipient, token, amount)

    def top_up(self, owner: str, asset: str, amount: int) -> None:
        """Send *amount* of a token or of coin from a stranger."""
        if asset == COIN_ADDRESS:
            self.change(owner, asset, amount)
        else:
            self.transfer(STRANGER, owner, amount, _hash(next(self._hashes)), asset)

    def send(
        self,
        sender: str,
        *,
        to: str = TOKEN,
        value: int = 0,
        data: bytes = b"",
        succeeded: bool = True,
        fee: int = FEE,
    ) -> Settled:
        """Mine a transaction of *sender* with its next nonce; no event is written."""
        nonce = len(self.counts[sender])
        self.counts[sender].append(self.head)
        settled = Settled(
            tx_hash=_hash(next(self._hashes)),
            sender=sender,
            nonce=nonce,
            to=to,
            value=value,
            data=data,
            block=self.block(self.head),
            succeeded=succeeded,
            execution_fee=fee,
            fee=fee,
        )
        self.settled_by_hash[settled.tx_hash] = settled
        self.change(sender, COIN_ADDRESS, -fee)
        if succeeded and value and to != sender:
            self.change(sender, COIN_ADDRESS, -value)
            self.change(to, COIN_ADDRESS, value)
        return settled

    def pay(
        self, sender: str, recipient: str, amount: int, mark: bytes = b""
    ) -> Settled:
        """Mine a transfer of the token, with its event."""
        settled = self.send(sender, data=encode_transfer(recipient, amount, mark))
        self.transfer(sender, recipient, amount, settled.tx_hash)
        return settled

    def latest_block(self) -> Block:
        return self.block(self.head)

    def headers(self, numbers: Sequence[int]) -> Sequence[Header]:
        return [
            Header(
                self.block(number),
                int(START.timestamp()) + number * BLOCK_SECONDS,
            )
            for number in numbers
        ]

    def transfers(
        self, tokens: Collection[str], wallets: Collection[str], first: int, last: int
    ) -> Sequence[TokenTransfer]:
        self.windows.append((first, last))
        start = bisect_right(self.moves, first - 1, key=lambda each: each.block.number)
        end = bisect_right(self.moves, last, key=lambda each: each.block.number)
        return [
            each
            for each in self.moves[start:end]
            if each.token in tokens and {each.sender, each.recipient} & {*wallets}
        ]

    def settled(self, tx_hashes: Sequence[str]) -> Mapping[str, Settled]:
        known = self.settled_by_hash
        return {each: known[each] for each in tx_hashes if each in known}

    def transaction_count(self, address: str, block: int | None = None) -> int:
        if block is None:
            return len(self.counts[address])
        self._require_state(block)
        return bisect_right(self.counts[address], block)

    def find_transaction(self, sender: str, nonce: int) -> MinedTransaction | None:
        for each in self.settled_by_hash.values():
            if (each.sender, each.nonce) == (sender, nonce):
                if each.block.number < self.pruned:
                    return None
                return MinedTransaction(
                    each.tx_hash,
                    sender,
                    nonce,
                    each.to,
                    each.value,
                    each.data,
                    1,
                    each.block,
                )
        return None

    def coin_balance(self, address: str, block: int) -> int:
        return self.token_balance(COIN_ADDRESS, address, block)

    def token_balance(self, token: str, address: str, block: int) -> int:
        self._require_state(block)
        return sum(
            amount for at, amount in self._changes[address, token] if at <= block
        )

    def _require_state(self, block: int) -> None:
        if block < self.pruned:
            raise ChainUnavailableError("the state is pruned")


@dataclass
class PaperLedger(BookTables):
    """The tables of the books, over rows that the test writes."""

    entries: defaultdict[str, dict[int, NonceEntry]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    others: list[Refund] = field(default_factory=list)
    opened: dict[str, Wallet] = field(default_factory=dict)
    forged: set[str] = field(default_factory=set)

    def wallets(self) -> Sequence[Wallet]:
        return list(self.opened.values())

    def wallet(self, chain_id: int, sender: str) -> Wallet | None:
        return self.opened.get(sender)

    def require_authentic(self, moving: Refund | Transaction) -> None:
        if moving.id in self.forged:
            raise RowNotAuthenticError("changed")

    def refunded_tokens(self, chain_id: int) -> Sequence[BookToken]:
        return [BookToken(COIN_ADDRESS, COIN, 18)]

    def nonce_entries(
        self, chain_id: int, sender: str, first: int, limit: int
    ) -> Sequence[NonceEntry]:
        rows = self.entries[sender]
        return [rows[n] for n in range(first, first + limit) if n in rows]

    def entries_in_blocks(
        self,
        chain_id: int,
        sender: str,
        blocks: tuple[int, int],
        *,
        after: int,
        limit: int,
    ) -> Sequence[NonceEntry]:
        found = [
            each
            for nonce, each in sorted(self.entries[sender].items())
            if nonce > after
            and each.row is not None
            and blocks[0] <= (each.row.block_number or 0) <= blocks[1]
        ]
        return found[:limit]

    def senders_in_blocks(
        self, chain_id: int, blocks: tuple[int, int]
    ) -> Mapping[str, int]:
        found = {
            sender: len(
                self.entries_in_blocks(chain_id, sender, blocks, after=-1, limit=999)
            )
            for sender in self.entries
        }
        return {sender: count for sender, count in found.items() if count}

    def refunds_of_chain(
        self, chain_id: int, *, after: str, limit: int
    ) -> Sequence[Refund]:
        rows = (each for page in self.entries.values() for each in page.values())
        found = [each.refund for each in rows if each.refund is not None]
        ordered = sorted([*found, *self.others], key=lambda each: each.id)
        return [each for each in ordered if each.id > after][:limit]


NETWORK = Network.model_validate(
    {
        "chain_id": CHAIN_ID,
        "rpc_urls": ["http://127.0.0.1:9"],
        "confirmations": 3,
        "tokens": {
            "TUSD": {"address": TOKEN, "decimals": 6, "max_amount": "1000"},
            "OUSD": {"address": OTHER_TOKEN, "decimals": 6, "max_amount": "1000"},
        },
    }
)


class Books:
    """A shop on paper: it pays refunds on a ``PaperChain`` and writes its ledger."""

    def __init__(self) -> None:
        self.chain = PaperChain()
        self.ledger = PaperLedger()
        self.ledger.opened[WALLET] = Wallet(CHAIN_ID, WALLET, 0, 0)
        self._numbers = count()

    def refund(self, **changes: Any) -> Refund:
        """Return a queued refund, with *changes*."""
        number = next(self._numbers)
        given: dict[str, Any] = {
            "id": f"rf_{number:032x}",
            "tenant": "gateway",
            "idempotency_key": f"key-{number}",
            "fingerprint": "00",
            "reference": f"reference-{number}",
            "payment_session_id": "session",
            "network": "local",
            "chain_id": CHAIN_ID,
            "token": "TUSD",
            "token_address": TOKEN,
            "decimals": 6,
            "recipient": CUSTOMER,
            "amount": 1_000_000 + number,
            "reason": None,
            "state": PaymentState.QUEUED,
            "created_at": START,
            "updated_at": START,
        }
        return as_if(Refund(**given), **changes)

    def write(
        self,
        refund: Refund,
        settled: Settled,
        *,
        kind: Kind = Kind.TRANSFER,
        status: Status = Status.CONFIRMED,
        replaced: int = 0,
    ) -> NonceEntry:
        """Write the row of *refund*, settled by *settled*, and its attempts."""
        attempts = [
            TransactionCost(f"0xdead{number:060x}", Kind.TRANSFER, MOST_FEE)
            for number in range(replaced)
        ]
        return self.put(
            settled.sender,
            NonceEntry(
                settled.nonce,
                as_if(
                    refund,
                    status=status,
                    sender=settled.sender,
                    key_id="01",
                    nonce=settled.nonce,
                    gas_limit=65_000,
                    tx_hash=settled.tx_hash,
                    block_number=settled.block.number,
                    block_hash=settled.block.hash,
                ),
                (*attempts, TransactionCost(settled.tx_hash, kind, MOST_FEE)),
            ),
        )

    def put(self, wallet: str, entry: NonceEntry) -> NonceEntry:
        """Write *entry*."""
        self.ledger.entries[wallet][entry.nonce] = entry
        return entry

    def change(self, entry: NonceEntry, **changes: Any) -> None:
        """Change the refund of *entry*, which WALLET has."""
        assert entry.refund is not None
        refund = as_if(entry.refund, **changes)
        self.put(WALLET, replace(entry, refund=refund))

    def paid(self, wallet: str = WALLET, **changes: Any) -> NonceEntry:
        """Pay a refund honestly, in a new block."""
        refund = self.refund(**changes)
        self.chain.mine()
        settled = self.chain.pay(wallet, refund.recipient, refund.amount, refund.mark)
        return self.write(refund, settled)

    def reverted(self) -> NonceEntry:
        """Let a refund's transaction fail on the chain."""
        refund = self.refund()
        self.chain.mine()
        data = encode_transfer(refund.recipient, refund.amount, refund.mark)
        settled = self.chain.send(WALLET, data=data, succeeded=False)
        return self.write(refund, settled, status=Status.FAILED)

    def cancelled(self, **changes: Any) -> NonceEntry:
        """Use a refund's nonce for a cancellation, after a transfer was replaced."""
        refund = self.refund(**changes)
        self.chain.mine()
        settled = self.chain.send(WALLET, to=WALLET)
        return self.write(
            refund, settled, kind=Kind.NOOP, status=Status.FAILED, replaced=1
        )

    def filler(self) -> NonceEntry:
        """Use a nonce that a restored ledger did not know."""
        entry = self.cancelled()
        assert entry.refund is not None
        filler = replace(
            entry.refund.reserved(),
            kind=TransactionKind.FILLER,
            composition=compose(()),
            status=TransactionStatus.CONFIRMED,
            payments=(),
        )
        return self.put(WALLET, replace(entry, refund=None, filler=filler))

    def swept(self, amount: int = 5) -> NonceEntry:
        """Sweep tokens to the second wallet."""
        refund = self.refund(**SWEEP, recipient=SECOND, amount=amount)
        self.chain.mine()
        settled = self.chain.pay(WALLET, SECOND, amount, refund.mark)
        return self.write(refund, settled)

    def swept_coin(self, amount: int = 7) -> NonceEntry:
        """Sweep coin to the second wallet."""
        refund = self.refund(
            **SWEEP,
            recipient=SECOND,
            amount=amount,
            token=COIN,
            token_address=COIN_ADDRESS,
            decimals=18,
        )
        self.chain.mine()
        settled = self.chain.send(WALLET, to=SECOND, value=amount)
        return self.write(refund, settled)

    def called(self, value: int = 11, *, moved: int = 0) -> NonceEntry:
        """Make a call with *value* in wei, whose contract moves tokens elsewhere."""
        refund = self.refund(
            recipient=STRANGER,
            amount=value,
            token=COIN,
            token_address=COIN_ADDRESS,
            decimals=18,
            calldata=b"call",
            purpose=PaymentPurpose.CALL,
        )
        self.chain.mine()
        settled = self.chain.send(WALLET, to=STRANGER, value=value, data=b"call")
        if moved:
            self.chain.transfer(WALLET, CUSTOMER, moved, settled.tx_hash)
        return self.write(refund, settled)

    def foreign(self, *, accepted: bool = True) -> NonceEntry:
        """Send tokens with the key elsewhere, and let the ledger record it."""
        self.chain.mine()
        settled = self.chain.pay(WALLET, STRANGER, 3)
        return self.record(settled, accepted=accepted)

    def record(
        self, settled: Settled, *, accepted: bool, mark: bytes | None = None
    ) -> NonceEntry:
        """Record a transaction that the ledger did not know."""
        seen = UnrecordedTransaction(
            chain_id=CHAIN_ID,
            sender=settled.sender,
            nonce=settled.nonce,
            tx_hash=settled.tx_hash,
            mark=mark,
            gas_limit=1,
            block_number=settled.block.number,
            block_hash=settled.block.hash,
            seen_at=START,
            accepted_at=START if accepted else None,
        )
        return self.put(settled.sender, NonceEntry(settled.nonce, unrecorded=seen))

    def top_up(self, asset: str = TOKEN, amount: int = 10**9) -> None:
        """Receive *amount* from a stranger."""
        self.chain.mine()
        self.chain.top_up(WALLET, asset, amount)

    def events(
        self,
        first: int = 1,
        last: int | None = None,
        *,
        openings: Openings | None = None,
        confirm: bool = True,
    ) -> Iterator[Event]:
        """Yield what the comparison of the blocks from *first* to *last* yields."""
        if last is None:
            last = self.chain.head
        if confirm:
            self.chain.mine(NETWORK.confirmations)
        seconds = [first * BLOCK_SECONDS, (last + 1) * BLOCK_SECONDS]
        start, end = (START + timedelta(seconds=each) for each in seconds)
        return Comparison(
            "local",
            NETWORK,
            self.chain,
            self.ledger,
            Period(start, end),
            addresses=(WALLET, SECOND),
            openings=openings,
        ).run()

    def codes(self, first: int = 1, last: int | None = None) -> list[str]:
        """Return the code of each difference."""
        found = self.events(first, last)
        return [str(each.code) for each in found if hasattr(each, "code")]

    def result(self, first: int = 1, last: int | None = None) -> NetworkBooks:
        """Return the result."""
        *_, result = self.events(first, last)
        assert isinstance(result, NetworkBooks)
        return result
