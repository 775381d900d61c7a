"""``hotwallet restore`` gives a database that was restored what it has lost."""

from api.extension import Extra


EXTRA = Extra(
    name="restore",
    commands={
        "restore": (
            "api.extras.restore.commands:restore",
            "Complete a ledger that was restored from a backup.",
        ),
    },
)
