"""The limits of the configuration files with which processes may start."""

from dataclasses import dataclass, field
from datetime import datetime


THE_ROW = 1
"""The id of the only row."""


@dataclass(frozen=True, slots=True)
class AcceptedLimits:
    """
    The limits that the last worker started with: a higher one needs an approval.

    ``document`` is what ``signer.config.file_limits.dump_limits`` writes.  ``version``
    counts the changes: each is a compare-and-set on it.  ``is_authentic`` is not
    stored: it is False if the MAC of the stored row is not valid.  No other field of
    such a row can be trusted.
    """

    id: int
    document: str
    accepted_at: datetime
    version: int = 0
    # ``signer.row_macs`` of all fields above; the store makes it.
    mac: str | None = field(default=None, compare=False, repr=False)
    is_authentic: bool = True
