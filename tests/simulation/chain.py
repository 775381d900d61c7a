"""
A simulated chain with pools, blocks, fees and reorganisations.

Two nodes have a pool each, and share the blocks.  Only the wallets of one key ring send
transactions.  The seed decides everything.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from random import Random

from eth_utils.crypto import keccak

from signer.errors import BroadcastRejectedError
from signer.ports.chain import Block, Log, Receipt
from tests.fixtures.scripted_vault import ScriptedVault
from tests.simulation.balances import (
    INITIAL,
    Account,
    BalanceOf,
    Changes,
    apply,
    can_afford,
    has_tokens,
)
from tests.simulation.transaction import TOKEN, VAULT, Transaction, checksummed


GWEI = 10**9

CONFIRMATIONS = 5
"""The number of blocks that make a receipt final; reorganisations are shallower."""

DEEPEST = 3

KEPT = 4
"""The number of heads that nodes may still report."""

_LOWEST, _HIGHEST = GWEI, 150 * GWEI

# Chances: that a miner skips a transaction, that a node gossips it, and that a pool
# gets it back from a removed block.
_SKIPPED = 0.2
_GOSSIPED = 0.3
_RETURNS = 0.7

# Chances of a transaction when a ledger was restored: that no node has it, and that a
# node has it again later.
_HIDDEN = 0.5
_REVEALED = 0.5


@dataclass(frozen=True, slots=True)
class Mined:
    """A transaction in a block, whether it succeeded, and its events."""

    transaction: Transaction
    succeeded: bool
    logs: tuple[Log, ...] = ()

    @property
    def paid(self) -> tuple[tuple[str, int], ...]:
        """Recipient and amount of each transfer of the token."""
        return tuple(
            (checksummed(log.topics[2][-20:]), int.from_bytes(log.data, "big"))
            for log in self.logs
            if log.address == TOKEN
        )


@dataclass(frozen=True, slots=True)
class MinedBlock:
    """
    A block with its base fee in wei and its transactions.

    ``counts`` has the next nonces after it, ``changes`` the changes of balances.
    """

    block: Block
    base_fee: int
    mined: tuple[Mined, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    changes: Changes = field(default_factory=dict)

    def count(self, sender: str) -> int:
        """Return the next nonce of *sender*."""
        return self.counts.get(sender, 0)


Slot = tuple[str, int]
"""A sender and a nonce, for which a pool has one transaction."""

Pool = dict[Slot, Transaction]


class Head:
    """An immutable chain of blocks."""

    def __init__(self, blocks: tuple[MinedBlock, ...]) -> None:
        self.blocks = blocks

    @property
    def tip(self) -> MinedBlock:
        """The newest block."""
        return self.blocks[-1]

    def receipt(self, tx_hash: str) -> Receipt | None:
        """Return the receipt of a mined transaction."""
        for block in reversed(self.blocks):
            for mined in block.mined:
                if mined.transaction.hash == tx_hash:
                    return Receipt(tx_hash, block.block, mined.succeeded, mined.logs)
        return None


class SimulatedChain:
    """
    The blocks and the pools of two nodes.

    ``sent`` has all that a node ever accepted, by hash, and ``unrecorded`` the hashes
    for which *is_recorded* was false when a node got them.  With ``calm`` the base fee
    only falls.

    With *kept*, a pool keeps so many transactions of a sender, and drops the highest
    nonces: ``dropped`` counts them.  ``most`` is how many of one sender any pool was
    sent, without those that a reorganisation took out of blocks.

    *vault* may be called.  ``begin_day`` ends the day that its cap is for.  ``early``
    has what was sent for a payment before its earlier nonce was final without it.
    """

    def __init__(
        self,
        random: Random,
        is_recorded: Callable[[str], bool],
        kept: int = 0,
        vault: ScriptedVault | None = None,
    ) -> None:
        self._random = random
        self._kept = kept
        self.most = self.dropped = self._removed = 0
        self._is_recorded = is_recorded
        self.unrecorded: list[str] = []
        self._forks = 0
        genesis = MinedBlock(self._block(0), 10 * GWEI)
        self.heads = [Head((genesis,))]
        self.pools: tuple[Pool, Pool] = ({}, {})
        self.sent: dict[str, Transaction] = {}
        self.vault = vault
        self.blocklist: set[str] = set() if vault is None else vault.refused
        self.early: list[str] = []
        self._asked: dict[tuple[str, int], set[Slot]] = {}
        self._day = 0
        self._funding: Counter[Account] = Counter()
        self.calm = False

    def __str__(self) -> str:
        """Return the newest block and the pools, for the trace."""
        tip = self.head.tip
        hashes = [mined.transaction.hash[:8] for mined in tip.mined]
        pools = [[f"{s[:6]} n{n}" for s, n in sorted(pool)] for pool in self.pools]
        counts = [f"{s[:6]} n{count}" for s, count in sorted(tip.counts.items())]
        return (
            f"{tip.block.number} {tip.block.hash[:8]}, {hashes}, next {counts},"
            f" base {tip.base_fee // GWEI} gwei, pools {pools}"
        )

    @property
    def head(self) -> Head:
        """The canonical chain."""
        return self.heads[-1]

    def count(self, sender: str) -> int:
        """Return the next nonce of *sender*."""
        return self.head.tip.count(sender)

    def pending(self, sender: str) -> int:
        """Return the next nonce of *sender* after its transactions in either pool."""
        counts = []
        for pool in self.pools:
            nonce = self.count(sender)
            while (sender, nonce) in pool:
                nonce += 1
            counts.append(nonce)
        return max(counts)

    def balance_of(
        self, asset: str, address: str, block: MinedBlock | None = None
    ) -> int:
        """Return the balance of *asset* at *address*, now or after *block*."""
        at = self.head.tip if block is None else block
        return self._balance_of(at.changes)(asset, address)

    def fund(self, address: str) -> None:
        """Refill the balances of *address*; no reorganisation takes it back."""
        for asset in ("coin", "token"):
            lacks = INITIAL[asset] - self.balance_of(asset, address)
            self._funding[asset, address] += max(0, lacks)

    def may_mine(self, sender: str) -> bool:
        """Whether a transaction of *sender* that was ever sent may still be mined."""
        count = self.count(sender)
        return any(
            tx.sender == sender and tx.nonce >= count for tx in self.sent.values()
        )

    @property
    def foreign(self) -> tuple[Transaction, ...]:
        """The mined transactions that were signed elsewhere with our keys."""
        return tuple(
            mined.transaction
            for block in self.head.blocks
            for mined in block.mined
            if mined.transaction.is_foreign
        )

    def broadcast(self, tx: Transaction) -> None:
        """
        Broadcast *transaction* to a node, which may gossip it.

        Raises:
            BroadcastRejectedError: The node rejects it.
        """
        if not self._is_recorded(tx.hash):
            self.unrecorded.append(tx.hash)
        if tx.nonce < self.count(tx.sender):
            raise BroadcastRejectedError("nonce too low", reason="nonce-too-low")
        if not can_afford(self.balance_of, tx):
            raise BroadcastRejectedError("too poor", reason="insufficient-funds")
        self.early += self._find_early(tx)
        first = self._random.randrange(2)
        if not self._offer(tx, self.pools[first]):
            raise BroadcastRejectedError("underpriced", reason="underpriced")
        self.sent[tx.hash] = tx
        self.most = max(self.most, len(self._waiting(tx.sender)) - self._removed)
        if self._random.random() < _GOSSIPED:
            self._offer(tx, self.pools[1 - first])

    def begin_day(self) -> None:
        """Let what the vault paid until now count against no cap."""
        self._day += 1

    def spent(self, block: MinedBlock) -> int:
        """Return what the vault has paid on this day, after *block*."""
        return block.changes.get(self._today, 0)

    def inject_foreign(self, tx: Transaction) -> None:
        """Put a foreign transaction into both pools, with any fee."""
        for pool in self.pools:
            pool[tx.slot] = tx

    def mine(self) -> None:
        """Add a block with some of the waiting transactions."""
        self._append(self.head.blocks)
        self._gossip()

    def reorganise(self, depth: int) -> None:
        """Replace *depth* blocks by *depth* + 1; some transactions are lost."""
        depth = min(depth, len(self.head.blocks) - 1)
        kept = self.head.blocks[: len(self.head.blocks) - depth]
        gone = self.head.blocks[len(kept) :]
        for block in gone:
            for mined in block.mined:
                self._removed += 1
                for pool in self.pools:
                    if self._random.random() < _RETURNS:
                        pool.setdefault(mined.transaction.slot, mined.transaction)
        self._forks += 1
        self._append(kept)
        for _ in range(depth):
            self._append(self.head.blocks)

    def drop(self) -> None:
        """Empty a node's pool."""
        self._random.choice(self.pools).clear()

    def hide(self, is_known: Callable[[Slot], bool], random: Random) -> None:
        """Let all nodes lose some of the transactions that no ledger knows."""
        slots = sorted({slot for pool in self.pools for slot in pool})
        for slot in slots:
            if not is_known(slot) and random.random() < _HIDDEN:
                for pool in self.pools:
                    pool.pop(slot, None)

    def reveal(self, random: Random) -> None:
        """Let a node have some of the transactions again that were ever sent."""
        for tx in tuple(self.sent.values()):
            # Nodes reject coin that the sender does not have any more.
            is_open = tx.nonce >= self.count(tx.sender) and not tx.value
            if is_open and random.random() < _REVEALED:
                self._offer(tx, random.choice(self.pools))

    def spike_fee(self) -> None:
        """Multiply the base fee by more than a first offer allows for."""
        tip = self.head.tip
        spiked = replace(tip, base_fee=min(tip.base_fee * 5, _HIGHEST))
        self.heads.append(Head((*self.head.blocks[:-1], spiked)))

    def _append(self, blocks: tuple[MinedBlock, ...]) -> None:
        tip = blocks[-1]
        change = self._random.uniform(0.4, 0.9 if self.calm else 1.5)
        base_fee = max(_LOWEST, min(_HIGHEST, int(tip.base_fee * change)))
        changes = Counter(tip.changes)
        mined = tuple(self._chosen(tip, base_fee, changes))
        counts = Counter(tip.counts)
        counts.update(each.transaction.sender for each in mined)
        block = MinedBlock(self._block(len(blocks)), base_fee, mined, counts, changes)
        self.heads.append(Head((*blocks, block)))
        del self.heads[:-KEPT]
        for pool in self.pools:
            for (sender, nonce), tx in list(pool.items()):
                # Nodes drop what the sender cannot pay any more, for example because
                # its address was swept.
                is_unpayable = tx.is_foreign and not can_afford(self.balance_of, tx)
                if nonce < block.count(sender) or is_unpayable:
                    del pool[sender, nonce]

    def _chosen(
        self, tip: MinedBlock, base_fee: int, changes: Counter[Account]
    ) -> Iterator[Mined]:
        balance_of = self._balance_of(changes)
        pool = self._random.choice(self.pools)
        for sender in dict.fromkeys(sender for sender, _ in pool):
            nonce = tip.count(sender)
            while tx := pool.get((sender, nonce)):
                if tx.max_fee < base_fee or self._random.random() < _SKIPPED:
                    break
                if not can_afford(balance_of, tx):
                    break
                mined = self._execute(tx, changes, balance_of)
                apply(changes, tx, base_fee, succeeded=mined.succeeded)
                if tx.is_batch:
                    for recipient, amount in mined.paid:
                        changes["token", VAULT] -= amount
                        changes["token", recipient] += amount
                        changes[self._today] += amount
                yield mined
                nonce += 1

    @property
    def _today(self) -> Account:
        return "spent", str(self._day)

    def _execute(
        self, tx: Transaction, changes: Changes, balance_of: BalanceOf
    ) -> Mined:
        if tx.is_batch and self.vault is not None:
            spent = changes.get(self._today, 0)
            logs = self.vault.pay(tx.sender, tx.data, spent, gas=tx.gas_limit)
            return Mined(tx, logs is not None, logs or ())
        is_refused = tx.payment is not None and tx.payment[0] in self.blocklist
        succeeded = not is_refused and has_tokens(balance_of, tx)
        return Mined(tx, succeeded, tx.logs() if succeeded else ())

    def _find_early(self, tx: Transaction) -> Iterator[str]:
        """Yield the payments of *tx* that another nonce may still make, or has made."""
        for payment in tx.asked:
            others = self._asked.setdefault(payment, set())
            final = self.head.blocks[: 1 - CONFIRMATIONS]
            ended = {
                mined.transaction.slot
                for block in final
                for mined in block.mined
                if payment not in mined.paid
            }
            for slot in others - ended - {tx.slot}:
                yield f"{payment} was sent with {tx.slot} beside {slot}"
            others.add(tx.slot)

    def _balance_of(self, changes: Changes) -> BalanceOf:
        def balance_of(asset: str, address: str) -> int:
            account = (asset, address)
            return INITIAL[asset] + changes.get(account, 0) + self._funding[account]

        return balance_of

    def _gossip(self) -> None:
        for source, target in (self.pools, self.pools[::-1]):
            for tx in tuple(source.values()):
                if self._random.random() < _GOSSIPED:
                    self._offer(tx, target)

    def _waiting(self, sender: str) -> set[int]:
        """Return the nonces of *sender* in the pools, without foreign transactions."""
        return {
            tx.nonce
            for pool in self.pools
            for tx in pool.values()
            if tx.sender == sender and not tx.is_foreign
        }

    def _offer(self, tx: Transaction, pool: Pool) -> bool:
        """Put *transaction* into *pool*, and return whether it is there."""
        other = pool.get(tx.slot)
        if other is not None and other.hash != tx.hash and not tx.outbids(other):
            return False
        pool[tx.slot] = tx
        own = [nonce for sender, nonce in pool if sender == tx.sender]
        if self._kept and len(own) > self._kept:
            del pool[tx.sender, max(own)]
            self.dropped += 1
        return True

    def _block(self, number: int) -> Block:
        # After a reorganisation an equal block has another hash.
        return Block(number, _hash(f"{number} {self._forks}"))


@cache
def _hash(name: str) -> str:
    return "0x" + keccak(text=name).hex()
