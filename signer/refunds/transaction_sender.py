"""
Sends the transfers and calls of clients that speak JSON-RPC: each becomes a refund.

A client that lost an answer repeats its request, and no client sends an idempotency
key.  So the same content of the same tenant within ``WINDOW_SECONDS`` is one refund.
It is found by a key of its content and its time window.

Two requests at the edge of a window have different keys.  The key of the window before
finds an earlier one.  If both arrive at the same moment, the reference decides: its
windows are shifted by half of their length, so that the two requests share it, and the
ledger accepts a reference once.
"""

import hashlib
import json
from collections.abc import Callable

from signer.amounts import format_units
from signer.chain.chain import COIN_DECIMALS
from signer.errors import ConflictError
from signer.model.audit_record import Actor
from signer.model.refund import COIN, Refund, RefundRequest
from signer.ports import Clock, Store
from signer.refunds.service import RefundService
from signer.refunds.token_transfer import ContractCall, Payment, TokenTransfer


WINDOW_SECONDS = 120
"""How long an equal transfer or call without an idempotency key is the same one."""

_PREFIX = "rpc-"
_DIGITS = 40


class TransactionSender:
    """Accepts transfers and calls as refunds; it signs and sends nothing."""

    def __init__(
        self,
        refunds: RefundService,
        store: Store,
        clock: Clock,
        answer: Callable[[Refund], str],
    ) -> None:
        """*answer* makes the response that is stored with a new refund."""
        self._refunds = refunds
        self._store = store
        self._clock = clock
        self._answer = answer

    def accept(
        self,
        payment: Payment,
        network: str,
        tenant: str,
        actor: Actor,
        idempotency_key: str | None = None,
    ) -> Refund:
        """
        Return the refund of *payment* on *network*: a new one, or the same one again.

        With *idempotency_key*, it is the same one if it has this key, at any time.

        Raises as ``RefundService.submit``.
        """

        def submit(key: str, reference: str) -> Refund:
            request = _build_request(payment, network, reference)
            accepted = self._refunds.submit(
                tenant=tenant,
                idempotency_key=key,
                request=request,
                actor=actor,
                answer=self._answer,
            )
            return accepted.refund

        if idempotency_key is not None:
            return submit(idempotency_key, _name("key", tenant, idempotency_key))
        now = self._clock().timestamp()
        window = int(now // WINDOW_SECONDS)
        shifted = int((now + WINDOW_SECONDS / 2) // WINDOW_SECONDS)
        content = (tenant, network, *_describe(payment))
        key, before, after = (
            _name(each, *content) for each in (window, window - 1, window + 1)
        )
        earlier = self._find(tenant, key, before)
        if earlier is not None:
            return earlier
        try:
            return submit(key, _name("reference", shifted, *content))
        except ConflictError:
            # Another process accepted the same transfer at the same moment.
            found = self._find(tenant, key, before, after)
            if found is None:
                raise
            return found

    def _find(self, tenant: str, *keys: str) -> Refund | None:
        """Return the refund with one of *keys* whose window is not over."""
        now = self._clock()
        for key in keys:
            found = self._store.find(tenant, key)
            if found is not None:
                age = abs((now - found.created_at).total_seconds())
                if age < WINDOW_SECONDS:
                    return found
        return None


def _describe(payment: Payment) -> tuple[str, ...]:
    """Return what identifies a repeated *payment*."""
    if isinstance(payment, TokenTransfer):
        return payment.token, payment.recipient, payment.amount
    # One more part than that of a transfer has.
    return COIN, payment.recipient, str(payment.value), payment.data.hex()


def _build_request(payment: Payment, network: str, reference: str) -> RefundRequest:
    if isinstance(payment, ContractCall):
        return RefundRequest(
            payment_session_id=reference,
            reference=reference,
            network=network,
            token=COIN,
            recipient=payment.recipient,
            amount=format_units(payment.value, COIN_DECIMALS),
            calldata=f"0x{payment.data.hex()}",
        )
    return RefundRequest(
        payment_session_id=reference,
        reference=reference,
        network=network,
        token=payment.token,
        recipient=payment.recipient,
        amount=payment.amount,
    )


def is_derived_key(key: str) -> bool:
    """Return whether *key* has the form of the keys that are made here."""
    return key.startswith(_PREFIX)


def _name(*parts: object) -> str:
    """Return a name that visible ASCII can hold, and that no other content has."""
    text = json.dumps(["hotwallet json-rpc", *parts])
    return _PREFIX + hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
