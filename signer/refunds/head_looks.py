"""
Decides when a worker asks for the head of a network, and shares the answer.

A look at the head is a call that every node of the network is paid for.  So workers
take turns: the ledger has when any of them looked last, and which block it saw.  From
this each learns how long a block takes.  While a transaction waits for a block, the
next look is just before that block; while all are mined, after the block at which one
can be final.  What a block shows is read and saved by the worker that has claimed it;
the others wait, for ``CLAIM_TIME`` if it died.  Each worker asks about everything from
time to time, since an intruder in the database can pretend to look.
"""

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from statistics import median
from zlib import crc32

from signer.chain.chain import Chain
from signer.config.networks import Network
from signer.model.network_view import Look
from signer.model.transaction import CLAIM_TIME, Transaction, TransactionStatus
from signer.ports.chain import Block
from signer.ports.clock import Clock
from signer.ports.ledger import SharedState


LONGEST_OWN_PAUSE = timedelta(minutes=15)
"""
How long a worker relies on the looks while something is in flight: no MAC covers them.

Then it looks in any case, as if there were none before.
"""

_USUAL_BLOCK = timedelta(seconds=12)
_UNBROKEN = 1.25  # Of the longest block: looks further apart measure none.
_SAMPLES = 9
_FEWEST_SAMPLES = 2
_EARLY = 0.9  # Of a block: when the look is made that should find it.
_SOON = 8  # The part of a block after which a look that found nothing is repeated.
_LATE = 1.02  # Of the expected time: when the look is made that should find depth.
_RENEWED_AFTER = CLAIM_TIME / 4  # The age of a claim that its worker renews.
_HASH_BITS = 23


@dataclass(frozen=True, slots=True)
class HeadLook:
    """
    A look that this worker makes now: ``last`` is the one before, of any worker.

    Once it ends, others see that it was made at ``began_at``, also if its claim was
    renewed.
    """

    name: str
    last: Look | None
    current: Look
    began_at: datetime

    def has_moved(self, head: Block) -> bool:
        """Return whether the last look did not see *head*, or left work to do."""
        return self.last is None or _encode(head) != self.last.seen

    def is_new(self, transaction: Transaction) -> bool:
        """Return whether *transaction* was broadcast after the last look began."""
        return self.last is None or transaction.updated_at >= self.last.at


class HeadLooks:
    """The looks at the heads of networks, which all workers share."""

    def __init__(self, store: SharedState, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._paces: dict[str, _Pace] = {}

    def note_busy(self, chains: Iterable[Chain]) -> None:
        """
        Note in each pass that only *chains* have something in flight.

        Only this ends the time in which a worker relies on the looks at another one.
        """
        busy = {_name(chain) for chain in chains}
        for name, pace in self._paces.items():
            if name not in busy:
                pace.full_at = None

    def begin(self, chain: Chain, flying: Collection[Transaction]) -> HeadLook | None:
        """Return a look at *chain* for what is *flying*; None if none is due."""
        name = _name(chain)
        pace = self._paces.setdefault(name, _Pace(chain.network))
        last, now = self._store.last_look(name), self._clock()
        is_full = pace.has_relied(now)
        if last is not None:
            pace.saw(last)
            if last.at <= now < pace.next_at(flying, last, now) and not is_full:
                return None
        current = Look(now, 0 if last is None else last.seen)
        if not self._store.save_look(name, last, current) and not is_full:
            return None  # Another worker looks.
        if is_full:
            pace.full_at = now
        return HeadLook(name, None if is_full else last, current, now)

    def claim(self, look: HeadLook, head: Block) -> HeadLook | None:
        """
        Claim what *head* shows, or renew the claim; return the look with the claim.

        Return None if another worker looks meanwhile, unless this one relies on none.
        Two may claim at the same time: it costs requests, and each of their changes is
        a compare-and-set.
        """
        now = self._clock()
        if look.current.seen < 0 and abs(now - look.current.at) < _RENEWED_AFTER:
            return look
        claimed = Look(now, ~_encode(head))
        is_saved = self._store.save_look(look.name, look.current, claimed)
        has_it = is_saved or look.last is None
        return replace(look, current=claimed) if has_it else None

    def release(self, look: HeadLook) -> None:
        """Give up the claim of a *look* that failed: the next look sees as much."""
        if look.current.seen < 0:
            self._share(look, 0 if look.last is None else look.last.seen)

    def end(self, look: HeadLook, head: Block, *, is_settled: bool) -> None:
        """Share that *head* was seen; if not *is_settled*, it is looked at again."""
        seen = _encode(head, is_settled=is_settled)
        if seen != look.current.seen:
            self._share(look, seen)

    def _share(self, look: HeadLook, seen: int) -> None:
        self._store.save_look(look.name, look.current, Look(look.began_at, seen))


class _Pace:
    """When the next block of a network is expected, by the looks of all workers."""

    def __init__(self, network: Network) -> None:
        self._confirmations = network.confirmations
        self._declared: timedelta | None = None
        if network.block_seconds is not None:
            self._declared = timedelta(seconds=network.block_seconds)
        self._longest = max(self._declared or _USUAL_BLOCK, _USUAL_BLOCK)
        self._unbroken = _UNBROKEN * self._longest
        self._number = 0
        self._moved_at: datetime | None = None
        self._looked_at: datetime | None = None
        self._gaps: deque[float] = deque(maxlen=_SAMPLES)
        self.full_at: datetime | None = None

    def has_relied(self, now: datetime) -> bool:
        """Return whether this worker has relied on the looks for long enough."""
        if self.full_at is None:
            self.full_at = now  # Nothing was in flight in the pass before.
        return abs(now - self.full_at) >= LONGEST_OWN_PAUSE

    def saw(self, look: Look) -> None:
        """Learn from the last *look*."""
        number, before = _number(look), self._looked_at
        blocks = number - self._number
        if blocks:
            moved_at = look.at
            if blocks > 0 and self._moved_at is not None and before is not None:
                if look.at - before <= self._unbroken:
                    gap = look.at - self._moved_at
                    self._gaps.append(gap.total_seconds() / blocks)
                elif self._gaps:
                    # The block came since the look before: when, the others say.
                    block = timedelta(seconds=median(self._gaps))
                    expected = self._moved_at + blocks * block
                    moved_at = min(look.at, max(before, expected, look.at - block))
            self._number, self._moved_at = number, moved_at
        self._looked_at = look.at

    def next_at(
        self, flying: Collection[Transaction], last: Look, now: datetime
    ) -> datetime:
        """Return when to look again for what is *flying*, after the *last* look."""
        if last.seen < 0:
            return last.at + CLAIM_TIME
        block = self._declared
        if len(self._gaps) >= _FEWEST_SAMPLES:
            block = min(timedelta(seconds=median(self._gaps)), self._longest)
        if block is None or self._moved_at is None:
            return last.at
        if not last.seen & 1:
            return last.at + block / 2
        mined = [each.block_number or 0 for each in flying if _is_mined(each)]
        if len(mined) == len(flying):
            missing = min(mined) + self._confirmations - 1 - self._number
            expected = self._moved_at + max(1, missing) * _LATE * block
            return max(last.at + block / 2, expected)
        sent = (each.updated_at for each in flying if not _is_mined(each))
        # What was sent while a clock was ahead says nothing of the next block.
        sent_at = min((each for each in sent if each <= now), default=last.at)
        if sent_at > last.at + self._unbroken:
            return sent_at + block  # When the next block comes is not known.
        return max(last.at + block / _SOON, self._moved_at + _EARLY * block)


def _name(chain: Chain) -> str:
    return f"head {chain.network.chain_id}"


def _is_mined(transaction: Transaction) -> bool:
    return transaction.status is TransactionStatus.MINED


def _encode(head: Block, *, is_settled: bool = True) -> int:
    """Return a number with the height, a part of the hash, and *is_settled*."""
    part = crc32(head.hash.encode()) % (1 << _HASH_BITS)
    return (head.number << _HASH_BITS | part) << 1 | is_settled


def _number(look: Look) -> int:
    # That of a claim is the complement.
    return max(look.seen, ~look.seen) >> (_HASH_BITS + 1)
