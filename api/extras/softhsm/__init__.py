"""``hotwallet softhsm`` and ``hsm``, for PKCS#11 tokens; their code is ``softhsm``."""

from api.extension import Extra


EXTRA = Extra(
    name="softhsm",
    commands={
        "softhsm": (
            "softhsm.cli:softhsm",
            "Manage this project's SoftHSM token (development).",
        ),
        "hsm": ("softhsm.cli:hsm", "Prove a PKCS#11 device for production."),
    },
)
