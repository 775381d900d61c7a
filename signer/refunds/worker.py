"""Brings every accepted refund to its end, however often somebody dies."""

from collections.abc import Callable, Iterable, Mapping

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
)
from signer.keys.keyring import KeyRing
from signer.keys.retirement import KeyRetirement
from signer.model.audit_record import Actor
from signer.model.key import WATCHED, Key, KeyState, find_active_key
from signer.model.refund import HOLD, UNSENT, Refund
from signer.ports import Clock, Store
from signer.refunds.confirmations import ConfirmationTracker
from signer.refunds.former_wallets import FormerWallets
from signer.refunds.lifecycle import Lifecycle
from signer.refunds.wallet_reconciliation import WalletReconciler


ACTOR = Actor("worker")

# Few at once, so that they are done before the hold on them is over.
_CLAIM = 10

# What was sent must not wait until everything else was.
_MOST_CLAIMS = 10

_WATCH_EVERY = 5


class Worker:
    """
    Watches what was sent, and takes each refund that is due as far as it goes.

    Any number of workers may run, on any number of hosts: each refund is claimed by
    one of them at a time, and whoever comes back too late finds its claim gone.
    """

    def __init__(
        self,
        store: Store,
        lifecycle: Lifecycle,
        *,
        tracker: ConfirmationTracker,
        wallets: WalletReconciler,
        ring: KeyRing,
        keeper: KeyRetirement,
        chains: Mapping[str, Chain],
        clock: Clock,
    ) -> None:
        self._store = store
        self._lifecycle = lifecycle
        self._tracker = tracker
        self._wallets = wallets
        self._former = FormerWallets(store, wallets, clock)
        self._ring = ring
        self._keeper = keeper
        self._chains = chains
        self._clock = clock
        self._passes = 0
        self._log = structlog.get_logger("worker")

    def run(self, wait: Callable[[], bool]) -> None:
        """Work until *wait*, called between passes, answers that it is time to stop."""
        stop = False
        while not stop:
            try:
                self.work()
            except HotWalletError as e:
                self._log.warning("pass-failed", code=e.code)
            stop = wait()

    def work(self) -> int:
        """
        Do one pass, and return how many steps were taken.

        Its cost grows with the refunds that are open, not with those that ever were.
        """
        if self._passes % _WATCH_EVERY == 0:
            self._watch()
        self._passes += 1
        steps = self._tracker.track()
        down: dict[str, HotWalletError] = {}
        for _ in range(_MOST_CLAIMS):
            now = self._clock()
            claimed = self._store.claim(now, now + HOLD, _CLAIM)
            steps += sum(self._advance(refund, down) for refund in claimed)
            if len(claimed) < _CLAIM:
                break
        return steps

    def _watch(self) -> None:
        try:
            ring = self._ring.refresh()
        except HotWalletError as e:
            self._log.warning("watch-failed", network=None, code=e.code)
            return
        watched = [key for key in ring if key.state in WATCHED or key.epoch]
        settled = [key.address for key in watched if self._is_settled(key)]
        self._keeper.retire(settled)

    def _is_settled(self, key: Key) -> bool:
        """Watch the wallets of *key*; say whether nothing of a former one is open."""
        settled = key.state is KeyState.DRAINING
        for name, chain in self._chains.items():
            try:
                if key.state is KeyState.DRAINING:
                    settled &= self._wallets.is_settled(chain, key.address)
                elif key.state not in WATCHED:
                    self._former.look(chain, key)
                else:
                    self._wallets.watch(chain, key.address)
            except NotFoundError:
                pass  # Nothing to watch yet.
            except HotWalletError as e:
                settled = False
                self._log.warning("watch-failed", network=name, code=e.code)
        return settled

    def _advance(self, refund: Refund, down: dict[str, HotWalletError]) -> int:
        """
        Take a claimed *refund* as far as it goes, and return the number of steps.

        *down* is what already did not work in this pass, by network and by key.
        """
        steps = 0
        try:
            for needed in (refund.network, self._payer(refund)):
                if needed in down:
                    self._postpone(refund, down[needed])
                    return 0
            while True:
                before, refund = refund, self._lifecycle.step(refund, ACTOR)
                steps += 1
                if refund.status is before.status or refund.status not in UNSENT:
                    break
        except StaleStateError:
            pass  # Somebody else is at it.
        except HotWalletError as e:
            down |= dict.fromkeys(self._concerned(refund, e), e)
            self._postpone(refund, e)
        except Exception as e:  # noqa: BLE001 - nor is a bug that one of them meets.
            self._log.error("refund-stuck", refund_id=refund.id, error=type(e).__name__)
        return steps

    def _concerned(self, refund: Refund, trouble: HotWalletError) -> Iterable[str]:
        """Return the network or the key that would be the same *trouble* to others."""
        if isinstance(trouble, ChainUnavailableError):
            return (refund.network,)
        # A key that is gone says nothing of the device.  Nor does one key's device of
        # another's: they may be in two regions, or one of them no more ours to ask.
        ours = isinstance(trouble, KeyNotFoundError | KeyUnusableError)
        device = isinstance(trouble, BackendError) and not ours
        return (self._payer(refund),) if device else ()

    def _payer(self, refund: Refund) -> str:
        """Return the address that pays *refund*, as the ring stood a moment ago."""
        address = refund.sender or refund.swept_from
        if address is not None:
            return address
        active = find_active_key(self._ring.cached_keys())
        return "" if active is None else active.address

    def _postpone(self, refund: Refund, trouble: HotWalletError) -> None:
        self._log.warning(
            "refund-delayed",
            refund_id=refund.id,
            status=str(refund.status),
            code=trouble.code,
            attempts=refund.attempts + 1,
        )
        try:
            self._lifecycle.postpone(refund, trouble)
        except StoreError as e:
            # The claim expires by itself.
            self._log.warning("refund-held", refund_id=refund.id, code=e.code)
