"""
``hotwallet attack`` tries what an attacker would, against a deployment on a test chain.

It knows the deployment only by its URL and two tenants' tokens, as a stranger does.
"""

from api.extension import Extra


EXTRA = Extra(
    name="staging-attacks",
    commands={
        "attack": (
            "api.extras.staging_attacks.commands:attack",
            "Attack a staging deployment, and report what succeeds.",
        )
    },
)
