"""
A chain that lives by itself: pools, blocks, prices, reorganisations.

Two nodes have a pool each, and share the blocks.  Only the wallets of one ring send
anything.  Whatever happens by chance is drawn from the seed.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from random import Random

from eth_utils.crypto import keccak

from signer.errors import BroadcastRejectedError
from signer.ports import Block, Receipt
from tests.simulation.coffers import STAKE, Coffer, Held, Moved, can_buy, can_pay, move
from tests.simulation.wire import Wire


GWEI = 10**9

CONFIRMATIONS = 5
"""How many blocks make a receipt final; no reorganisation goes as deep."""

DEEPEST = 3

KEPT = 4
"""How many heads back a node may still be."""

_LOWEST, _HIGHEST = GWEI, 150 * GWEI

# Chances: that a miner passes a transaction over, that a node tells the other one of
# it, and that a pool gets it back from a block that is gone.
_PASSED_OVER = 0.2
_PASSED_ON = 0.3
_RETURNS = 0.7


@dataclass(frozen=True, slots=True)
class Mined:
    """A transaction, and what became of it in its block."""

    wire: Wire
    succeeded: bool


@dataclass(frozen=True, slots=True)
class Minted:
    """
    A block: its base fee in wei, and what is in it.

    ``counts`` are the next nonces behind it, and ``moved`` is where everything is.
    """

    block: Block
    base_fee: int
    mined: tuple[Mined, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    moved: Moved = field(default_factory=dict)

    def count(self, sender: str) -> int:
        """Return the next nonce of *sender*."""
        return self.counts.get(sender, 0)


Slot = tuple[str, int]
"""A sender and a nonce, for which a pool has one transaction."""

Pool = dict[Slot, Wire]


class Head:
    """A chain of blocks as one head knows it; it never changes."""

    def __init__(self, blocks: tuple[Minted, ...]) -> None:
        self.blocks = blocks

    @property
    def tip(self) -> Minted:
        """The newest block."""
        return self.blocks[-1]

    def receipt(self, tx_hash: str) -> Receipt | None:
        """Return the receipt of a mined transaction."""
        for minted in reversed(self.blocks):
            for mined in minted.mined:
                if mined.wire.hash == tx_hash:
                    logs = mined.wire.logs() if mined.succeeded else ()
                    return Receipt(tx_hash, minted.block, mined.succeeded, logs)
        return None


class SimulatedChain:
    """
    The truth about the chain, and every misfortune that it can have.

    ``sent`` is all that any node ever took, by hash; ``unrecorded`` are the hashes of
    which *is_recorded* said no when a node was given them.  ``loses`` says whether
    nodes forget, and ``calm`` whether prices only fall.
    """

    def __init__(self, random: Random, is_recorded: Callable[[str], bool]) -> None:
        self._random = random
        self._is_recorded = is_recorded
        self.unrecorded: list[str] = []
        self._forks = 0
        genesis = Minted(self._block(0), 10 * GWEI)
        self.heads = [Head((genesis,))]
        self.pools: tuple[Pool, Pool] = ({}, {})
        self.sent: dict[str, Wire] = {}
        self.blocklist: set[str] = set()
        self._gifts: Counter[Coffer] = Counter()
        self.calm = False
        self.loses = True

    def __str__(self) -> str:
        """Say where it stands."""
        tip = self.head.tip
        hashes = [mined.wire.hash[:8] for mined in tip.mined]
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
        """Return its next nonce behind everything that waits in either pool."""
        counts = []
        for pool in self.pools:
            nonce = self.count(sender)
            while (sender, nonce) in pool:
                nonce += 1
            counts.append(nonce)
        return max(counts)

    def held(self, asset: str, address: str, minted: Minted | None = None) -> int:
        """Return what *address* has of *asset*, now or behind that block."""
        at = self.head.tip if minted is None else minted
        return self._held(at.moved)(asset, address)

    def fund(self, address: str) -> None:
        """Fill the coffers of *address*, whatever becomes of blocks."""
        for asset in ("coin", "token"):
            lacks = STAKE[asset] - self.held(asset, address)
            self._gifts[asset, address] += max(0, lacks)

    @property
    def strangers(self) -> tuple[Wire, ...]:
        """What somebody else signed, and is mined."""
        return tuple(
            mined.wire
            for minted in self.head.blocks
            for mined in minted.mined
            if mined.wire.is_foreign
        )

    def take(self, wire: Wire) -> None:
        """
        Let a node take *wire*, and perhaps the other one too.

        Raises:
            BroadcastRejectedError: The node said no.
        """
        if not self._is_recorded(wire.hash):
            self.unrecorded.append(wire.hash)
        if wire.nonce < self.count(wire.sender):
            raise BroadcastRejectedError("nonce too low", reason="nonce-too-low")
        if not can_buy(self.held, wire):
            raise BroadcastRejectedError("too poor", reason="insufficient-funds")
        first = self._random.randrange(2)
        if not self._offer(wire, self.pools[first]):
            raise BroadcastRejectedError("underpriced", reason="underpriced")
        self.sent[wire.hash] = wire
        if self._random.random() < _PASSED_ON:
            self._offer(wire, self.pools[1 - first])

    def intrude(self, wire: Wire) -> None:
        """Let both nodes have what somebody else signed, at any price."""
        for pool in self.pools:
            pool[wire.slot] = wire

    def mint(self) -> None:
        """Add a block with some of what waits."""
        self._append(self.head.blocks)
        self._gossip()

    def reorganise(self, depth: int) -> None:
        """Replace that many blocks by one more; some transactions are lost."""
        depth = min(depth, len(self.head.blocks) - 1)
        kept = self.head.blocks[: len(self.head.blocks) - depth]
        gone = self.head.blocks[len(kept) :]
        for minted in gone:
            for mined in minted.mined:
                for pool in self.pools:
                    if not self.loses or self._random.random() < _RETURNS:
                        pool.setdefault(mined.wire.slot, mined.wire)
        self._forks += 1
        self._append(kept)
        for _ in range(depth):
            self._append(self.head.blocks)

    def drop(self) -> None:
        """Let a node forget what waits, as nodes do."""
        if self.loses:
            self._random.choice(self.pools).clear()

    def keep(self) -> None:
        """
        Let both nodes have what either has, from now on, and nothing behind a gap.

        All that was sent is then in their counts.
        """
        self.loses = False
        for slot, wire in self.pools[1].items():
            self.pools[0].setdefault(slot, wire)
        self.pools[1].clear()
        pool = self.pools[0]
        for slot in [(s, n) for s, n in pool if n > self.pending(s)]:
            del pool[slot]
        self.pools[1].update(pool)

    def soar(self) -> None:
        """Multiply the base fee, by more than a first offer allows for."""
        tip = self.head.tip
        soared = replace(tip, base_fee=min(tip.base_fee * 5, _HIGHEST))
        self.heads.append(Head((*self.head.blocks[:-1], soared)))

    def _append(self, blocks: tuple[Minted, ...]) -> None:
        tip = blocks[-1]
        change = self._random.uniform(0.4, 0.9 if self.calm else 1.5)
        base_fee = max(_LOWEST, min(_HIGHEST, int(tip.base_fee * change)))
        moved = Counter(tip.moved)
        mined = tuple(self._chosen(tip, base_fee, moved))
        counts = Counter(tip.counts)
        counts.update(each.wire.sender for each in mined)
        minted = Minted(self._block(len(blocks)), base_fee, mined, counts, moved)
        self.heads.append(Head((*blocks, minted)))
        del self.heads[:-KEPT]
        for pool in self.pools:
            for slot in [(s, n) for s, n in pool if n < minted.count(s)]:
                del pool[slot]

    def _chosen(
        self, tip: Minted, base_fee: int, moved: Counter[Coffer]
    ) -> Iterator[Mined]:
        there = self._held(moved)
        pool = self._random.choice(self.pools)
        for sender in dict.fromkeys(sender for sender, _ in pool):
            nonce = tip.count(sender)
            while wire := pool.get((sender, nonce)):
                if wire.max_fee < base_fee or self._random.random() < _PASSED_OVER:
                    break
                if not can_buy(there, wire):
                    break
                paid = wire.payment
                is_refused = paid is not None and paid[0] in self.blocklist
                succeeded = not is_refused and can_pay(there, wire)
                move(moved, wire, base_fee, succeeded=succeeded)
                yield Mined(wire, succeeded)
                nonce += 1

    def _held(self, moved: Moved) -> Held:
        def held(asset: str, address: str) -> int:
            coffer = (asset, address)
            return STAKE[asset] + moved.get(coffer, 0) + self._gifts[coffer]

        return held

    def _gossip(self) -> None:
        for source, target in (self.pools, self.pools[::-1]):
            for wire in tuple(source.values()):
                if self._random.random() < _PASSED_ON:
                    self._offer(wire, target)

    def _offer(self, wire: Wire, pool: Pool) -> bool:
        """Put *wire* into *pool*; say whether it is there then."""
        other = pool.get(wire.slot)
        if other is not None and other.hash != wire.hash and not wire.outbids(other):
            return False
        pool[wire.slot] = wire
        return True

    def _block(self, number: int) -> Block:
        # Another head has another hash, even if it holds the same.
        name = f"{number} {self._forks}"
        return Block(number, "0x" + keccak(text=name).hex())
