"""A tenant that an operator has blocked, or had blocked."""

from dataclasses import dataclass, field
from datetime import datetime

from signer.errors import TenantBlockedError


@dataclass(frozen=True, slots=True)
class TenantBlock:
    """
    The tenant gets no nonces and changes nothing since ``at``; ``by`` blocked it.

    ``ended_at`` is when an operator ended the block, None while it is in force.
    ``version`` counts the changes: each is a compare-and-set on it.
    """

    tenant: str
    at: datetime
    by: str
    ended_at: datetime | None = None
    version: int = 0
    # ``signer.row_macs`` of all fields above; the store makes it.
    mac: str | None = field(default=None, compare=False, repr=False)

    @property
    def in_force(self) -> bool:
        """Whether the tenant is blocked."""
        return self.ended_at is None

    def error(self) -> TenantBlockedError:
        """Return the error of what the block forbids."""
        return TenantBlockedError(
            "an operator blocked the tenant: `hotwallet tenants unblock` ends that"
        )
