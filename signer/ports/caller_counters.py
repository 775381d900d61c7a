"""The port that counts calls of the API, and uses of one-time tokens."""

from datetime import datetime
from typing import Protocol


class Callers(Protocol):
    """What all processes share about the callers of the API."""

    def use_token(self, jti: str, expires_at: datetime, now: datetime) -> bool:
        """
        Return whether this is the first use of a one-time token.

        The use is remembered until *expires_at*.  Tokens that expired well before *now*
        are deleted.  If the call raises, the token may be used up: treat it as used.
        """

    def count(self, bucket: str, period: int, amount: int = 1) -> int:
        """
        Add *amount* to the count of *bucket* in *period*; return the sum.

        *period* is a number that grows with time, of the same unit for all buckets.
        Counts that are more than ten periods old are deleted.
        """
