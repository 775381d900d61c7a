"""Compares what the database records as paid with the chain; changes nothing."""

from api.extension import Extra


EXTRA = Extra(
    name="books",
    commands={
        "reconcile": (
            "api.extras.books.commands:reconcile",
            "Compare refunds, fees and balances with the chain.",
        ),
        "refund export": (
            "api.extras.books.commands:export_file",
            "Write one line per refund that the chain settled, with its fee...",
        ),
    },
)
