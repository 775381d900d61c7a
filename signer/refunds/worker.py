"""The worker process: tracks what is broadcast and advances refunds that are due."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import structlog

from signer.chain.chain import Chain
from signer.errors import (
    BackendError,
    ChainUnavailableError,
    HotWalletError,
    KeyNotFoundError,
    KeyUnusableError,
    NotFoundError,
    StaleStateError,
    StoreError,
    TenantBlockedError,
)
from signer.keys.keyring import KeyRing
from signer.keys.proof import KeyProof
from signer.keys.retirement import KeyRetirement
from signer.model.key import WATCHED, Key, KeyState, find_active_key
from signer.model.refund import HOLD, UNSENT, Refund
from signer.ports import Clock, Store, Topic
from signer.refunds.automatic_stop import AutomaticStop
from signer.refunds.confirmations import ConfirmationTracker
from signer.refunds.former_wallets import FormerWallets
from signer.refunds.lifecycle import Lifecycle
from signer.refunds.row_alarm import RowAlarm
from signer.refunds.wallet_reconciliation import WalletReconciler


# Few at once, so that they are processed before their claim expires.
_CLAIM_SIZE = 10

# Limits a pass, so that tracking is not delayed by a long queue.
_MAX_CLAIMS = 10

_CANCELLATIONS = 100

_PASSES_PER_WALLET_CHECK = 5

_MAX_WAIT_SECONDS = 1.0
"""The longest wait for changes: a worker sees only between waits that it must stop."""


class Worker:
    """
    Tracks broadcast refunds, checks wallets, and advances each refund that is due.

    Only workers do so.  Any number of them may run, on any number of hosts.  One worker
    at a time claims a refund, and a worker whose claim expired cannot save its change.
    The only refund that is due needs no claim: its first change is a compare-and-set.
    """

    def __init__(  # noqa: PLR0913  A worker has many parts.
        self,
        store: Store,
        lifecycle: Lifecycle,
        *,
        confirmation_tracker: ConfirmationTracker,
        ring: KeyRing,
        retirement: KeyRetirement,
        automatic_stop: AutomaticStop,
        key_proof: KeyProof,
        chains: Mapping[str, Chain],
        clock: Clock,
        alarm: RowAlarm,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._lifecycle = lifecycle
        self._confirmation_tracker = confirmation_tracker
        self._wallets = WalletReconciler(store, clock)
        self._former = FormerWallets(store, self._wallets, clock)
        self._ring = ring
        self._retirement = retirement
        self._automatic_stop = automatic_stop
        self._key_proof = key_proof
        self._chains = chains
        self._clock = clock
        self._alarm = alarm
        self._timer = timer
        self._passes = 0
        self._unclaimed_id: str | None = None  # The last refund taken without a claim.
        self._has_more = False  # Refunds are due that were not claimed yet.
        self._cancelling: set[str] = set()  # The ids tried in this pass.
        self._log = structlog.get_logger("worker")

    def run(self, is_stopping: Callable[[], bool], interval: float) -> None:
        """
        Run a pass, and then one every *interval* seconds until *is_stopping* is true.

        Between two passes, refunds are advanced as soon as they are accepted.
        """
        with self._store.watch(Topic.ACCEPTED) as watch:
            while True:
                self._attempt(self.work)
                until = self._timer() + interval
                while not is_stopping() and (left := until - self._timer()) > 0:
                    if self._has_more or watch.wait(min(left, _MAX_WAIT_SECONDS)):
                        self._attempt(self.advance)
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
        self._cancelling.clear()
        return self._confirmation_tracker.track() + self.advance()

    def advance(self) -> int:
        """Advance refunds that are due, and return the steps; raises ``StoreError``."""
        failing: dict[str, HotWalletError] = {}
        steps = 0
        for taken in self._take():
            steps += sum(self._advance(refund, failing) for refund in taken)
            self._cancelling.update(r.id for r in taken if r.cancel_requested_at)
        # Last, so that they delay no payment; the steps above cancel as well.
        asked = self._find_cancellations()
        return steps + sum(self._advance(refund, failing) for refund in asked)

    def _take(self) -> Iterator[Sequence[Refund]]:
        """Yield refunds that are due, a few at once, until there are no more."""
        for _ in range(_MAX_CLAIMS):
            self._has_more = False  # Also if this fails: the next try must wait.
            self._key_proof()
            self._automatic_stop.check()
            now = self._clock()
            only = self._store.find_untouched(now)
            if only is not None and only.id != self._unclaimed_id:
                self._unclaimed_id = only.id  # If it is still due after this, claim it.
                yield [only]
                return
            claimed = self._store.claim(now, now + HOLD, _CLAIM_SIZE)
            self._has_more = len(claimed) == _CLAIM_SIZE
            yield claimed
            if not self._has_more:
                return

    def _find_cancellations(self) -> Sequence[Refund]:
        """Return refunds to cancel, each once in a pass: it may have to wait."""
        asked = self._store.cancellation_requests(_CANCELLATIONS)
        found = self._untried(asked)
        if not found and len(asked) == _CANCELLATIONS:
            last = max(self._cancelling)  # Ids rise with time: read on after it.
            found = self._untried(self._store.cancellation_requests(len(asked), last))
        self._cancelling.update(refund.id for refund in found)
        return found

    def _untried(self, asked: Sequence[Refund]) -> Sequence[Refund]:
        return [refund for refund in asked if refund.id not in self._cancelling]

    def _attempt(self, work: Callable[[], int]) -> None:
        try:
            work()
        except HotWalletError as e:
            self._log.warning("pass-failed", code=e.code)

    def _check_wallets(self) -> None:
        try:
            ring = self._ring.refresh()
        except HotWalletError as e:
            self._log.warning("wallet-check-failed", network=None, code=e.code)
            self._alarm.report(e, "keys")
            return
        keys = [key for key in ring if key.state in WATCHED or key.epoch]
        settled = [key.address for key in keys if self._reconcile_key(key)]
        self._retirement.retire(settled)

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
        return settled

    def _advance(self, refund: Refund, failing: dict[str, HotWalletError]) -> int:
        """
        Take steps of a claimed *refund* until it waits; return how many.

        Refunds of a network, key address or tenant in *failing* are postponed untried.
        """
        steps = 0
        try:
            for needed in (refund.network, self._sender(refund), _owner(refund)):
                if needed in failing:
                    self._postpone(refund, failing[needed])
                    return 0
            while True:
                before, refund = refund, self._lifecycle.step(refund)
                steps += 1
                if refund.status is before.status or refund.status not in UNSENT:
                    break
        except StaleStateError:
            pass  # Another process has it.
        except HotWalletError as e:
            self._alarm.report(e, refund.id)
            failing |= dict.fromkeys(self._find_cause(refund, e), e)
            self._postpone(refund, e)
        except Exception as e:  # noqa: BLE001 - one refund's bug must not stop the others.
            self._log.error("refund-stuck", refund_id=refund.id, error=type(e).__name__)
        return steps

    def _find_cause(self, refund: Refund, error: HotWalletError) -> Iterable[str]:
        """Return the network, address or tenant that fails for other refunds too."""
        if isinstance(error, ChainUnavailableError):
            return (refund.network,)
        if isinstance(error, TenantBlockedError):
            return (_owner(refund),)  # It may have a long queue.
        # A missing or unusable key does not mean that the device fails.  Nor does a
        # failing device of one key mean that of another: they may be in two regions.
        is_key_error = isinstance(error, KeyNotFoundError | KeyUnusableError)
        is_device_error = isinstance(error, BackendError) and not is_key_error
        return (self._sender(refund),) if is_device_error else ()

    def _sender(self, refund: Refund) -> str:
        """Return the address that pays *refund*, from the cached key ring."""
        address = refund.sender or refund.swept_from
        if address is not None:
            return address
        active = find_active_key(self._ring.cached_keys())
        return "" if active is None else active.address

    def _postpone(self, refund: Refund, error: HotWalletError) -> None:
        self._log.warning(
            "refund-delayed",
            refund_id=refund.id,
            status=str(refund.status),
            code=error.code,
            attempts=refund.attempts + 1,
        )
        try:
            self._lifecycle.postpone(refund, error)
        except StoreError as e:
            # Other workers can claim it when the claim expires.
            self._log.warning("refund-held", refund_id=refund.id, code=e.code)


def _owner(refund: Refund) -> str:
    """Return a text that is no name of a network and no address: they have no space."""
    return f"tenant {refund.tenant}"
