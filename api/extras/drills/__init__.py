"""
``hotwallet drill`` plays an emergency on a staging service, and leaves evidence.

``runbooks.toml`` has the steps.  ``python -m dev.reference_pages`` writes them into the
guides, so a guide and its drill cannot differ.  A data file takes less code than a page
that is parsed: no parser, no page in the wheel, and a form that the reader checks.
"""

from api.extension import Extra


EXTRA = Extra(
    name="drills",
    commands={
        "drill": (
            "api.extras.drills.commands:drill",
            "Play an emergency on a staging service, and leave evidence.",
        )
    },
)
