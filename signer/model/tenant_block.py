"""A tenant that an operator has blocked."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class TenantBlock:
    """The tenant gets no nonces and changes nothing since ``at``; ``by`` blocked it."""

    tenant: str
    at: datetime
    by: str
