"""``hotwallet vault`` deploys a vault, reads its rules, and proposes changes."""

from api.extension import Extra


EXTRA = Extra(
    name="vault",
    commands={
        "vault": (
            "api.extras.vault.commands:vault",
            "Deploy a vault, show its rules, and propose changes.",
        ),
    },
)
