"""The worker process: tracks what is broadcast and advances refunds that are due."""

import math
import time
from collections import deque
from collections.abc import (
    Callable,
    Collection,
    Container,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial

import structlog

from signer.approvals import VALID_FOR
from signer.errors import (
    ChainUnavailableError,
    HotWalletError,
    NotFoundError,
    StaleStateError,
)
from signer.keys.key_proofs import KeyProof
from signer.keys.keyring import KeyRing
from signer.keys.rotation import KeyRetirement
from signer.model.key import WATCHED, Key, KeyState, find_active_key
from signer.model.network_view import Look
from signer.model.refund import UNSENT, Refund, Status
from signer.model.transaction import CLAIM_TIME, Transaction
from signer.ports.refund_store import Topic
from signer.refunds.attempts import is_device_failure
from signer.refunds.automatic_stop import AutomaticStop
from signer.refunds.blocked_queues import BlockedQueues
from signer.refunds.confirmations import ConfirmationTracker
from signer.refunds.former_wallets import FormerWallets
from signer.refunds.head_looks import LONGEST_OWN_PAUSE
from signer.refunds.lifecycle import Lifecycle
from signer.refunds.saved_steps import Moving, Outcome, count_moves, report_strangers
from signer.refunds.wallet_reconciliation import WalletReconciler
from signer.refunds.windows import find_places


_SMALLEST_CLAIM, _FIRST_CLAIM, _LARGEST_CLAIM = 2, 32, 128
"""How many are claimed at once.  They share commits and requests."""

_LONGEST_SECONDS = 2.0
"""How long a batch may take: its claims expire after ``CLAIM_TIME``."""

_SLOWEST = 1.25
"""
How many times as long as the quickest recent batch one may take while tenants share.

A new refund of another tenant waits for the batch that has begun.
"""

_RECENT, _SMALL_EVERY = 64, 32
"""
How many batches are recent, and how often one of them is as small as can be.

Without small ones the quickest batch, and then each batch, would take ever longer.
"""

_SHARED_SECONDS = 60.0
"""How long after its last refund a tenant is expected to have another one."""

_ADVANCE_SECONDS = 1.0
"""How long refunds are claimed before those that were sent are tracked again."""

_SHARING = frozenset({Status.QUEUED, Status.SIGNED})
"""Statuses in which what was claimed shares its requests."""

_CANCELLATIONS = 100

_CANCEL_SECONDS = 0.2
"""How long requests to cancel wait for payments that are due again and again."""

_DECIDED = 100
"""How many refunds whose approval was decided are taken in one pass."""

_PASSES_PER_WALLET_CHECK = 5

_WALLETS_EVERY = timedelta(seconds=30)
"""How often one of the workers compares nonces with the chain.  A payment compares them
too, and while a wallet is paused each check does."""

_IDLE_AFTER, _IDLE_WALLETS_EVERY = timedelta(minutes=10), timedelta(minutes=2)
"""How often, once this worker has not moved anything for so long."""

_WALLETS = "wallets"

Failed = Sequence[tuple[Moving, HotWalletError]]
"""What has a step that failed, each with its error."""

_FULL_SECONDS = 0.2
"""How often to ask for receipts while refunds may wait for them, if a block is due."""

_MAX_WAIT_SECONDS = 1.0
"""The longest wait for changes: a worker sees only between waits that it must stop."""


class Worker:
    """
    Tracks broadcast refunds, checks wallets, and advances each refund that is due.

    Only workers do so.  Any number of them may run, on any number of hosts.  One worker
    at a time claims a refund, and a worker whose claim expired cannot save its change.
    New refunds need no claim, since their first change is a compare-and-set.  Claims
    keep workers from trying the same, so without them a worker takes many refunds if it
    is alone, and otherwise a single one.
    """

    def __init__(  # noqa: PLR0913  A worker has many parts.
        self,
        lifecycle: Lifecycle,
        confirmation_tracker: ConfirmationTracker,
        *,
        ring: KeyRing,
        retirement: KeyRetirement,
        automatic_stop: AutomaticStop,
        key_proof: KeyProof,
        heartbeat: Callable[[], object] = lambda: None,
        patience: Callable[[], timedelta] = timedelta,
        is_alone: Callable[[], bool] = lambda: False,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Call *heartbeat* after each pass that was completed.

        The worker has the ledger, chains, clock, alerts and meter of its tracker.
        *patience* returns for how long what is due is left to other workers, and
        *is_alone* whether there are none.
        """
        self._lifecycle = lifecycle
        self._confirmation_tracker = tracker = confirmation_tracker
        self._store = store = tracker.store
        self._clock = clock = tracker.clock
        self._chains = chains = tracker.chains
        self._alarm = tracker.alarm
        self._meter = tracker.meter
        self._wallets = WalletReconciler(store, clock)
        self._former = FormerWallets(store, self._wallets, clock)
        self._queues = BlockedQueues(store, clock)
        self._ring = ring
        self._retirement = retirement
        self._automatic_stop = automatic_stop
        self._key_proof = key_proof
        self._heartbeat = heartbeat
        self._patience = patience
        self._is_stopping: Callable[[], bool] = lambda: False
        self._is_alone = is_alone
        self._is_waiting = False  # Another worker takes what is due.
        self._timer = timer
        self._passes = 0
        self._wallets_at: datetime | None = None  # When this worker checked them.
        self._moved_at = clock()  # When it took a step, or began.
        self._unclaimed: Collection[str] = set()  # Refunds last taken without a claim.
        # A vault pays one claim with one signature.
        batch = max((each.network.per_batch for each in chains.values()), default=1)
        self._per_batch = batch
        self._largest_claim = batch if batch > 1 else _LARGEST_CLAIM
        self._claim_size = max(_FIRST_CLAIM, batch)
        self._recent: deque[float] = deque(maxlen=_RECENT)  # Seconds of batches.
        self._shared = 0  # Batches that were taken while tenants shared the worker.
        self._tenants: dict[str, float] = {}  # When each had a refund last.
        self._has_more = False  # Refunds are due that were not claimed yet.
        self._is_full = False  # A wallet may send no more before a receipt.
        self._receipts_due = -math.inf  # When to look for receipts if one is full.
        self._pay_due = -math.inf  # When to pay during a look for receipts.
        self._cancel_due = -math.inf  # When to look also if payments were due.
        self._cancelling: set[str] = set()  # The ids tried in this round.
        self._is_round_over = True  # Each request was tried: a pass begins a new one.
        self._log = structlog.get_logger("worker")

    def run(self, is_stopping: Callable[[], bool], interval: float) -> None:
        """
        Run a pass, and then one every *interval* seconds until *is_stopping* is true.

        Between two passes, refunds are advanced as soon as they are accepted, unless
        they are left to another worker.
        """
        self._is_stopping = is_stopping
        with self._store.watch(Topic.ACCEPTED) as watch:
            while True:
                self._attempt(self.work)
                until = self._timer() + interval
                while not is_stopping() and (left := until - self._timer()) > 0:
                    longest = _FULL_SECONDS if self._is_full else _MAX_WAIT_SECONDS
                    if self._has_more or (
                        watch.wait(min(left, longest)) and not self._is_waiting
                    ):
                        self._attempt(self.advance)
                    # Also if accepted refunds wake this worker again and again.
                    if self._is_full and self._timer() >= self._receipts_due:
                        self._attempt(self._free_places)
                if is_stopping():
                    return

    def work(self) -> int:
        """
        Run one pass, and return how many steps were taken; raises ``StoreError``.

        Its cost grows with the number of open refunds, not with that of all refunds.
        """
        if self._passes % _PASSES_PER_WALLET_CHECK == 0:
            self._check_wallets()
        self._passes += 1
        if self._is_round_over:
            self._cancelling.clear()
        if not self._store.has_open():  # One query instead of those below.
            self._is_full = False
            self._confirmation_tracker.rest()
            self._check_signing()
            self._is_waiting = bool(self._patience())
            return 0
        steps = self._track() + self.advance()
        now = self._clock()
        decided = self._store.decided_refunds(now, now - VALID_FOR, _DECIDED)
        steps += self._advance(decided, {})
        if steps:
            self._moved_at = now
        return steps

    def _free_places(self) -> int:
        """Look for receipts, and pay refunds that waited for them; as ``advance``."""
        steps = self._track()
        return steps + self.advance() if steps else 0

    def _track(self) -> int:
        """Look for receipts; return how many transactions changed."""
        self._receipts_due = self._timer() + _FULL_SECONDS
        return self._confirmation_tracker.track(partial(self._pay_between, {}))

    def _pay_between(self, failing: dict[str, HotWalletError]) -> None:
        """
        Advance refunds that are due, once, between the parts of a look for receipts.

        Payments take half of the time, so that what was sent is tracked as fast.  What
        is *failing*, as in ``_advance``, is not tried again during the look.
        """
        started = self._timer()
        if started >= self._pay_due and not self._is_stopping():
            self._attempt(partial(self._advance_due, failing, seconds=0.0))
            now = self._timer()
            self._pay_due = now + (now - started)

    def advance(self) -> int:
        """
        Advance refunds that are due, and return the steps; raises ``StoreError``.

        Requests to cancel come last, so that they delay no payment.
        """
        failing: dict[str, HotWalletError] = {}
        steps = self._advance_due(failing)
        # What was due woke the worker, unless requests have waited for long.
        if steps and self._timer() < self._cancel_due:
            return steps
        self._cancel_due = self._timer() + _CANCEL_SECONDS
        return steps + self._advance(self._find_cancellations(), failing)

    def _advance_due(
        self, failing: dict[str, HotWalletError], seconds: float = _ADVANCE_SECONDS
    ) -> int:
        """Advance refunds that are due, or cancel them; *failing* as ``_advance``."""
        steps = 0
        for taken in self._take(seconds):
            # No payment waits for those that take several requests each.
            for group in _partition(taken):
                steps += self._advance(group, failing)
            self._cancelling.update(
                each.id
                for each in taken
                if isinstance(each, Refund) and each.cancel_requested_at
            )
        return steps

    def _take(self, seconds: float) -> Iterator[Sequence[Moving]]:
        """Yield what is due, many at once, for *seconds* or until there is no more."""
        until = self._timer() + seconds
        while True:
            has_more = self._has_more
            self._has_more = False  # Also if this fails: the next try must wait.
            self._check_signing()
            patience = self._patience()
            self._is_waiting = bool(patience)
            now, started = self._clock(), self._timer()
            claimed = self._claim(now, patience, is_first=not has_more)
            # A claim that is not full may have left refunds of tenants with many.
            self._has_more = bool(claimed) and not _is_lone(claimed)
            report_strangers(self._alarm, claimed)
            yield claimed
            if claimed:
                self._adapt_claims(claimed, self._timer() - started)
            if not self._has_more or self._timer() >= until:
                return

    def _check_signing(self) -> None:
        """Prove the active key, and stop where a rule is broken."""
        self._key_proof()
        self._automatic_stop.check()

    def _claim(
        self, now: datetime, patience: timedelta, *, is_first: bool
    ) -> Sequence[Moving]:
        """Return what has been due for *patience*, perhaps without a claim."""
        networks = (chain.network for chain in self._chains.values())
        places = find_places(self._store, networks, self._paying_address())
        self._is_full = bool(places.full)
        claim = partial(
            self._store.claim,
            now - patience,
            now + CLAIM_TIME,
            self._claim_size,
            places=places,
        )
        most = self._claim_size if self._is_alone() else int(is_first)
        claimed = claim(unclaimed=most)
        last, new = self._unclaimed, {e.id for e in claimed if e.version == 0}
        self._unclaimed = new or last
        # Claim what is still due after a step, which may wait for long.
        return claimed if new.isdisjoint(last) else claim()

    def _adapt_claims(self, batch: Sequence[Moving], seconds: float) -> None:
        """Claim next what fits in the time, after a *batch* that took *seconds*."""
        now = self._timer()
        tenants = (payment.tenant for each in batch for payment in each.payments)
        self._tenants |= dict.fromkeys(tenants, now)
        self._tenants = {
            tenant: at
            for tenant, at in self._tenants.items()
            if now - at <= _SHARED_SECONDS
        }
        self._recent.append(seconds)
        fixed, longest, growth = 0.0, _LONGEST_SECONDS, 2.0
        if len(self._tenants) > 1:
            self._shared += 1
            fixed = min(self._recent)  # What even one refund takes.
            longest, growth = min(longest, fixed * _SLOWEST), _SLOWEST
        size = math.ceil(len(batch) * growth)
        if seconds > fixed:
            fits = (longest - fixed) / (seconds - fixed)
            size = min(size, int(len(batch) * fits))
        smallest = self._per_batch
        if seconds > 0:  # On networks without a vault, each needs a signature.
            smallest = min(smallest, int(len(batch) * _LONGEST_SECONDS / seconds))
        smallest = max(_SMALLEST_CLAIM, smallest)
        if fixed and self._shared % _SMALL_EVERY == 0:
            size = smallest
        self._claim_size = max(smallest, min(size, self._largest_claim))

    def _find_cancellations(self) -> Sequence[Refund]:
        """Return refunds to cancel, each once in a round: it may have to wait."""
        asked = self._store.cancellation_requests(_CANCELLATIONS)
        found = self._untried(asked)
        if not found and len(asked) == _CANCELLATIONS:
            last = max(self._cancelling)  # Ids rise with time: read on after it.
            found = asked = self._store.cancellation_requests(_CANCELLATIONS, last)
        self._cancelling.update(refund.id for refund in found)
        self._is_round_over = len(asked) < _CANCELLATIONS
        return found

    def _untried(self, asked: Sequence[Refund]) -> Sequence[Refund]:
        return [refund for refund in asked if refund.id not in self._cancelling]

    def _attempt(self, work: Callable[[], int]) -> None:
        try:
            work()
        except HotWalletError as e:
            self._log.warning("pass-failed", code=e.code)
        else:
            self._heartbeat()

    def _check_wallets(self) -> None:
        try:
            ring = self._ring.current_keys()
            if not self._begin_wallet_check(ring):
                return
            self._former.forget_paused()
        except HotWalletError as e:
            self._log.warning("wallet-check-failed", network=None, code=e.code)
            self._alarm.report_row(e, "keys")
            return
        keys = [key for key in ring if key.state in WATCHED or key.epoch]
        settled = [key.address for key in keys if self._reconcile_key(key)]
        self._retirement.retire(settled)

    def _begin_wallet_check(self, ring: Collection[Key]) -> bool:
        """
        Return whether to ask the nodes: no worker did lately, or a wallet waits.

        This worker asks from time to time in any case: no MAC covers the looks.
        """
        last, now = self._store.last_look(_WALLETS), self._clock()
        own = self._wallets_at
        is_own = own is None or abs(now - own) >= LONGEST_OWN_PAUSE
        is_idle = abs(now - self._moved_at) >= _IDLE_AFTER
        every = _IDLE_WALLETS_EVERY if is_idle else _WALLETS_EVERY
        is_recent = last is not None and last.at <= now < last.at + every
        watched = {key.address for key in ring if key.state in WATCHED}
        waits = any(key.state is KeyState.DRAINING for key in ring) or any(
            address in watched for _, address in self._store.paused_wallets()
        )
        if is_own:
            self._wallets_at = now
        elif is_recent and not waits:
            return False
        return self._store.save_look(_WALLETS, last, Look(now)) or is_own

    def _reconcile_key(self, key: Key) -> bool:
        """Reconcile the wallets of *key*; return whether it may be retired."""
        settled = key.state is KeyState.DRAINING
        for name, chain in self._chains.items():
            try:
                if key.state is KeyState.DRAINING:
                    settled &= self._wallets.reconcile_former(chain, key.address)
                elif key.state not in WATCHED:
                    self._former.refresh(chain, key)
                else:
                    self._wallets.reconcile(chain, key.address)
            except NotFoundError:
                pass  # The wallet has not paid on this network yet.
            except HotWalletError as e:
                settled = False
                self._log.warning("wallet-check-failed", network=name, code=e.code)
                self._alarm.report_row(e, "wallets")
        return settled

    def _advance(
        self, moving: Sequence[Moving], failing: dict[str, HotWalletError]
    ) -> int:
        """
        Take steps of what was claimed until each waits; return how many.

        What needs a network or key address in *failing* is postponed untried.
        One is added if it fails for one, and works for no other in the same step.
        """
        steps = 0
        while moving:
            failed = self._find_untried(moving, failing)
            untried = {each.id for each, _ in failed}
            tried = [each for each in moving if each.id not in untried]
            outcomes = self._lifecycle.step_all(tried)
            moved = [
                (before, after)
                for before, after in zip(tried, outcomes, strict=True)
                if not isinstance(after, Exception)
            ]
            steps += len(moved)
            errors = self._report(tried, outcomes)
            # The refunds of a batch have become the same transaction.
            afters = {after.id: after for _, after in moved}
            works = {need for each in afters.values() for need in self._needs(each)}
            for each, error in errors:
                causes = set(self._find_cause(each, error)) - works
                failing |= dict.fromkeys(causes, error)
            delayed = [*failed, *errors]
            problems = self._lifecycle.postpone(delayed)
            counted = self._queues.postpone(errors, afters.values(), failing)
            self._log_delayed(delayed, problems, counted)
            changed = {a.id: a for b, a in moved if b.status != a.status}
            paid = {each.id: each for before, _ in moved for each in before.payments}
            for each in changed.values():
                count_moves(self._meter, paid, each)
            moving = [a for a in changed.values() if Status(a.status) in UNSENT]
        return steps

    def _report(self, tried: Sequence[Moving], outcomes: Sequence[Outcome]) -> Failed:
        """Report the errors of a step, and return those after which one waits."""
        waiting = []
        for each, outcome in zip(tried, outcomes, strict=True):
            if isinstance(outcome, Refund | Transaction | StaleStateError):
                continue  # Another process has what is stale.
            if isinstance(outcome, HotWalletError):
                self._alarm.report_row(outcome, *each.names.values())
                waiting.append((each, outcome))
            else:
                bug = type(outcome).__name__
                self._log.error("refund-stuck", **each.names, error=bug)
        return waiting

    def _find_untried(
        self, moving: Sequence[Moving], failing: Mapping[str, HotWalletError]
    ) -> Failed:
        return [
            (each, error)
            for each in moving
            if (error := self._find_failing(each, failing)) is not None
        ]

    def _find_failing(
        self, moving: Moving, failing: Mapping[str, HotWalletError]
    ) -> HotWalletError | None:
        needed = self._needs(moving) if failing else ()
        return next((failing[each] for each in needed if each in failing), None)

    def _needs(self, moving: Moving) -> Sequence[str]:
        """Return the network and the address that *moving* needs."""
        return moving.network, self._sender(moving)

    def _find_cause(self, moving: Moving, error: HotWalletError) -> Iterable[str]:
        """Return the network or address that fails for others too."""
        if isinstance(error, ChainUnavailableError):
            return (moving.network,)
        return (self._sender(moving),) if is_device_failure(error) else ()

    def _sender(self, moving: Moving) -> str:
        """Return the address that pays *moving*; an empty text if it is unknown."""
        if isinstance(moving, Transaction):
            return moving.sender
        return moving.bound_sender or self._paying_address()

    def _paying_address(self) -> str:
        """Return the active key's address; an empty text if it is unknown."""
        with suppress(HotWalletError):
            active = find_active_key(self._ring.cached_keys())
            return "" if active is None else active.address
        return ""

    def _log_delayed(
        self,
        delayed: Failed,
        problems: Sequence[HotWalletError | None],
        counted: Container[str],
    ) -> None:
        """Log what is *delayed*, unless the line of its queue has *counted* it."""
        for each, error in delayed:
            self._meter.delayed(each, error.code)
            if each.id in counted:
                continue
            self._log.warning(
                "refund-delayed",
                **each.names,
                status=str(each.status),
                code=error.code,
                attempts=each.attempts + 1,
            )
        for (each, _), problem in zip(delayed, problems, strict=True):
            if problem is not None:
                # Other workers can claim it when the claim expires.
                self._log.warning("refund-held", **each.names, code=problem.code)


def _is_lone(claimed: Sequence[Moving]) -> bool:
    return len(claimed) == 1 and claimed[0].version == 0


def _partition(taken: Sequence[Moving]) -> Iterable[Sequence[Moving]]:
    """Return what was claimed and shares its requests, and then the others."""
    shares = {each.id for each in taken if Status(each.status) in _SHARING}
    shared = [each for each in taken if each.id in shares]
    return shared, [each for each in taken if each.id not in shares]
