"""What the gateway can ask for: submit a refund, wait for it, cancel it, list them."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta

import structlog

from signer.config.networks import Network
from signer.errors import (
    HotWalletError,
    InProgressError,
    NotCancellableError,
    NotFoundError,
    RequestError,
    StaleStateError,
    StoreError,
)
from signer.model.audit_record import Actor
from signer.model.refund import (
    UNSENT,
    Page,
    Refund,
    RefundRequest,
    Status,
    new_refund_id,
)
from signer.ports import Clock, Store
from signer.refunds.lifecycle import Lifecycle
from signer.refunds.policy import admit


LONGEST_WAIT = 20.0
"""The most seconds that a request may ask to be kept waiting."""

ANSWERED_WITHIN = timedelta(seconds=10)
"""After this long, a request without an answer has probably died; who asks again
is answered, and should the first one live, it gives the same answer."""

_PATIENCE_SECONDS = 5.0

_LOOK_EVERY_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Submission:
    """
    A refund, whether this request created it, and what was answered if not.

    ``answer`` is None where none was kept yet: it is this request's to give.
    """

    refund: Refund
    created: bool
    answer: str | None = None


class RefundService:
    """
    Accepts refunds and sends them at once, as far as that goes.

    From the moment that ``submit`` returns, the refund is a row that the worker
    will bring to its end: whatever fails behind the acceptance delays the refund
    and is no error of the request.
    """

    def __init__(
        self,
        store: Store,
        networks: Mapping[str, Network],
        lifecycle: Lifecycle,
        *,
        wallets: Callable[[], Collection[str]],
        clock: Clock,
        timer: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._networks = networks
        self._lifecycle = lifecycle
        self._wallets = wallets
        self._clock = clock
        self._timer = timer
        self._sleep = sleep
        self._log = structlog.get_logger("refunds")

    def submit(
        self,
        *,
        client: str,
        idempotency_key: str,
        request: RefundRequest,
        request_id: str,
        token_id: str | None = None,
    ) -> Submission:
        """
        Accept *request* once, and try to send it.

        Raises:
            InvalidInputError, PolicyViolationError: Nothing was stored.
            InProgressError: The first request with this key has no answer yet.
            IdempotencyMismatchError: *client* used the key for something else.
            ConflictError: The reference belongs to another key's refund.
            StoreUnavailableError: It is unknown whether the refund was accepted;
                the same key finds out.
        """
        try:
            admitted = self._admit(client, idempotency_key, request)
        except RequestError:
            # What was accepted once stays accepted, whatever the rules are now.
            earlier = self._store.find(client, idempotency_key)
            if earlier is None or earlier.fingerprint != request.fingerprint():
                raise
            return self._replay(earlier)
        refund, created = self._store.accept(admitted)
        if not created:
            return self._replay(refund)
        actor = Actor(client, request_id, token_id)
        return Submission(self._send(refund, actor), created=True)

    def answered(self, refund: Refund, body: str) -> str:
        """
        Keep *body* as the answer to the request that made *refund*, for ever.

        Returns:
            What is to be answered: *body*, unless another answer was first.
        """
        return self._store.remember_answer(refund.id, body, self._clock())

    def wait(self, refund: Refund, seconds: float) -> Refund:
        """Return *refund* when it is final, or as it is after *seconds*."""
        deadline = self._timer() + min(seconds, LONGEST_WAIT)
        while not refund.status.is_final and self._timer() < deadline:
            self._sleep(_LOOK_EVERY_SECONDS)
            refund = self._reread(refund)
        return refund

    def cancel(self, client: str, refund_id: str) -> Refund:
        """
        Call back a refund of *client* that has no nonce yet; again is fine.

        Raises:
            NotFoundError: There is none, or it is somebody else's.
            NotCancellableError: It is on its way, or at another end.
            StaleStateError: It keeps moving; ask again.
            ChainError: Whether it was paid before is not known at the moment.
        """
        refund = self.get(client, refund_id)
        if refund.status is not Status.QUEUED:
            return self._cancelled(refund)
        return self._cancelled(self._lifecycle.cancel(refund))

    def _cancelled(self, refund: Refund) -> Refund:
        if refund.status is not Status.CANCELLED:
            raise NotCancellableError(
                f"the refund is {refund.status}: only a queued one can be cancelled"
            )
        return refund

    def get(self, client: str, refund_id: str) -> Refund:
        """
        Return one of *client*'s refunds.

        Raises:
            NotFoundError: There is none, or it is somebody else's.
        """
        refund = self._store.get(refund_id)
        if refund is None or refund.client != client:
            raise NotFoundError("there is no such refund")
        return refund

    def list(
        self,
        client: str,
        *,
        payment_session_id: str | None = None,
        status: Status | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Return *client*'s refunds, newest first, from behind *cursor*."""
        return self._store.list(
            client,
            payment_session_id=payment_session_id,
            status=status,
            limit=limit,
            cursor=cursor,
        )

    def _admit(self, client: str, key: str, request: RefundRequest) -> Refund:
        now = self._clock()
        return admit(
            request,
            refund_id=new_refund_id(now),
            client=client,
            idempotency_key=key,
            networks=self._networks,
            wallets=self._wallets(),
            now=now,
        )

    def _replay(self, refund: Refund) -> Submission:
        answer = self._store.answer(refund.id)
        # Clocks differ between hosts, and are set: far off in either direction is over.
        age = abs(self._clock() - refund.created_at)
        if answer is None and age < ANSWERED_WITHIN:
            raise InProgressError(
                "the first request with this key is still being answered"
            )
        return Submission(refund, created=False, answer=answer)

    def _send(self, refund: Refund, actor: Actor) -> Refund:
        deadline = self._timer() + _PATIENCE_SECONDS
        try:
            while refund.status in UNSENT and self._timer() < deadline:
                before, refund = refund, self._lifecycle.step(refund, actor)
                if refund.status is before.status:
                    return refund  # It waits for the chain.
        except StaleStateError:
            return self._reread(refund)
        except HotWalletError as e:
            return self._leave(refund, e)
        return self._leave(refund) if refund.status in UNSENT else refund

    def _leave(self, refund: Refund, trouble: HotWalletError | None = None) -> Refund:
        """Leave *refund* to the workers."""
        if trouble is not None:
            self._log.warning(
                "refund-delayed",
                refund_id=refund.id,
                status=str(refund.status),
                code=trouble.code,
            )
        try:
            return self._lifecycle.postpone(refund, trouble)
        except StoreError:
            return self._reread(refund)

    def _reread(self, refund: Refund) -> Refund:
        """Return *refund* as the store has it now, or as it was if that fails."""
        try:
            return self._store.get(refund.id) or refund
        except StoreError:
            return refund
