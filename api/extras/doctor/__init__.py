"""``hotwallet doctor`` checks everything that a refund needs, and names each cure."""

from api.extension import Extra


EXTRA = Extra(
    name="doctor",
    commands={
        "doctor": (
            "api.extras.doctor.commands:doctor",
            "Check everything that a refund needs.",
        )
    },
)
