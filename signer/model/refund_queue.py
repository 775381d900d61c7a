"""The queued refunds that wait for the same thing."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Queue:
    """The queued refunds of the network, or of the tenant, with ``name``."""

    owner: Literal["network", "tenant"]
    name: str
