"""``hotwallet refund submit`` requests the refunds of a CSV file over HTTP."""

from api.extension import Extra


EXTRA = Extra(
    name="batch_files",
    commands={
        "refund submit": (
            "api.extras.batch_files.commands:submit_file",
            "Request the refunds of the CSV file FILE, in batches.",
        ),
    },
)
