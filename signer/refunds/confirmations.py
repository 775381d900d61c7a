"""
Decides when a refund is confirmed: receipt at depth, canonical block, exact Transfer.

Reading the chain has no side effects and each result is saved with one compare-and-set,
so any number of workers may track at once.

Nodes are asked when the answer can have changed (``head_looks``), for all refunds of a
network together.  When the head has moved, the next nonce of each sender says which
transactions are mined: only their receipts are requested.  They are requested again at
their depth, and when the newest block with a mined transaction has left the chain: all
others are below it.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cache

import structlog

from signer.alerts import Alerts
from signer.chain.chain import Chain
from signer.chain.erc20 import has_exact_transfer
from signer.errors import (
    ChainError,
    HotWalletError,
    RowNotAuthenticError,
    StaleStateError,
)
from signer.model.refund import InFlight, Refund, Status
from signer.model.transaction import HOLD, TransactionKind
from signer.ports.chain import Block, Receipt
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.ports.meter import NO_METER, Meter
from signer.ports.refund_store import Change
from signer.refunds.head_looks import HeadLook, HeadLooks
from signer.refunds.saved_steps import REBROADCAST_AFTER, log_final_status
from signer.refunds.sweep_policy import build_objection


_BATCH = 500

_MOST_RESENT = 256
"""How many dropped transactions are sent again after a block: more than a full pool
takes of one address."""

_SENT_LATELY = REBROADCAST_AFTER - timedelta(seconds=8)
"""What is due later than in this time was sent a moment ago."""


class ConfirmationTracker:
    """Tracks broadcast refunds until they are final."""

    def __init__(
        self,
        store: Ledger,
        chains: Mapping[str, Chain],
        clock: Clock,
        alarm: Alerts,
        batch: int = _BATCH,
        *,
        meter: Meter = NO_METER,
    ) -> None:
        self._store = store
        self._chains = chains
        self._clock = clock
        self._looks = HeadLooks(store, clock)
        self._alarm = alarm
        self._batch = batch
        self._meter = meter
        self._log = structlog.get_logger("refunds")

    def track(self) -> int:
        """Look at each network where that is due; return how many refunds changed."""
        in_flight: dict[str, list[InFlight]] = defaultdict(list)
        last = None
        while batch := self._store.in_flight(self._batch, after=last):
            last = batch[-1].refund.id
            for each in batch:
                in_flight[each.refund.network].append(each)
        busy = sorted(in_flight.keys() & self._chains.keys())
        self._looks.note_busy(self._chains[name] for name in busy)
        return sum(self._track_network(name, in_flight[name]) for name in busy)

    def _track_network(self, name: str, in_flight: Sequence[InFlight]) -> int:
        chain = self._chains[name]
        look = self._looks.begin(chain, [each.refund for each in in_flight])
        if look is None:
            return 0
        seen: list[Change] = []
        receipts: Mapping[str, Receipt] = {}
        try:
            # Read the head first: a block that arrives later must not count as depth.
            head = chain.client.latest_block()
            view = _ChainView(chain, head.number, cache(chain.client.block))
            asked = self._select(in_flight, look, head, view)
            if asked:
                receipts = chain.client.receipts(
                    [tx_hash for each in asked for tx_hash in each.tx_hashes]
                )
            for each in asked:
                change = self._look(each, receipts, view)
                if change is not None:
                    seen.append(change)
        except HotWalletError as e:
            self._log.warning("tracking-failed", network=name, code=e.code)
            # What was seen before an error is known.
            return self._save(seen, receipts, in_flight)
        saved = self._save(seen, receipts, in_flight)
        is_settled = _is_settled(asked, seen, view)
        self._looks.end(look, head, is_settled=is_settled)
        return saved

    def _select(
        self,
        in_flight: Sequence[InFlight],
        look: HeadLook,
        head: Block,
        view: "_ChainView",
    ) -> Sequence[InFlight]:
        """Return the refunds of which receipts can say something new."""
        has_moved = look.has_moved(head)
        sent = [each for each in in_flight if each.refund.status is Status.BROADCAST]
        counts: Mapping[str, int] = {}
        if has_moved or any(look.is_new(each.refund) for each in sent):
            counts = view.count({str(each.refund.sender) for each in sent})

        def is_used(refund: Refund) -> bool:
            return (refund.nonce or 0) < counts.get(str(refund.sender), 0)

        asked = [each for each in sent if is_used(each.refund)]
        if has_moved:
            old = [each.refund for each in sent if not look.is_new(each.refund)]
            with suppress(ChainError):  # They are sent again later in any case.
                self._resend_dropped([r for r in old if not is_used(r)], view)
            mined = [each for each in in_flight if each.refund.status is Status.MINED]
            deep = [each for each in mined if view.is_deep(each.refund)]
            # All deep ones are requested: only the others need to be watched.
            has_lost = len(deep) < len(mined) and view.has_lost_newest(mined)
            asked += mined if has_lost else deep
        return asked

    def _resend_dropped(self, waiting: Sequence[Refund], view: "_ChainView") -> None:
        """
        Let transactions that have left the nodes' pools be sent again now.

        A block has come without *waiting*, which were sent before.  A pool that is full
        drops the highest nonces of an address, so only the lowest of them fit again.
        """
        now = self._clock()
        senders = {str(refund.sender) for refund in waiting}
        first = {each: view.pending_count(each) for each in sorted(senders)}
        dropped = [
            refund
            for refund in sorted(waiting, key=lambda refund: refund.nonce or 0)
            if (refund.nonce or 0) >= first[str(refund.sender)]
            # What is due within HOLD may be claimed, or is sent again soon anyway.
            and HOLD < refund.moving.due_at - now <= _SENT_LATELY
        ]
        changes = [
            Change(refund, refund.with_due_at(now)) for refund in dropped[:_MOST_RESENT]
        ]
        if changes:
            self._store.save_all(changes)

    def _look(
        self, in_flight: InFlight, receipts: Mapping[str, Receipt], view: "_ChainView"
    ) -> Change | None:
        """Return the change that the chain shows; None if there is none."""
        mined = [receipts[each] for each in in_flight.tx_hashes if each in receipts]
        receipt = mined[0] if mined else None
        refund, now = in_flight.refund, self._clock()
        if refund.status is Status.BROADCAST:
            if receipt is None:
                return None  # A missing receipt is not evidence of anything.
            after = refund.with_status(
                Status.MINED,
                now,
                tx_hash=receipt.tx_hash,
                block_number=receipt.block.number,
                block_hash=receipt.block.hash,
            )
        elif view.has_lost_block(refund, receipt):
            after = refund.with_status(
                Status.BROADCAST, now, due_at=now, block_number=None, block_hash=None
            )
        elif receipt is not None and view.is_final(receipt):
            after = self._as_final(in_flight, receipt)
        else:
            return None
        return Change(refund, after)

    def _save(
        self,
        changes: Sequence[Change],
        receipts: Mapping[str, Receipt],
        in_flight: Sequence[InFlight],
    ) -> int:
        """Save *changes*, which *receipts* show; return how many were possible."""
        signed = {each.refund.id: len(each.tx_hashes) for each in in_flight}
        saved = 0
        errors: list[HotWalletError | None] = []
        for start in range(0, len(changes), self._batch):
            errors += self._store.save_all(changes[start : start + self._batch])
        for change, error in zip(changes, errors, strict=True):
            if error is None:
                saved += 1
                self._meter.moved(change.before, change.after)
                if change.after.status.is_final:
                    self._count_fee(change.after, receipts)
                    network = change.after.network
                    self._meter.ended(network, signatures=signed[change.after.id])
                    log_final_status(self._log, change.after)
            elif isinstance(error, RowNotAuthenticError):
                # What the chain shows cannot be compared with a changed row.
                self._alarm.report_row(error, change.before.id)
            elif not isinstance(error, StaleStateError):
                raise error  # A stale refund was saved by another process first.
        return saved

    def _count_fee(self, refund: Refund, receipts: Mapping[str, Receipt]) -> None:
        receipt = receipts.get(refund.tx_hash or "")
        if receipt is not None and receipt.fee is not None:
            self._meter.paid_fee(refund.network, receipt.fee)

    def _as_final(self, in_flight: InFlight, receipt: Receipt) -> Refund:
        refund = in_flight.refund
        if receipt.tx_hash in in_flight.noops:
            # The failure code was saved when the no-op was signed.
            return refund.with_status(Status.FAILED, self._clock())
        if not receipt.succeeded:
            objection = build_objection("reverted", "the token reverted on chain")
        elif refund.kind in {
            TransactionKind.CALL,
            TransactionKind.COIN,
        } or has_exact_transfer(
            receipt.logs,
            token=refund.token_address,
            sender=str(refund.sender),
            recipient=refund.recipient,
            amount=refund.amount,
        ):
            return refund.with_status(Status.CONFIRMED, self._clock())
        else:
            objection = build_objection(
                "transfer-mismatch",
                "mined, but the token's Transfer event differs from the refund",
            )
        return refund.with_status(Status.FAILED, self._clock(), **objection)


class _ChainView:
    """The chain's head, and its blocks by height, during one pass."""

    def __init__(
        self, chain: Chain, head: int, block: Callable[[int], Block | None]
    ) -> None:
        self._client = chain.client
        self._confirmations = chain.network.confirmations
        self._head = head
        self._block = block

    def has_lost_block(self, refund: Refund, receipt: Receipt | None) -> bool:
        """
        Return whether a reorganisation removed the block of a mined *refund*.

        A missing receipt is not evidence while the block is still canonical.
        """
        mined = refund.reserved()
        recorded = Block(mined.block_number or 0, mined.block_hash or "")
        if receipt is not None:
            return receipt.block != recorded
        block = self._block(recorded.number)
        return block is not None and block != recorded

    def is_final(self, receipt: Receipt) -> bool:
        """Return whether *receipt* is deep enough, in a canonical block."""
        number = receipt.block.number
        return self._reaches(number) and self._block(number) == receipt.block

    def is_deep(self, refund: Refund) -> bool:
        """Return whether the block of a mined *refund* is deep enough."""
        return self._reaches(refund.block_number or 0)

    def has_lost_newest(self, mined: Sequence[InFlight]) -> bool:
        """Return whether the newest block of *mined* refunds has left the chain."""
        newest = max((each.refund for each in mined), key=lambda r: r.block_number or 0)
        with suppress(ChainError):  # The next head shows it again.
            return self.has_lost_block(newest, None)
        return False

    def count(self, senders: Collection[str]) -> Mapping[str, int]:
        """Return the next nonce of each of *senders* in the newest block."""
        return {each: self._client.transaction_count(each) for each in sorted(senders)}

    def pending_count(self, sender: str) -> int:
        """Return the next nonce of *sender* that no block and no pool has."""
        return self._client.pending_count(sender)

    def _reaches(self, number: int) -> bool:
        return self._head - number + 1 >= self._confirmations


def _is_settled(
    asked: Sequence[InFlight], changes: Sequence[Change], view: _ChainView
) -> bool:
    """Return whether the nodes have said about *asked* what they can say now."""
    changed = {change.before.id for change in changes}
    waits = [each.refund for each in asked if each.refund.id not in changed]
    waits += [each.after for each in changes if each.after.status is Status.MINED]
    return not any(
        each.status is Status.BROADCAST or view.is_deep(each) for each in waits
    )
