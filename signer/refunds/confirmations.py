"""
What the chain says of what was sent: mined, gone again, confirmed, or failed.

Looking has no side effects, so that any number of workers may look; each verdict is
one compare-and-set.  All open refunds of a network share their questions.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import groupby

import structlog

from signer.chain.chain import Chain
from signer.chain.erc20 import transferred
from signer.errors import HotWalletError, StaleStateError, StoreError
from signer.model.refund import InFlight, Kind, Refund, Status
from signer.ports import Block, Clock, Receipt, Store
from signer.refunds.transitions import tell_end


_BATCH = 500


class ConfirmationTracker:
    """Follows refunds from broadcast to their end."""

    def __init__(
        self,
        store: Store,
        chains: Mapping[str, Chain],
        clock: Clock,
        batch: int = _BATCH,
    ) -> None:
        self._store = store
        self._chains = chains
        self._clock = clock
        self._batch = batch
        self._log = structlog.get_logger("refunds")

    def track(self) -> int:
        """
        Look once at everything that was sent; return how many refunds moved.

        A network that does not answer does not keep the others waiting.

        Raises:
            StoreError: The ledger does not answer.
        """
        moved, last = 0, None
        while batch := self._store.in_flight(self._batch, after=last):
            last = batch[-1].refund.id
            by_network = sorted(batch, key=_network)
            for name, sent in groupby(by_network, key=_network):
                if name in self._chains:
                    moved += self._track(name, tuple(sent))
        return moved

    def _track(self, name: str, sent: Sequence[InFlight]) -> int:
        chain = self._chains[name]
        # The head first: a block that comes meanwhile must not count as depth.
        try:
            head = chain.client.latest_block().number
            receipts = chain.client.receipts(
                [tx_hash for one in sent for tx_hash in one.tx_hashes]
            )
            look = _Look(chain, head, cache(chain.client.block))
            return sum(self._judge(one, receipts, look) for one in sent)
        except StoreError:
            raise
        except HotWalletError as e:
            self._log.warning("tracking-failed", network=name, code=e.code)
            return 0

    def _judge(
        self, one: InFlight, receipts: Mapping[str, Receipt], look: "_Look"
    ) -> int:
        found = (receipts.get(tx_hash) for tx_hash in one.tx_hashes)
        receipt = next((each for each in found if each is not None), None)
        refund = one.refund
        if refund.status is Status.BROADCAST:
            after = self._mined(refund, receipt)
        elif look.is_gone(refund, receipt):
            after = refund.moved(
                Status.BROADCAST,
                self._clock(),
                due_at=self._clock(),
                block_number=None,
                block_hash=None,
            )
        elif receipt is not None and look.is_final(receipt):
            after = self._settled(refund, receipt)
        else:
            return 0
        if after is None:
            return 0
        try:
            self._store.save(refund, after)
        except StaleStateError:
            return 0  # Somebody else saw it first.
        if after.status.is_final:
            tell_end(self._log, after)
        return 1

    def _mined(self, refund: Refund, receipt: Receipt | None) -> Refund | None:
        if receipt is None:
            return None  # Which proves nothing.
        return refund.moved(
            Status.MINED,
            self._clock(),
            tx_hash=receipt.tx_hash,
            block_number=receipt.block.number,
            block_hash=receipt.block.hash,
        )

    def _settled(self, refund: Refund, receipt: Receipt) -> Refund:
        kinds = {
            sent.tx_hash: sent.kind for sent in self._store.transactions(refund.id)
        }
        if kinds.get(receipt.tx_hash) is Kind.NOOP:
            # It has its reason since the no-op was signed in its place.
            return refund.moved(Status.FAILED, self._clock())
        if not receipt.succeeded:
            return self._failed(refund, "reverted", "the token reverted on chain")
        if refund.is_coin:
            return refund.moved(Status.CONFIRMED, self._clock())
        paid = transferred(
            receipt.logs,
            token=refund.token_address,
            sender=str(refund.sender),
            recipient=refund.recipient,
            amount=refund.amount,
        )
        if not paid:
            return self._failed(
                refund,
                "transfer-mismatch",
                "mined, and the token's Transfer event does not say what was asked",
            )
        return refund.moved(Status.CONFIRMED, self._clock())

    def _failed(self, refund: Refund, code: str, detail: str) -> Refund:
        return refund.moved(
            Status.FAILED, self._clock(), failure_code=code, failure_detail=detail
        )


class _Look:
    """One look at a chain: its head, and its blocks by their numbers."""

    def __init__(
        self, chain: Chain, head: int, block: Callable[[int], Block | None]
    ) -> None:
        self._confirmations = chain.network.confirmations
        self._head = head
        self._block = block

    def is_gone(self, refund: Refund, receipt: Receipt | None) -> bool:
        """
        Say whether a reorganisation took the block of a mined *refund* away.

        A receipt that is missing proves nothing, while the block is where it was.
        """
        recorded = Block(refund.block_number or 0, refund.block_hash or "")
        if receipt is not None:
            return receipt.block != recorded
        block = self._block(recorded.number)
        return block is not None and block != recorded

    def is_final(self, receipt: Receipt) -> bool:
        """Say whether *receipt* is deep enough, in a block that is canonical."""
        if self._head - receipt.block.number + 1 < self._confirmations:
            return False
        return self._block(receipt.block.number) == receipt.block


def _network(one: InFlight) -> str:
    return one.refund.network
