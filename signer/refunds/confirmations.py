"""
Decides when a refund is confirmed: receipt at depth, canonical block, exact Transfer.

Reading the chain has no side effects and each result is saved with one compare-and-set,
so any number of workers may track at once.  All open refunds of a network share their
requests.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import groupby

import structlog

from signer.chain.chain import Chain
from signer.chain.erc20 import has_exact_transfer
from signer.errors import (
    HotWalletError,
    RowNotAuthenticError,
    StaleStateError,
)
from signer.model.refund import InFlight, Refund, Status
from signer.ports import NO_METER, Block, Change, Clock, Meter, Receipt, Store
from signer.refunds.row_alarm import RowAlarm
from signer.refunds.sweep_policy import build_objection
from signer.refunds.transitions import log_final_status


_BATCH = 500


class ConfirmationTracker:
    """Tracks broadcast refunds until they are final."""

    def __init__(
        self,
        store: Store,
        chains: Mapping[str, Chain],
        clock: Clock,
        alarm: RowAlarm,
        batch: int = _BATCH,
        *,
        meter: Meter = NO_METER,
    ) -> None:
        self._store = store
        self._chains = chains
        self._clock = clock
        self._alarm = alarm
        self._batch = batch
        self._meter = meter
        self._log = structlog.get_logger("refunds")

    def track(self) -> int:
        """Check every refund in flight once; return how many changed."""
        changed, last = 0, None
        while batch := self._store.in_flight(self._batch, after=last):
            last = batch[-1].refund.id
            by_network = sorted(batch, key=_network)
            for name, refunds in groupby(by_network, key=_network):
                if name in self._chains:
                    changed += self._track_network(name, tuple(refunds))
        return changed

    def _track_network(self, name: str, in_flight: Sequence[InFlight]) -> int:
        chain = self._chains[name]
        seen: list[Change] = []
        receipts: Mapping[str, Receipt] = {}
        try:
            # Read the head first: a block that arrives later must not count as depth.
            head = chain.client.latest_block().number
            receipts = chain.client.receipts(
                [tx_hash for each in in_flight for tx_hash in each.tx_hashes]
            )
            view = _ChainView(chain, head, cache(chain.client.block))
            for each in in_flight:
                change = self._look(each, receipts, view)
                if change is not None:
                    seen.append(change)
        except HotWalletError as e:
            self._log.warning("tracking-failed", network=name, code=e.code)
        return self._save(seen, receipts)  # What was seen before an error is known.

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

    def _save(self, changes: Sequence[Change], receipts: Mapping[str, Receipt]) -> int:
        """Save *changes*, which *receipts* show; return how many were possible."""
        saved = 0
        for change, error in zip(changes, self._store.save_all(changes), strict=True):
            if error is None:
                saved += 1
                self._meter.moved(change.before, change.after)
                if change.after.status.is_final:
                    self._count_fee(change.after, receipts)
                    log_final_status(self._log, change.after)
            elif isinstance(error, RowNotAuthenticError):
                # What the chain shows cannot be compared with a changed row.
                self._alarm.report(error, change.before.id)
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
        elif (
            refund.is_coin
            or refund.is_call
            or has_exact_transfer(
                receipt.logs,
                token=refund.token_address,
                sender=str(refund.sender),
                recipient=refund.recipient,
                amount=refund.amount,
            )
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
        self._confirmations = chain.network.confirmations
        self._head = head
        self._block = block

    def has_lost_block(self, refund: Refund, receipt: Receipt | None) -> bool:
        """
        Return whether a reorganisation removed the block of a mined *refund*.

        A missing receipt is not evidence while the block is still canonical.
        """
        recorded = Block(refund.block_number or 0, refund.block_hash or "")
        if receipt is not None:
            return receipt.block != recorded
        block = self._block(recorded.number)
        return block is not None and block != recorded

    def is_final(self, receipt: Receipt) -> bool:
        """Return whether *receipt* is deep enough, in a canonical block."""
        if self._head - receipt.block.number + 1 < self._confirmations:
            return False
        return self._block(receipt.block.number) == receipt.block


def _network(in_flight: InFlight) -> str:
    return in_flight.refund.network
