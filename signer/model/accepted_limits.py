"""The limits of the configuration files with which processes may start."""

from dataclasses import dataclass, field
from datetime import datetime

from signer.model.row import NotStored, PrimaryKey, Small, sealed


THE_ROW = 1
"""The id of the only row."""


@sealed("accepted limits")
@dataclass(frozen=True, slots=True)
class AcceptedLimits:
    """
    The limits that the last worker started with: a higher one needs an approval.

    ``document`` is what ``signer.config.file_limits.dump_limits`` writes.  ``version``
    counts the changes: each is a compare-and-set on it.  ``is_authentic`` is not
    stored: it is False if the MAC of the stored row is not valid.  No other field of
    such a row can be trusted.
    """

    id: PrimaryKey[int]
    document: str
    accepted_at: datetime
    version: Small = 0
    mac: str | None = field(default=None, compare=False, repr=False)
    is_authentic: NotStored[bool] = True
