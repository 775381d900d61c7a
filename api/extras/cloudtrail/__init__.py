"""``hotwallet audit reconcile`` compares the audit log with CloudTrail."""

from api.extension import Extra


EXTRA = Extra(
    name="cloudtrail",
    commands={
        "audit reconcile": (
            "api.extras.cloudtrail.commands:reconcile",
            "Compare audit records with CloudTrail, to find...",
        ),
    },
)
