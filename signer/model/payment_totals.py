"""What rules of the policy know about earlier payments."""

from dataclasses import dataclass

from signer.model.spending_limits import Spent


@dataclass(frozen=True, slots=True)
class PaymentTotals:
    """
    What was reserved before one refund: by all tenants, and by its own.

    Both are of the refund's token; that of a call is coin.  ``is_first_payment`` means
    that no refund of this token to the same recipient has a nonce.

    ``first_paid_amount`` is that of the first of them that was confirmed, and
    ``first_paid_hours`` how many whole clock hours ago that was; None without one.
    """

    spent: Spent
    of_tenant: Spent
    is_first_payment: bool
    first_paid_hours: int | None = None
    first_paid_amount: int | None = None
