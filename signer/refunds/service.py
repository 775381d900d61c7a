"""The gateway's requests: submit a refund, wait for it, cancel it, list refunds."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from signer.audit.actions import AuditAction
from signer.errors import (
    HotWalletError,
    NotCancellableError,
    NotFoundError,
    PolicyViolationError,
    StoreError,
    require,
)
from signer.model.acceptance import NO_SIGNATURE, SignedRequest
from signer.model.audit_record import Actor, Operation
from signer.model.decision import Verdict
from signer.model.refund import UNRESERVED, Refund, RefundRequest, Status
from signer.refunds.acceptance import (
    AcceptedRefund,
    RefundAcceptor,
    SubmissionResult,
    SubmittedRequest,
)
from signer.refunds.hold_admin import require_tenant_unblocked
from signer.refunds.payment_policy import path_of
from signer.refunds.refund_waits import (
    BROADCAST_TRIED,
    DEQUEUED,
    FINAL,
    RefundWaits,
    WaitCondition,
)
from signer.refunds.transaction_signer import describe_refund


MAX_WAIT_SECONDS = 20.0
"""The longest time that a request may wait for its refund, in seconds."""

WORKER_SECONDS = 3.0
"""How long a request waits for a worker to send or cancel its refund, in seconds."""

SILENCE_SECONDS = 10.0
"""How long requests do not wait for workers once none took a refund, in seconds."""


def require_cancellable(refund: Refund) -> None:
    """Raise ``NotCancellableError`` if *refund* has a nonce, or ended otherwise."""
    if refund.status not in UNRESERVED | {Status.CANCELLED}:
        raise NotCancellableError(
            f"the refund is {refund.status}: only one that has no nonce yet can be"
            " cancelled"
        )


class RefundService:
    """
    Accepts refunds; it has no key, and sends nothing.

    An accepted refund is a row that the workers bring to its final status.  A failure
    after acceptance delays the refund and is not an error of the request.
    """

    def __init__(
        self, acceptor: RefundAcceptor, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._acceptor = acceptor
        self._store = acceptor.store
        self._audit = acceptor.audit
        self._clock = acceptor.clock
        self._tenants = acceptor.tenants
        self._meter = acceptor.meter
        self._timer = timer
        self._waits = RefundWaits(self._store, timer)
        self._silent_until = float("-inf")  # Until then, no worker seems to run.

    def submit(
        self,
        *,
        tenant: str,
        idempotency_key: str,
        request: RefundRequest,
        actor: Actor,
        signed: SignedRequest = NO_SIGNATURE,
        trace: str | None = None,
    ) -> AcceptedRefund:
        """
        Accept *request* of *tenant* once; *actor* is who asks.

        *signed* is the request as it arrived, with its signature.  *trace* is the
        request's ``traceparent``.

        Raises:
            TenantBlockedError: An operator blocked the tenant.
            RequestSignatureError: The tenant signs its requests, and not this one.
            InvalidInputError, PolicyViolationError: The request is not allowed; nothing
                was stored.
            IdempotencyMismatchError: *tenant* used the key for another request.
            ConflictError: The reference belongs to a refund with another key.
            OpenRefundsLimitError: *tenant* has too many open refunds.
            LimitReachedError: The gas of *tenant* in this hour is used up.
            StoreUnavailableError: It is unknown whether the refund was accepted; a
                request with the same key finds out.
        """
        (outcome,) = self.submit_all(
            tenant=tenant,
            requests=[SubmittedRequest(idempotency_key, request, signed)],
            actor=actor,
            trace=trace,
        )
        return require(outcome)

    def submit_all(
        self,
        *,
        tenant: str,
        requests: Sequence[SubmittedRequest],
        actor: Actor,
        trace: str | None = None,
    ) -> Sequence[SubmissionResult]:
        """
        Accept each of *requests* once; as ``submit``, in one commit if possible.

        Returns:
            What became of each request, in their order: an error is one that
            ``submit`` raises, and does not affect the other requests.

        Raises:
            TenantBlockedError: An operator blocked the tenant; nothing was stored.
            StoreError: As ``submit``, for all of the requests that are allowed.
        """
        started = self._timer()
        try:
            results = self._acceptor.accept_all(tenant, requests, actor)
        except HotWalletError as e:
            self._meter.refused(e)
            raise
        for each, result in zip(requests, results, strict=True):
            if isinstance(result, HotWalletError):
                self._meter.refused(result)
                if isinstance(result, PolicyViolationError):
                    path = path_of(each.request)
                    self._meter.decided(path, Verdict.REFUSE, result.rule)
            elif result.created:
                seconds = self._timer() - started
                self._meter.accepted(result.refund, seconds, trace)
        return results

    def await_broadcast(
        self, refund: Refund, seconds: float = WORKER_SECONDS
    ) -> Refund:
        """
        Return *refund* once a worker has tried to send it, or after *seconds*.

        It returns at once if no worker took a refund during the last
        ``SILENCE_SECONDS``: waiting requests would only take threads from others.
        """
        return self._await_worker(refund, BROADCAST_TRIED, seconds)

    def wait(self, refund: Refund, seconds: float) -> Refund:
        """Return *refund* when it is final, or after *seconds*."""
        seconds = min(seconds, MAX_WAIT_SECONDS)
        found = self._waits.wait(refund, seconds, FINAL)
        return self._reread(refund) if found is None else found

    def request_cancellation(self, tenant: str, refund_id: str, actor: Actor) -> Refund:
        """
        Request that a refund of *tenant* without a nonce is cancelled.

        Repeating it is safe.

        A worker cancels it: it first asks the chain whether the refund is paid already.
        The request stays in force until then.

        Raises:
            TenantBlockedError: An operator blocked the tenant.
            NotFoundError: *tenant* has no such refund.
        """
        require_tenant_unblocked(self._store, tenant)
        refund = self.get(tenant, refund_id)
        if refund.status in UNRESERVED:
            record = self._audit.request(
                AuditAction.REFUND_CANCEL,
                Operation.REFUND,
                actor,
                **describe_refund(refund),
            )
            at = self._clock()
            if self._store.request_cancellation(refund, at, record):
                self._audit.log(record)
                return replace(refund, cancel_requested_at=at)
        return refund

    def await_cancellation(self, refund: Refund) -> Refund:
        """Return *refund* when it is cancelled; waits as ``await_broadcast``."""
        return self._await_worker(refund, DEQUEUED)

    def get(self, tenant: str, refund_id: str) -> Refund:
        """Return a refund; raises ``NotFoundError`` if *tenant* has no such refund."""
        refund = self._store.get(refund_id)
        if refund is None or refund.tenant not in self._tenants.owners(tenant):
            raise NotFoundError("there is no such refund")
        return refund

    def _await_worker(
        self, refund: Refund, condition: WaitCondition, seconds: float = WORKER_SECONDS
    ) -> Refund:
        if condition.is_met(refund) or self._timer() < self._silent_until:
            return refund
        found = self._waits.wait(refund, seconds, condition)
        if found is None:
            found = self._reread(refund)
            if found.revision == refund.revision:
                self._silent_until = self._timer() + SILENCE_SECONDS
        return found

    def _reread(self, refund: Refund) -> Refund:
        """Return *refund* as stored; unchanged if the store does not answer."""
        try:
            return self._store.get(refund.id) or refund
        except StoreError:
            return refund
