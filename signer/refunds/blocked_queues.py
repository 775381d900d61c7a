"""
Postpones a whole queue, if what blocks one of its refunds blocks all of them.

Thousands of refunds may wait for a limit, a paused wallet, a stopped network or token,
or a blocked tenant.  If a worker tried each of them again and again, it would have no
time for the refunds that can be paid.
"""

from collections import defaultdict
from collections.abc import Collection, Container, Iterable
from datetime import datetime, timedelta

import structlog

from signer.errors import (
    ChainUnavailableError,
    FeesAboveRecentError,
    HotWalletError,
    InsufficientFundsError,
    LimitReachedError,
    PolicyViolationError,
    SigningStoppedError,
    TenantBlockedError,
    TokenStoppedError,
    VaultLimitError,
    WalletPausedError,
)
from signer.model.payment import PaymentPurpose
from signer.model.refund import Queue, Refund, Status
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.refunds.saved_steps import Moving, delay_after


_OF_NETWORK = WalletPausedError | SigningStoppedError
_OF_TOKEN = (
    LimitReachedError
    | PolicyViolationError
    | InsufficientFundsError
    | FeesAboveRecentError
    | VaultLimitError
)


_LOGGED_EVERY = timedelta(minutes=1)
"""How long the line of a queue counts: parts of it are tried every few seconds."""

_Blocked = tuple[Queue, str]
"""A queue, and the code of what blocks it."""


class BlockedQueues:
    """Postpones the queued refunds that are due and cannot be paid now."""

    def __init__(self, store: Ledger, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._logged: dict[_Blocked, datetime] = {}
        self._log = structlog.get_logger("worker")

    def postpone(
        self,
        failed: Iterable[tuple[Moving, HotWalletError]],
        paid: Iterable[Moving],
        failing: Container[str],
    ) -> Collection[str]:
        """
        Postpone the queues of the refunds that *failed*, each with its error.

        Return the ids of the refunds that need no line, since their queue has one.

        Nodes may answer for one refund and not for another, so an error of the nodes
        counts only for the networks in *failing*.  A limit or a rule may bar one refund
        of a token and not another, so it counts only if none of the token was *paid* in
        the same step.
        """
        works = {_queue_of_token(each) for moved in paid for each in moved.payments}
        blocked: dict[_Blocked, list[Refund]] = defaultdict(list)
        for moving, error in failed:
            if isinstance(moving, Refund):
                queue = _find_queue(moving, error, failing)
                if queue is not None:
                    blocked[queue, error.code].append(moving)
        counted: set[str] = set()
        for (queue, code), members in blocked.items():
            count = len(members)
            if queue not in works:
                count += self._postpone(queue, code, members[0].attempts)
            if self._has_line((queue, code), count):
                counted.update(refund.id for refund in members)
        return counted

    def _has_line(self, blocked: _Blocked, count: int) -> bool:
        """Log *count* refunds, unless it is one; return whether there is a line."""
        now = self._clock()
        self._logged = {
            each: at
            for each, at in self._logged.items()
            if timedelta(0) <= now - at < _LOGGED_EVERY
        }
        if blocked in self._logged:
            return True
        if count == 1:
            return False
        queue, code = blocked
        self._log.warning("queue-delayed", **queue.names, code=code, refunds=count)
        self._logged[blocked] = now
        return True

    def _postpone(self, queue: Queue, code: str, attempts: int) -> int:
        """
        Postpone the due refunds of *queue* that were not tried; return how many.

        They are due before those that failed: if only these are barred, they are paid.
        """
        now = self._clock()
        until = now + delay_after(attempts) / 2
        return self._store.postpone_queue(queue, now=now, until=until, code=code)


def _queue_of_token(refund: Refund) -> Queue:
    return Queue(network=refund.network, tenant=refund.tenant, token=refund.token)


def _find_queue(
    refund: Refund, error: HotWalletError, failing: Container[str]
) -> Queue | None:
    """Return the queue that *error* blocks; None if it blocks only *refund*."""
    if refund.status is not Status.QUEUED or refund.bound_sender is not None:
        return None
    if isinstance(error, TenantBlockedError):
        return Queue(tenant=refund.tenant)
    if isinstance(error, TokenStoppedError):
        # Of calls, one may name the contract and another not.
        is_call = refund.purpose is PaymentPurpose.CALL
        return None if is_call else Queue(network=refund.network, token=refund.token)
    if isinstance(error, _OF_TOKEN):
        return _queue_of_token(refund)
    is_down = isinstance(error, ChainUnavailableError) and refund.network in failing
    if is_down or isinstance(error, _OF_NETWORK):
        return Queue(network=refund.network)
    return None
