"""Reads from a final receipt how each payment of a batch ended."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from signer.chain.vault import End, Reason, read_ends
from signer.errors import EncodingError, VaultLimitError
from signer.model.payment import PaymentState
from signer.model.transaction import PaymentEnd, Transaction
from signer.ports.chain import Receipt
from signer.refunds.payload import items_of
from signer.refunds.sweep_policy import build_objection


_AGAIN_AFTER = timedelta(seconds=30)

_LIMITS = frozenset({Reason.ABOVE_DAY_CAP, Reason.NOT_WITHIN_ITEM_CAP})

_REFUSALS: Mapping[Reason, str] = {
    Reason.NO_CODE: "the token has no code",
    Reason.REVERTED: "the token reverted on chain",
    Reason.NOT_TRUE: "the token answered with something else than true",
}


def queue_again(
    batch: Transaction, at: datetime, blocked_by: str | None = None
) -> Mapping[str, PaymentEnd]:
    """
    Return the ends of a batch that paid nothing: a no-op was mined, or it reverted.

    Each payment is decided about again, as any that is queued.
    """
    return dict.fromkeys(batch.payment_ids, _queued(at, blocked_by))


def find_ends(
    batch: Transaction, receipt: Receipt, at: datetime
) -> Mapping[str, PaymentEnd]:
    """
    Return how each payment of *batch* ended, by its id.

    *receipt* is final, and that of a call of ``pay`` that succeeded.
    """
    items = items_of(batch)
    try:
        ends = read_ends(
            receipt.logs,
            vault=str(batch.vault),
            token=batch.payments[0].token_address,
            items=items,
        )
    except EncodingError:
        # The code of the vault is known, so these are not its events.
        ends = tuple(End(None, has_transfer=False) for _ in items)
    return {
        payment.id: end_payment(each, at)
        for payment, each in zip(batch.payments, ends, strict=True)
    }


def end_payment(end: End, at: datetime) -> PaymentEnd:
    """Return how a payment ends, from the *end* of its item."""
    if end.has_transfer is not (end.reason is None):
        return _failed(
            "transfer-mismatch",
            "mined, but the token's Transfer event differs from the vault's",
        )
    if end.reason is None:
        return PaymentEnd(PaymentState.CONFIRMED)
    if end.reason in _LIMITS:
        return _queued(at, VaultLimitError.code)
    return _failed("reverted", _REFUSALS[end.reason])


def _queued(at: datetime, blocked_by: str | None) -> PaymentEnd:
    due_at = at if blocked_by is None else at + _AGAIN_AFTER
    return PaymentEnd(PaymentState.QUEUED, due_at=due_at, blocked_by=blocked_by)


def _failed(code: str, detail: str) -> PaymentEnd:
    return PaymentEnd(PaymentState.FAILED, build_objection(code, detail))
