"""``hotwallet audit report``: what administrators changed in a period, as evidence."""

from api.extension import Extra


EXTRA = Extra(
    name="audit-report",
    commands={
        "audit report": (
            "api.extras.audit_report.commands:report",
            "Write what was changed in a period, as evidence...",
        ),
        "audit verify-report": (
            "api.extras.audit_report.commands:verify_report",
            "Compare the report of a period with the log.",
        ),
    },
)
