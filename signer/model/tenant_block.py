"""A tenant that an operator has blocked, or had blocked."""

from dataclasses import dataclass, field
from datetime import datetime

from signer.errors import RowNotAuthenticError, TenantBlockedError
from signer.model.row import NotStored, PrimaryKey, Small, sealed


@sealed("tenant block")
@dataclass(frozen=True, slots=True)
class TenantBlock:
    """
    The tenant gets no nonces and changes nothing since ``at``; ``by`` blocked it.

    ``ended_at`` is when an operator ended the block, None while it is in force.
    ``version`` counts the changes: each is a compare-and-set on it.  ``is_authentic``
    is not stored: it is False if the MAC of the stored row is not valid.  No other
    field of such a row can be trusted.
    """

    tenant: PrimaryKey[str]
    at: datetime
    by: str
    ended_at: datetime | None = None
    version: Small = 0
    mac: str | None = field(default=None, compare=False, repr=False)
    is_authentic: NotStored[bool] = True

    @property
    def in_force(self) -> bool:
        """Whether the tenant is blocked: another program cannot end a block."""
        return self.ended_at is None or not self.is_authentic

    def error(self) -> TenantBlockedError | RowNotAuthenticError:
        """Return the error of what the block forbids."""
        if not self.is_authentic:
            return RowNotAuthenticError(
                "another program changed or deleted the row of the block of the tenant"
                f" {self.tenant!r}, or MAC_KEY_FILE has other keys: `hotwallet tenants"
                " block` replaces the row, and `hotwallet tenants unblock` ends that"
            )
        return TenantBlockedError(
            "an operator blocked the tenant: `hotwallet tenants unblock` ends that"
        )
