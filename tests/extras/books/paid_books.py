"""A chain on paper and the rows that pay on it, in a real ledger."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from operator import attrgetter
from typing import Any

from eth_abi.abi import encode
from sqlalchemy import Connection, Table, delete, insert

from api.extras.books.accounts import Openings
from api.extras.books.comparison import Comparison, Event, NetworkBooks
from api.extras.books.entries import Difference, Period
from api.extras.books.tables import BookTables, NonceEntry, TransactionCost
from backends.sql import SQLStore
from backends.sql.tables import (
    attempts,
    refunds,
    transaction_payments,
    transactions,
    unrecorded,
    wallets,
)
from signer.chain.erc20 import TRANSFER_EVENT, encode_transfer
from signer.chain.vault import PAID_EVENT, SKIPPED_EVENT, Item, Reason, encode_pay
from signer.config.networks import Network
from signer.errors import ChainUnavailableError
from signer.model.payment import PaymentPurpose, PaymentState
from signer.model.refund import COIN, COIN_ADDRESS, OPERATOR, Refund, Status
from signer.model.transaction import (
    Kind,
    Membership,
    SignedTransaction,
    Transaction,
    TransactionKind,
    TransactionStatus,
    compose,
)
from signer.model.wallet import UnrecordedTransaction, Wallet
from signer.ports.chain import (
    Block,
    FinalityTag,
    Header,
    Log,
    MinedTransaction,
    Settled,
    TokenTransfer,
)
from tests.fixtures.ledger import as_if
from tests.support.ledgers import ROW_MACS


CHAIN_ID = 31337
START = datetime(2026, 1, 2, tzinfo=UTC)
BLOCK_SECONDS = 12

TOKEN, OTHER_TOKEN = ("0x" + digit * 40 for digit in "56")
WALLET, SECOND = ("0x" + digit * 40 for digit in "12")
VAULT, GUARDIAN = ("0x" + digit * 40 for digit in "78")
SWEEP = {"tenant": OPERATOR, "purpose": PaymentPurpose.SWEEP, "bound_sender": WALLET}
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
                token, sender, recipient, amount, tx_hash, self.block(self.head), index
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
        self, sender: str, recipient: str, amount: int, memo: bytes = b""
    ) -> Settled:
        """Mine a transfer of the token, with its event."""
        settled = self.send(sender, data=encode_transfer(recipient, amount, memo))
        self.transfer(sender, recipient, amount, settled.tx_hash)
        return settled

    def pay_out(
        self,
        sender: str,
        items: Sequence[Item],
        ends: Sequence[Reason | None],
        *,
        moved: Sequence[bool] = (),
    ) -> Settled:
        """
        Mine a batch of the vault; items end as *ends* says.

        *moved* says which of them move tokens, if that is not what the vault says.
        """
        settled = self.send(sender, to=VAULT, data=encode_pay(TOKEN, items))
        logs: list[Log] = []
        for index, (item, end) in enumerate(zip(items, ends, strict=True)):
            if moved[index] if moved else end is None:
                self.transfer(VAULT, item.recipient, item.amount, settled.tx_hash)
                words = [encode(["address"], [e]) for e in (VAULT, item.recipient)]
                amount = encode(["uint256"], [item.amount])
                logs.append(Log(TOKEN, (TRANSFER_EVENT, *words), amount))
            topic = item.mark.ljust(32, b"\0")
            logs.append(
                Log(VAULT, (PAID_EVENT, topic), b"")
                if end is None
                else Log(
                    VAULT,
                    (SKIPPED_EVENT, topic),
                    encode(["uint256", "uint8"], [index, end]),
                )
            )
        settled = replace(settled, logs=tuple(logs))
        self.settled_by_hash[settled.tx_hash] = settled
        return settled

    def latest_block(self) -> Block:
        return self.block(self.head)

    def final_block(self, tag: FinalityTag) -> Block:
        return self.block(self.head - 2)

    def headers(self, numbers: Sequence[int]) -> Sequence[Header]:
        return [
            Header(self.block(number), int(START.timestamp()) + number * BLOCK_SECONDS)
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

    def events(
        self, contract: str, topic: bytes, first: int, last: int
    ) -> Sequence[Log]:
        """There are none besides transfers."""
        return ()

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


NETWORK = Network.model_validate(
    {
        "chain_id": CHAIN_ID,
        "rpc_urls": ["http://127.0.0.1:9"],
        "confirmations": 3,
        "vault": VAULT,
        "tokens": {
            "TUSD": {"address": TOKEN, "decimals": 6, "max_amount": "1000"},
            "OUSD": {"address": OTHER_TOKEN, "decimals": 6, "max_amount": "1000"},
        },
    }
)


def _fields(table: Table, row: object) -> dict[str, Any]:
    names = table.c.keys()
    return dict(zip(names, attrgetter(*names)(row), strict=True))


def _row(table: Table, row: Any, *, is_forged: bool) -> dict[str, Any]:
    mac = "forged" if is_forged else ROW_MACS.compute(row)
    return _fields(table, replace(row, mac=mac))


def _transaction(refund: Refund) -> Transaction:
    return replace(refund.reserved(), composition=compose([refund.id]))


def _membership(refund: Refund) -> Membership:
    assert refund.sender is not None
    assert refund.nonce is not None
    return Membership(refund.id, CHAIN_ID, refund.sender, refund.nonce, 0)


def _memberships(batches: Sequence[Transaction]) -> Iterator[Membership]:
    for batch in batches:
        for position, id_ in enumerate(batch.members):
            yield Membership(id_, CHAIN_ID, batch.sender, batch.nonce, position)


def _signed(sender: str, entry: NonceEntry) -> Iterator[SignedTransaction]:
    for number, each in enumerate(reversed(entry.attempts)):
        yield SignedTransaction(
            tx_hash=each.tx_hash,
            attempt=number,
            kind=each.kind,
            chain_id=CHAIN_ID,
            sender=sender,
            nonce=entry.nonce,
            max_fee_per_gas=each.most_fee,
            max_priority_fee_per_gas=0,
            gas_limit=1,
            raw=b"signed",
            signed_at=START,
        )


_STATES: dict[Reason | None, str] = {
    None: "confirmed",
    Reason.NOT_WITHIN_ITEM_CAP: "queued",
    Reason.ABOVE_DAY_CAP: "queued",
    **dict.fromkeys((Reason.NO_CODE, Reason.REVERTED, Reason.NOT_TRUE), "failed"),
}


def refund_of(entry: NonceEntry) -> Refund:
    """Return the refund that *entry* has."""
    assert entry.refund is not None
    return entry.refund


class Books:
    """
    A shop: it pays refunds on a ``PaperChain``, and its rows are those of *store*.

    A test changes ``wallets``, ``entries`` by sender and nonce, and ``others``, the
    refunds without a nonce.  Before each comparison they replace the rows of the store,
    each with its MAC, except those whose ids are ``forged``.
    """

    def __init__(self, store: SQLStore) -> None:
        self.chain = PaperChain()
        self.wallets = {WALLET: Wallet(CHAIN_ID, WALLET, 0, 0)}
        self.entries: defaultdict[str, dict[int, NonceEntry]] = defaultdict(dict)
        self.others: list[Refund] = []
        self.forged: set[str] = set()
        self.store = store
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
            TransactionCost(
                f"0xdead{settled.nonce:030x}{number:030x}", Kind.TRANSFER, MOST_FEE
            )
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
        self.entries[wallet][entry.nonce] = entry
        return entry

    def change(self, entry: NonceEntry, **changes: Any) -> None:
        """Change the refund of *entry*, which WALLET has."""
        refund = as_if(refund_of(entry), **changes)
        self.put(WALLET, replace(entry, refund=refund))

    def paid(self, wallet: str = WALLET, **changes: Any) -> NonceEntry:
        """Pay a refund honestly, in a new block."""
        refund = self.refund(**changes)
        self.chain.mine()
        settled = self.chain.pay(wallet, refund.recipient, refund.amount, refund.memo)
        return self.write(refund, settled)

    def batch(self, *ends: Reason | None, moved: Sequence[bool] = ()) -> list[Refund]:
        """Pay a batch with these *ends* of its items, and return its refunds."""
        refunds = [self.refund() for _ in ends]
        self.chain.mine()
        items = [Item(each.recipient, each.amount, each.memo) for each in refunds]
        settled = self.chain.pay_out(WALLET, items, ends, moved=moved)
        return self.write_batch(refunds, settled, [_STATES[end] for end in ends])

    def write_batch(
        self, refunds: Sequence[Refund], settled: Settled, states: Sequence[str]
    ) -> list[Refund]:
        """Write the rows of a batch, settled by *settled*, with the *states* of all."""
        drafted = Transaction.draft(
            refunds,
            START,
            sender=WALLET,
            nonce=settled.nonce,
            key_id="01",
            gas_limit=500_000,
            vault=VAULT,
        )
        row = replace(
            drafted,
            status=TransactionStatus.CONFIRMED,
            tx_hash=settled.tx_hash,
            block_number=settled.block.number,
            block_hash=settled.block.hash,
            members=tuple(each.id for each in refunds),
        )
        ended = [
            replace(refund, state=PaymentState(state))
            for refund, state in zip(refunds, states, strict=True)
        ]
        payments = [
            each.inside(row, position)
            for position, each in enumerate(ended)
            if each.state is not PaymentState.QUEUED
        ]
        self.others += [each for each in ended if each.state is PaymentState.QUEUED]
        cost = TransactionCost(settled.tx_hash, Kind.TRANSFER, MOST_FEE)
        batch = replace(row, payments=tuple(payments))
        self.put(WALLET, NonceEntry(settled.nonce, attempts=(cost,), batch=batch))
        return ended

    def reverted(self) -> NonceEntry:
        """Let a refund's transaction fail on the chain."""
        refund = self.refund()
        self.chain.mine()
        data = encode_transfer(refund.recipient, refund.amount, refund.memo)
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

    def filler(self, **changes: Any) -> NonceEntry:
        """Use a nonce that a restored ledger did not know."""
        return self.fill(self.cancelled(), **changes)

    def fill(self, entry: NonceEntry, **changes: Any) -> NonceEntry:
        """Give the nonce of *entry*, and its attempts, to a filler with *changes*."""
        filler = replace(
            refund_of(entry).reserved(),
            kind=TransactionKind.FILLER,
            composition=compose(()),
            status=TransactionStatus.CONFIRMED,
            payments=(),
        )
        filler = replace(filler, **changes)
        return self.put(WALLET, replace(entry, refund=None, filler=filler))

    def swept(self, amount: int = 5) -> NonceEntry:
        """Sweep tokens to the second wallet."""
        refund = self.refund(**SWEEP, recipient=SECOND, amount=amount)
        self.chain.mine()
        settled = self.chain.pay(WALLET, SECOND, amount, refund.memo)
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
        self, settled: Settled, *, accepted: bool, memo: bytes | None = None
    ) -> NonceEntry:
        """Record a transaction that the ledger did not know."""
        seen = UnrecordedTransaction(
            chain_id=CHAIN_ID,
            sender=settled.sender,
            nonce=settled.nonce,
            tx_hash=settled.tx_hash,
            memo=memo,
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

    def tables(self) -> BookTables:
        """Return the tables, with the rows of the shop and no others."""
        rows = self._rows()

        def work(connection: Connection) -> None:
            connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
            for table in reversed(rows):
                connection.execute(delete(table))
            for table, new in rows.items():
                if new:
                    connection.execute(insert(table), new)

        self.store._database.transaction(work)
        return self.store.tables(BookTables)

    def _rows(self) -> dict[Table, list[dict[str, Any]]]:
        """Return the rows by table, in an order that foreign keys permit."""
        entries = [
            (sender, each)
            for sender, own in self.entries.items()
            for each in own.values()
        ]
        paid = [each.refund for _, each in entries if each.refund is not None]
        batches = [each.batch for _, each in entries if each.batch is not None]
        parts = [each for batch in batches for each in batch.payments]
        fillers = [each.filler for _, each in entries if each.filler is not None]
        seen = [each.unrecorded for _, each in entries if each.unrecorded is not None]
        return {
            wallets: [
                _row(wallets, each, is_forged=not each.is_authentic)
                for each in self.wallets.values()
            ],
            refunds: [
                _row(refunds, each, is_forged=each.id in self.forged)
                for each in (*paid, *parts, *self.others)
            ],
            transactions: [
                _row(transactions, each, is_forged=each.id in self.forged)
                for each in (*map(_transaction, paid), *fillers, *batches)
            ],
            transaction_payments: [
                _fields(transaction_payments, each)
                for each in (*map(_membership, paid), *_memberships(batches))
            ],
            attempts: [
                _fields(attempts, each)
                for sender, entry in entries
                for each in _signed(sender, entry)
            ],
            unrecorded: [
                _row(unrecorded, each, is_forged=not each.is_authentic) for each in seen
            ],
        }

    def events(
        self,
        first: int = 1,
        last: int | None = None,
        *,
        openings: Openings | None = None,
    ) -> Iterator[Event]:
        """Yield what the comparison of the blocks from *first* to *last* yields."""
        if last is None:
            last = self.chain.head
        self.chain.mine(NETWORK.confirmations)
        seconds = [first * BLOCK_SECONDS, (last + 1) * BLOCK_SECONDS]
        start, end = (START + timedelta(seconds=each) for each in seconds)
        return Comparison(
            "local",
            NETWORK,
            self.chain,
            self.tables(),
            Period(start, end),
            addresses=(WALLET, SECOND),
            openings=openings,
        ).run()

    def differences(
        self, first: int = 1, last: int | None = None, **given: Any
    ) -> list[Difference]:
        found = self.events(first, last, **given)
        return [each for each in found if isinstance(each, Difference)]

    def codes(self, first: int = 1, last: int | None = None, **given: Any) -> list[str]:
        return [str(each.code) for each in self.differences(first, last, **given)]

    def result(self, first: int = 1, last: int | None = None) -> NetworkBooks:
        *_, result = self.events(first, last)
        assert isinstance(result, NetworkBooks)
        return result
