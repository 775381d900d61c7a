"""What rules of the policy know about earlier payments."""

from dataclasses import dataclass

from signer.model.spending_limits import Spent


@dataclass(frozen=True, slots=True)
class PaymentTotals:
    """
    What was reserved before one refund, for all tenants together.

    ``spent`` is of the refund's token.  ``is_first_payment`` means that no refund of
    this token to the same recipient has a nonce.
    """

    spent: Spent
    is_first_payment: bool
