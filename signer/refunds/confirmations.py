"""
Confirms transactions: by receipt at depth, canonical block and exact Transfer.

Reading the chain has no side effects and each result is saved with one compare-and-set,
so any number of workers may track at once.  They claim blocks, to save the requests.

Nodes are asked when the answer can have changed (``head_looks``), for all transactions
of a network together.  When the head has moved, the next nonce of each sender says
which are mined: only their receipts are requested.  They are requested again at their
depth, and when the newest block with one of them has left the chain, which is checked
from time to time: all others are below it.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, replace
from datetime import datetime, timedelta
from functools import cache, partial

import structlog

from signer.alerts import Alerts
from signer.chain.chain import Chain, final_height
from signer.chain.erc20 import has_exact_transfer
from signer.errors import (
    ChainError,
    HotWalletError,
    RowNotAuthenticError,
    StaleStateError,
    VaultLimitError,
)
from signer.model.payment import PaymentState
from signer.model.refund import InFlight
from signer.model.transaction import (
    CLAIM_TIME,
    TRANSACTION_MOVES,
    Transaction,
    TransactionKind,
    TransactionStatus,
)
from signer.ports.chain import Block, Receipt
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.ports.meter import NO_METER, Meter
from signer.ports.refund_store import Change
from signer.refunds.batch_ends import find_ends, queue_again
from signer.refunds.head_looks import HeadLook, HeadLooks
from signer.refunds.saved_steps import (
    REBROADCAST_AFTER,
    count_moves,
    log_ends,
    report_strangers,
)
from signer.refunds.sweep_policy import build_objection
from signer.refunds.vault_limits import report_limit


_PAGE = 500

_PART = 64
"""How many payments are read and saved together, before others may be paid."""

_FEWEST_SHARED, _MOST_OTHERS = 3, 4
"""
How many receipts of a block are requested with all of its others in one response.

It has at most so many times as many receipts, which may be large.
"""

_MOST_RESENT = 256
"""How many dropped transactions are sent again after a block: more than a full pool
takes of one address."""

_WATCH_EVERY = timedelta(seconds=12)
"""
How often it is checked whether the newest mined block has left the chain.

Only to send what it had again sooner: at its depth each is requested in any case.
"""

_WITHOUT_EVENTS = frozenset({TransactionKind.CALL, TransactionKind.COIN})

_SENT_LATELY = REBROADCAST_AFTER - timedelta(seconds=1)
"""What is due later than in this time was sent a moment ago."""


@dataclass(eq=False, repr=False)
class ConfirmationTracker:
    """Tracks transactions that were broadcast until they are final."""

    store: Ledger
    chains: Mapping[str, Chain]
    clock: Clock
    alarm: Alerts
    part: int = _PART
    _: KW_ONLY
    meter: Meter = NO_METER

    def __post_init__(self) -> None:
        self._looks = HeadLooks(self.store, self.clock)
        self._watched: dict[str, datetime] = {}  # When it was fine, by network.
        self._log = structlog.get_logger("refunds")

    def track(self, between: Callable[[], object] = lambda: None) -> int:
        """
        Look at each network where that is due; return how many changed.

        *between* is called between the parts of a network, for what should not wait for
        all of them.
        """
        in_flight = self._read_in_flight()
        busy = sorted(in_flight.keys() & self.chains.keys())
        self._looks.note_busy(self.chains[name] for name in busy)

        def pause() -> None:
            between()
            in_flight.clear()  # It may have sent more.

        saved = 0
        for name in busy:
            in_flight = in_flight or self._read_in_flight()
            if found := in_flight.get(name):
                saved += self._track_network(name, found, pause)
        return saved

    def rest(self) -> None:
        """Note that nothing is in flight, in place of ``track``."""
        self._looks.note_busy(())

    def _read_in_flight(self) -> dict[str, list[InFlight]]:
        in_flight: dict[str, list[InFlight]] = defaultdict(list)
        last, is_full = None, True
        while is_full:
            page = self.store.in_flight(_PAGE, after=last)
            for each in page:
                last = each.transaction
                in_flight[last.network].append(each)
            is_full = len(page) == _PAGE
        return in_flight

    def _track_network(
        self, name: str, in_flight: Sequence[InFlight], between: Callable[[], object]
    ) -> int:
        chain = self.chains[name]
        look = self._looks.begin(chain, [each.transaction for each in in_flight])
        if look is None:
            return 0
        saved, start, is_settled = 0, 0, True
        receipts: Mapping[str, Receipt] = {}
        part, seen = in_flight[:0], list[Change]()
        try:
            # Read the head first: a block that arrives later must not count as depth.
            head = chain.client.latest_block()
            view = _ChainView(chain, name, head, cache(chain.client.block))
            asked = self._select(in_flight, look, head, view)
            size = max(1, self.part // chain.network.per_batch)
            while start < len(asked):
                if start:
                    between()
                claimed = self._looks.claim(look, head)
                if claimed is None:
                    return saved
                look = claimed
                if not start:
                    receipts = chain.client.receipts(
                        [tx_hash for each in asked for tx_hash in each.tx_hashes],
                        view.find_shared(asked, head),
                    )
                part = asked[start : start + size]
                read = self._look_at(part, receipts, view, seen)
                # What was changed meanwhile, also by this worker, is looked at again.
                is_settled &= len(read) == len(part) and _is_settled(read, seen, view)
                saved += self._save(name, seen, receipts, part)
                seen.clear()
                start += size
                size = self._next_size(read) or size
        except HotWalletError as e:
            self._log.warning("tracking-failed", network=name, code=e.code)
            # What was seen before an error is known.
            saved += self._save(name, seen, receipts, part)
            self._looks.release(look)
            return saved
        self._looks.end(look, head, is_settled=is_settled)
        return saved

    def _select(
        self,
        in_flight: Sequence[InFlight],
        look: HeadLook,
        head: Block,
        view: "_ChainView",
    ) -> Sequence[InFlight]:
        """Return the transactions of which receipts can say something new."""
        has_moved = look.has_moved(head)
        by_status: dict[TransactionStatus, list[InFlight]] = defaultdict(list)
        for each in in_flight:
            by_status[each.transaction.status].append(each)
        sent = by_status[TransactionStatus.BROADCAST]
        mined = by_status[TransactionStatus.MINED]
        counts: Mapping[str, int] = {}
        if has_moved or any(look.is_new(each.transaction) for each in sent):
            counts = view.count({each.transaction.sender for each in sent})

        def is_used(transaction: Transaction) -> bool:
            return transaction.nonce < counts.get(transaction.sender, 0)

        asked = [each for each in sent if is_used(each.transaction)]
        if has_moved:
            old = [e.transaction for e in sent if not look.is_new(e.transaction)]
            with suppress(ChainError):  # They are sent again later in any case.
                if view.has_pending:
                    self._resend_dropped([t for t in old if not is_used(t)], view)
            deep = [each for each in mined if view.is_deep(each.transaction)]
            # All deep ones are requested: only the others need to be watched.
            has_others = len(deep) < len(mined)
            has_lost = has_others and self._is_lost(look, mined, view)
            asked += mined if has_lost else deep
        return asked

    def _is_lost(
        self, look: HeadLook, mined: Sequence[InFlight], view: "_ChainView"
    ) -> bool:
        """Return whether *mined* have lost their newest block, if that is asked now."""
        now = self.clock()
        last = self._watched.get(look.name)
        if last is not None and abs(now - last) < _WATCH_EVERY:
            return False
        with suppress(ChainError):  # The next head shows it again.
            if view.has_lost_newest(mined):
                return True
            self._watched[look.name] = now
        return False

    def _look_at(
        self,
        part: Sequence[InFlight],
        receipts: Mapping[str, Receipt],
        view: "_ChainView",
        seen: list[Change],
    ) -> Sequence[InFlight]:
        """Append the changes of *part* to *seen*; return what could be read of it."""
        read = self._with_payments(part)
        for each in read:
            change = self._look(each, receipts, view)
            if change is not None:
                seen.append(change)
        return read

    def _next_size(self, read: Sequence[InFlight]) -> int:
        """Return how many like *read* make a part; 0 if others have changed them."""
        payments = sum(len(each.transaction.payments) for each in read)
        return max(1, self.part * len(read) // max(len(read), payments)) if read else 0

    def _with_payments(self, asked: Sequence[InFlight]) -> Sequence[InFlight]:
        """
        Return *asked* with what they pay, which is read of no others.

        Those that another worker has changed meanwhile are left out.
        """
        found = self.store.with_payments([each.transaction for each in asked])
        report_strangers(self.alarm, found)
        whole = {(each.id, each.version): each for each in found}
        keys = [(each.transaction.id, each.transaction.version) for each in asked]
        return [
            replace(each, transaction=whole[key])
            for each, key in zip(asked, keys, strict=True)
            if key in whole
        ]

    def _resend_dropped(
        self, waiting: Sequence[Transaction], view: "_ChainView"
    ) -> None:
        """
        Let transactions that have left the nodes' pools be sent again now.

        A block has come without *waiting*, which were sent before.  A pool that is full
        drops the highest nonces of an address, so only the lowest of them fit again.
        """
        now = self.clock()
        senders = {each.sender for each in waiting}
        first = {each: view.pending_count(each) for each in sorted(senders)}
        dropped = [
            each
            for each in sorted(waiting, key=lambda each: each.nonce)
            if each.nonce >= first[each.sender]
            # What is due earlier may be claimed, or is sent again soon anyway.
            and CLAIM_TIME < each.due_at - now <= _SENT_LATELY
        ]
        changes = [Change(each, each.with_due_at(now)) for each in dropped]
        if changes:
            self.store.save_all(changes[:_MOST_RESENT])

    def _look(
        self, in_flight: InFlight, receipts: Mapping[str, Receipt], view: "_ChainView"
    ) -> Change | None:
        """Return the change that the chain shows; None if there is none."""
        mined = [receipts[each] for each in in_flight.tx_hashes if each in receipts]
        receipt = mined[0] if mined else None
        transaction, now = in_flight.transaction, self.clock()
        if transaction.status is TransactionStatus.BROADCAST:
            if receipt is None:
                return None  # A missing receipt is not evidence of anything.
            after = transaction.with_status(
                TransactionStatus.MINED,
                now,
                tx_hash=receipt.tx_hash,
                block_number=receipt.block.number,
                block_hash=receipt.block.hash,
            )
        elif view.has_lost_block(transaction, receipt):
            after = transaction.with_status(
                TransactionStatus.BROADCAST,
                now,
                due_at=now,
                block_number=None,
                block_hash=None,
            )
        elif receipt is not None and view.is_final(receipt):
            after = self._as_final(in_flight, receipt)
        else:
            return None
        return Change(transaction, after)

    def _save(
        self,
        network: str,
        changes: Sequence[Change],
        receipts: Mapping[str, Receipt],
        in_flight: Sequence[InFlight],
    ) -> int:
        """Save *changes*, which *receipts* show; return how many were possible."""
        signed = {each.transaction.id: len(each.tx_hashes) for each in in_flight}
        saved = 0
        errors = self.store.save_all(changes) if changes else []
        for change, error in zip(changes, errors, strict=True):
            before, after = change.transactions
            if error is None:
                saved += 1
                paid = {each.id: each for each in before.payments}
                count_moves(self.meter, paid, after)
                if not TRANSACTION_MOVES[after.status]:
                    self._count_fee(network, after, receipts)
                    self.meter.ended(network, signatures=signed[after.id])
                    self._count_batch(after)
                    log_ends(self._log, after)
            elif isinstance(error, RowNotAuthenticError):
                # What the chain shows cannot be compared with a changed row.
                self.alarm.report_row(error, *before.names.values())
            elif not isinstance(error, StaleStateError):
                raise error  # A stale one was saved by another process first.
        return saved

    def _count_batch(self, after: Transaction) -> None:
        if after.kind is not TransactionKind.BATCH:
            return
        unpaid = [
            each.failure_code or each.blocked_by or ""
            for each in after.payments
            if each.state is not PaymentState.CONFIRMED
        ]
        self.meter.ended_batch(after.network, len(after.payment_ids), unpaid)

    def _count_fee(
        self, network: str, after: Transaction, receipts: Mapping[str, Receipt]
    ) -> None:
        receipt = receipts.get(after.tx_hash or "")
        if receipt is not None and receipt.fee is not None:
            self.meter.paid_fee(network, receipt.fee)

    def _as_final(self, in_flight: InFlight, receipt: Receipt) -> Transaction:
        transaction, now = in_flight.transaction, self.clock()
        if transaction.kind is TransactionKind.BATCH:
            return self._end_batch(in_flight, receipt)
        is_filler = transaction.kind is TransactionKind.FILLER
        if receipt.tx_hash in in_flight.noops and not is_filler:
            # The failure code was saved when the no-op was signed.
            return transaction.with_status(TransactionStatus.FAILED, now)
        if not receipt.succeeded:
            objection = build_objection("reverted", "the token reverted on chain")
        elif transaction.kind in _WITHOUT_EVENTS or all(
            has_exact_transfer(
                receipt.logs,
                token=payment.token_address,
                sender=transaction.sender,
                recipient=payment.recipient,
                amount=payment.amount,
            )
            for payment in transaction.payments
        ):
            return transaction.with_status(TransactionStatus.CONFIRMED, now)
        else:
            objection = build_objection(
                "transfer-mismatch",
                "mined, but the token's Transfer event differs from the refund",
            )
        failed = TransactionStatus.FAILED
        return transaction.with_status(failed, now, failure=objection)

    def _end_batch(self, in_flight: InFlight, receipt: Receipt) -> Transaction:
        batch, now = in_flight.transaction, self.clock()
        if receipt.tx_hash in in_flight.noops:
            ends, status = queue_again(batch, now), TransactionStatus.FAILED
        elif receipt.succeeded:
            ends, status = find_ends(batch, receipt, now), TransactionStatus.CONFIRMED
        else:
            # ``pay`` reverts if the operator was removed meanwhile; no item was paid.
            ends = queue_again(batch, now, VaultLimitError.code)
            status = TransactionStatus.FAILED
        if any(each.blocked_by for each in ends.values()):
            problem = f"transaction {receipt.tx_hash} skipped refunds or reverted"
            report_limit(self.alarm, batch.payments[0], problem)
        return batch.with_status(status, now, ends=ends)


class _ChainView:
    """The chain's head, and its blocks by height, during one pass."""

    def __init__(
        self,
        chain: Chain,
        name: str,
        head: Block,
        block: Callable[[int], Block | None],
    ) -> None:
        self._client = chain.client
        self._confirmations = chain.network.confirmations
        self._head = head
        self._block = block
        self._final_height = cache(partial(_final_height, chain, name, head))
        self.has_pending = chain.network.pending != "none"

    def has_lost_block(self, mined: Transaction, receipt: Receipt | None) -> bool:
        """
        Return whether a reorganisation removed the block of *mined*.

        A missing receipt is not evidence while the block is still canonical.
        """
        recorded = Block(mined.block_number or 0, mined.block_hash or "")
        if receipt is not None:
            return receipt.block != recorded
        block = self._block(recorded.number)
        return block is not None and block != recorded

    def is_final(self, receipt: Receipt) -> bool:
        """Return whether *receipt* is deep enough, in a canonical block."""
        number = receipt.block.number
        return self._reaches(number) and self._block(number) == receipt.block

    def is_deep(self, mined: Transaction) -> bool:
        """Return whether the block of *mined* is deep enough."""
        return self._reaches(mined.block_number or 0)

    def has_lost_newest(self, mined: Sequence[InFlight]) -> bool:
        """Return whether the newest block of *mined* ones has left the chain."""
        found = (each.transaction for each in mined)
        newest = max(found, key=lambda each: each.block_number or 0)
        return self.has_lost_block(newest, None)

    def find_shared(self, asked: Sequence[InFlight], head: Block) -> Mapping[str, int]:
        """
        Return the heights of blocks that have many of *asked*, by transaction hash.

        Those that were just mined are probably in *head*.
        """
        members: dict[int, list[str]] = defaultdict(list)
        for each in asked:
            number = each.transaction.block_number
            members[head.number if number is None else number] += each.tx_hashes
        heights: dict[str, int] = {}
        for number, tx_hashes in members.items():
            if len(tx_hashes) >= _FEWEST_SHARED:
                block = head if number == head.number else self._find_block(number)
                count = block and block.transactions
                if count and count <= _MOST_OTHERS * len(tx_hashes):
                    heights |= dict.fromkeys(tx_hashes, number)
        return heights

    def _find_block(self, number: int) -> Block | None:
        with suppress(ChainError):  # It is requested again where it decides.
            return self._block(number)
        return None

    def count(self, senders: Collection[str]) -> Mapping[str, int]:
        """Return the next nonce of each of *senders* in the newest block."""
        return {each: self._client.transaction_count(each) for each in sorted(senders)}

    def pending_count(self, sender: str) -> int:
        """Return the next nonce of *sender* that no block and no pool has."""
        return self._client.pending_count(sender)

    def _reaches(self, number: int) -> bool:
        # The first comparison saves a request.
        has_depth = self._head.number - number + 1 >= self._confirmations
        return has_depth and number <= self._final_height()


def _final_height(chain: Chain, name: str, head: Block) -> int:
    """Return up to where blocks are final; -1, which is none, if that is unknown."""
    try:
        return final_height(chain.network, chain.client, head)
    except ChainError as e:
        # What is mined has to be seen also then: it makes room for other payments.
        log = structlog.get_logger("refunds")
        log.warning("tracking-failed", network=name, code=e.code)
        return -1


def _is_settled(
    asked: Sequence[InFlight], changes: Sequence[Change], view: _ChainView
) -> bool:
    """Return whether the nodes have said about *asked* what they can say now."""
    mined = TransactionStatus.MINED
    changed = {change.before.id for change in changes}
    waits = [each.transaction for each in asked if each.transaction.id not in changed]
    after = (change.transactions[1] for change in changes)
    waits += [each for each in after if each.status is mined]
    return not any(each.status is not mined or view.is_deep(each) for each in waits)
