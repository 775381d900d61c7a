"""The port that counts callers' requests and tokens across all processes."""

from datetime import datetime
from typing import Protocol


class Callers(Protocol):
    """Counts requests and one-time tokens across all processes."""

    def use_token(self, jti: str, expires_at: datetime, now: datetime) -> bool:
        """
        Return whether this is the first use of the one-time token *jti*.

        The token is stored until *expires_at*.  Tokens that expired before *now* may be
        deleted.
        """

    def count(self, bucket: str, period: int, amount: int = 1) -> int:
        """
        Add *amount* to the count of *bucket* in *period*, and return the sum.

        *period* is a number that grows with time.  Counts of much older periods may be
        deleted.
        """
