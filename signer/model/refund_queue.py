"""The queued refunds that wait for the same thing."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Queue:
    """The queued refunds of a network or a token there, of all tenants or of one."""

    network: str | None = None
    tenant: str | None = None
    token: str | None = None

    @property
    def names(self) -> Mapping[str, str]:
        """
        What is not None, by the name of its field.

        >>> dict(Queue(tenant="shop").names)
        {'tenant': 'shop'}
        """
        named = {name: getattr(self, name) for name in ("network", "tenant", "token")}
        return {name: value for name, value in named.items() if value is not None}
