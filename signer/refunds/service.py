"""What the gateway can ask for: submit a refund, look at one, list them."""

import time
from collections.abc import Callable, Mapping

import structlog

from signer.errors import (
    HotWalletError,
    NotFoundError,
    RequestError,
    StaleStateError,
    StoreError,
)
from signer.networks import Network
from signer.ports import Clock, Store
from signer.refunds.lifecycle import Actor, Lifecycle
from signer.refunds.policy import admit
from signer.refunds.refund import Page, Refund, RefundRequest, Status, new_refund_id


_PATIENCE_SECONDS = 5.0

_UNSENT = frozenset({Status.QUEUED, Status.RESERVED, Status.SIGNED})


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
        wallet: str,
        clock: Clock,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._networks = networks
        self._lifecycle = lifecycle
        self._wallet = wallet
        self._clock = clock
        self._timer = timer
        self._log = structlog.get_logger("refunds")

    def submit(
        self,
        *,
        client: str,
        idempotency_key: str,
        request: RefundRequest,
        request_id: str,
    ) -> tuple[Refund, bool]:
        """
        Accept *request* once, and try to send it.

        Returns:
            The refund, and whether this call created it.

        Raises:
            InvalidInputError, PolicyViolationError: Nothing was stored.
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
            return earlier, False
        refund, created = self._store.accept(admitted)
        if created:
            refund = self._send(refund, Actor(client, request_id))
        return refund, created

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
            wallet=self._wallet,
            now=now,
        )

    def _send(self, refund: Refund, actor: Actor) -> Refund:
        deadline = self._timer() + _PATIENCE_SECONDS
        try:
            while refund.status in _UNSENT and self._timer() < deadline:
                refund = self._lifecycle.step(refund, actor)
        except StaleStateError:
            return self._reread(refund)
        except HotWalletError as e:
            self._log.warning(
                "refund-delayed",
                refund_id=refund.id,
                status=str(refund.status),
                code=e.code,
            )
        return refund

    def _reread(self, refund: Refund) -> Refund:
        """Return what a worker made of *refund*; what is known, if that fails."""
        try:
            return self._store.get(refund.id) or refund
        except StoreError:
            return refund
