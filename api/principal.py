"""The authenticated caller of a request."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Principal:
    """
    The caller, as a verified token describes it.

    ``scopes`` and ``client_id`` are None if the token has no such claim.
    """

    sub: str
    roles: frozenset[str]
    jti: str
    expires_at: datetime
    scopes: frozenset[str] | None = None
    client_id: str | None = None
