"""What workers share about their looks at the chain."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Look:
    """
    The last look of any worker at one thing.

    ``at`` is when it began, by the ledger's clock, and ``seen`` a number that says what
    was seen.  They decide when a worker asks the nodes again, and nothing else: no MAC
    covers them.
    """

    at: datetime
    seen: int = 0
