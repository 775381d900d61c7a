"""What the core knows of the place that the audit log is shipped to (an extra)."""

from datetime import timedelta


LATE = timedelta(seconds=60)
"""How old the oldest record that is not shipped may be before the alert sounds."""
