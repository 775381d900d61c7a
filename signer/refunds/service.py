"""The gateway's requests: submit a refund, wait for it, cancel it, list refunds."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from signer.audit.log import AuditAction, AuditLog
from signer.config.networks import Network
from signer.config.tenants import TenantRegistry
from signer.errors import (
    HotWalletError,
    InProgressError,
    NotCancellableError,
    NotFoundError,
    RequestError,
    StaleStateError,
    StoreError,
)
from signer.model.audit_record import Actor, Operation, Record
from signer.model.refund import (
    UNSENT,
    Page,
    Refund,
    RefundRequest,
    Status,
    new_refund_id,
)
from signer.model.signed_request import NO_SIGNATURE, SignedRequest
from signer.ports import Clock, Store
from signer.refunds.lifecycle import Lifecycle
from signer.refunds.nonces import require_unblocked
from signer.refunds.policy import admit
from signer.refunds.signed_requests import SignedRequests
from signer.refunds.transaction_signer import build_purpose


MAX_WAIT_SECONDS = 20.0
"""The longest time that a request may wait for its refund, in seconds."""

ANSWER_TIMEOUT = timedelta(seconds=10)
"""How old a request without a response must be before a repeated one gets the response.

The first request has probably died by then; if not, it returns the same response."""

_SEND_SECONDS = 5.0

_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Submission:
    """
    A refund, and whether this request created it.

    ``answer`` is the response body of an earlier request; None: this one makes it.
    """

    refund: Refund
    created: bool
    answer: str | None = None


class RefundService:
    """
    Accepts refunds, and tries to broadcast them at once.

    An accepted refund is a row that the workers bring to its final status.  A failure
    after acceptance delays the refund and is not an error of the request.
    """

    def __init__(  # noqa: PLR0913  The last two are for tests.
        self,
        store: Store,
        networks: Mapping[str, Network],
        lifecycle: Lifecycle,
        *,
        audit: AuditLog,
        wallets: Callable[[], Collection[str]],
        clock: Clock,
        tenants: TenantRegistry,
        timer: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._networks = networks
        self._lifecycle = lifecycle
        self._audit = audit
        self._wallets = wallets
        self._clock = clock
        self._tenants = tenants
        self._signed_requests = SignedRequests(store, tenants)
        self._timer = timer
        self._sleep = sleep
        self._log = structlog.get_logger("refunds")

    def submit(
        self,
        *,
        tenant: str,
        idempotency_key: str,
        request: RefundRequest,
        actor: Actor,
        signed: SignedRequest = NO_SIGNATURE,
    ) -> Submission:
        """
        Accept *request* of *tenant* once, and try to broadcast it for *actor*.

        *signed* is the request as it arrived, with its signature.

        Raises:
            TenantBlockedError: An operator blocked the tenant.
            RequestSignatureError: The tenant signs its requests, and not this one.
            InvalidInputError, PolicyViolationError: The request is not allowed; nothing
                was stored.
            InProgressError: The first request with this key has no response yet.
            IdempotencyMismatchError: *tenant* used the key for another request.
            ConflictError: The reference belongs to a refund with another key.
            OpenRefundsLimitError: *tenant* has too many open refunds.
            StoreUnavailableError: It is unknown whether the refund was accepted; a
                request with the same key finds out.
        """
        require_unblocked(self._store, tenant)
        now, limits = self._clock(), self._tenants.limits(tenant)
        proof = self._signed_requests.verify(tenant, idempotency_key, signed, now)
        try:
            admitted = admit(
                request,
                refund_id=new_refund_id(now),
                tenant=tenant,
                idempotency_key=idempotency_key,
                networks=self._networks,
                wallets=self._wallets(),
                now=now,
                limits=limits,
            )
        except RequestError:
            # An accepted refund stays accepted when the rules change.
            for owner in self._tenants.owners(tenant):
                earlier = self._store.find(owner, idempotency_key)
                if earlier and earlier.fingerprint == request.fingerprint():
                    return self._replay(earlier)
            raise
        owners = self._tenants.owners(tenant)
        # With one owner, acceptance finds an earlier refund by itself.
        if len(owners) > 1:
            earlier = self._store.find_earlier(admitted, owners)
            if earlier is not None:
                return self._replay(earlier)
        record = self._draft(AuditAction.REFUND_ACCEPT, admitted, actor)
        refund, created = self._store.accept(
            admitted, record, max_open=limits.max_open_refunds, signed=proof
        )
        if not created:
            return self._replay(refund)
        self._audit.log(record)
        return Submission(self._send(refund, actor), created=True)

    def remember_answer(self, refund: Refund, body: str) -> str:
        """Store *body* as the response for *refund*; as ``Store.remember_answer``."""
        return self._store.remember_answer(refund.id, body, self._clock())

    def wait(self, refund: Refund, seconds: float) -> Refund:
        """Return *refund* when it is final, or after *seconds*."""
        deadline = self._timer() + min(seconds, MAX_WAIT_SECONDS)
        while not refund.status.is_final and self._timer() < deadline:
            self._sleep(_POLL_SECONDS)
            refund = self._reread(refund)
        return refund

    def cancel(self, tenant: str, refund_id: str, actor: Actor) -> Refund:
        """
        Cancel a refund of *tenant* that has no nonce yet; repeating it is safe.

        Raises:
            TenantBlockedError: An operator blocked the tenant.
            NotFoundError: *tenant* has no such refund.
            NotCancellableError: The refund has a nonce, or another final status.
            StaleStateError: Another process changed the refund: try again.
            ChainError: It cannot be determined now whether the refund is paid.
        """
        require_unblocked(self._store, tenant)
        refund = self.get(tenant, refund_id)
        if refund.status is Status.QUEUED:
            record = self._draft(AuditAction.REFUND_CANCEL, refund, actor)
            refund = self._lifecycle.cancel(refund, record)
            if refund.status is Status.CANCELLED:
                self._audit.log(record)
        if refund.status is not Status.CANCELLED:
            raise NotCancellableError(
                f"the refund is {refund.status}: only a queued one can be cancelled"
            )
        return refund

    def get(self, tenant: str, refund_id: str) -> Refund:
        """Return a refund; raises ``NotFoundError`` if *tenant* has no such refund."""
        refund = self._store.get(refund_id)
        if refund is None or refund.tenant not in self._tenants.owners(tenant):
            raise NotFoundError("there is no such refund")
        return refund

    def list(
        self,
        tenant: str,
        *,
        payment_session_id: str | None = None,
        status: Status | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Return *tenant*'s refunds, newest first, starting after *cursor*."""
        return self._store.list(
            tenant,
            payment_session_id=payment_session_id,
            status=status,
            limit=limit,
            cursor=cursor,
        )

    def _draft(self, action: AuditAction, refund: Refund, actor: Actor) -> Record:
        paid = dict[str, Any](build_purpose(refund, actor).details)
        paid |= {"tenant": refund.tenant, "network": refund.network}
        return self._audit.result(
            action, Operation.REFUND, actor, refund_id=refund.id, **paid
        )

    def _replay(self, refund: Refund) -> Submission:
        answer = self._store.answer(refund.id)
        # The absolute value, since hosts' clocks differ and may be set back.
        age = abs(self._clock() - refund.created_at)
        if answer is None and age < ANSWER_TIMEOUT:
            raise InProgressError(
                "the first request with this key has no response yet: try again"
            )
        return Submission(refund, created=False, answer=answer)

    def _send(self, refund: Refund, actor: Actor) -> Refund:
        deadline = self._timer() + _SEND_SECONDS
        try:
            while refund.status in UNSENT and self._timer() < deadline:
                before, refund = refund, self._lifecycle.step(refund, actor)
                if refund.status is before.status:
                    return refund  # It waits for the chain.
        except StaleStateError:
            return self._reread(refund)
        except HotWalletError as e:
            return self._postpone(refund, e)
        return self._postpone(refund) if refund.status in UNSENT else refund

    def _postpone(self, refund: Refund, error: HotWalletError | None = None) -> Refund:
        if error is not None:
            self._log.warning(
                "refund-delayed",
                refund_id=refund.id,
                status=str(refund.status),
                code=error.code,
            )
        try:
            return self._lifecycle.postpone(refund, error)
        except StoreError:
            return self._reread(refund)

    def _reread(self, refund: Refund) -> Refund:
        """Return *refund* as stored; unchanged if the store does not answer."""
        try:
            return self._store.get(refund.id) or refund
        except StoreError:
            return refund
