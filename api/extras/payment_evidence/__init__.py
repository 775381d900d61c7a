"""``hotwallet audit payment``: the evidence of one payment, which verifies offline."""

from api.extension import Extra


EXTRA = Extra(
    name="payment-evidence",
    commands={
        "audit payment": (
            "api.extras.payment_evidence.commands:payment",
            "Write the evidence of one payment, which...",
        ),
        "audit verify-payment": (
            "api.extras.payment_evidence.commands:verify_payment",
            "Verify the evidence of one payment without...",
        ),
    },
)
