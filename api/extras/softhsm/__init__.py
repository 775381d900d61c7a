"""``hotwallet softhsm`` manages the token for development; its code is ``softhsm``."""

from api.extension import Extra


EXTRA = Extra(
    name="softhsm",
    commands={
        "softhsm": (
            "softhsm.cli:softhsm",
            "Manage this project's SoftHSM token (development).",
        ),
    },
)
