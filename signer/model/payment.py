"""The payment: why it is made, its states, and the legal moves between them."""

from signer.model.sealed_fields import TextEnum


class PaymentPurpose(TextEnum):
    """
    Why a row of the ledger is paid.

    A tenant asks for a refund, or for a call, whose calldata its client chose.  A sweep
    moves what a former key's address holds to the active key's, and counts against no
    limit.
    """

    REFUND = "refund"
    CALL = "call"
    SWEEP = "sweep"


class PaymentState(TextEnum):
    """The state of what is owed.  While it is assigned, its transaction moves."""

    AWAITING_APPROVAL = "awaiting-approval"
    QUEUED = "queued"
    ASSIGNED = "assigned"
    CONFIRMED = "confirmed"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    FAILED = "failed"


# A queued refund waits for an approval when the amount that needs none was lowered.  An
# assigned one is queued again when its key is revoked before it signed anything.
PAYMENT_MOVES: dict[PaymentState, frozenset[PaymentState]] = {
    PaymentState.AWAITING_APPROVAL: frozenset(
        {
            PaymentState.QUEUED,
            PaymentState.ASSIGNED,
            PaymentState.REFUSED,
            PaymentState.CANCELLED,
        }
    ),
    PaymentState.QUEUED: frozenset(
        {
            PaymentState.AWAITING_APPROVAL,
            PaymentState.ASSIGNED,
            PaymentState.REFUSED,
            PaymentState.CANCELLED,
        }
    ),
    PaymentState.ASSIGNED: frozenset(
        {PaymentState.QUEUED, PaymentState.CONFIRMED, PaymentState.FAILED}
    ),
    PaymentState.CONFIRMED: frozenset(),
    PaymentState.REFUSED: frozenset(),
    PaymentState.CANCELLED: frozenset(),
    PaymentState.FAILED: frozenset(),
}

OPEN_STATES = frozenset(state for state in PaymentState if PAYMENT_MOVES[state])
