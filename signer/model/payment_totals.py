"""What rules of the policy know about earlier payments."""

from dataclasses import dataclass

from signer.model.spending_limits import Spent


@dataclass(frozen=True, slots=True)
class PaymentTotals:
    """
    What was reserved before one refund: by all tenants, and by its own.

    Both are of the refund's token; that of a call is coin.  ``is_first_payment`` means
    that no refund of this token to the same recipient has a nonce.
    """

    spent: Spent
    of_tenant: Spent
    is_first_payment: bool
