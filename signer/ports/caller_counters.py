"""What all processes must know of those who call them."""

from datetime import datetime
from typing import Protocol


class Callers(Protocol):
    """What all processes must know of those who call them."""

    def use_token(self, jti: str, expires_at: datetime, now: datetime) -> bool:
        """
        Say whether this is the first use of a token that works once.

        It is remembered until *expires_at*; what expired before *now* is forgotten.
        """

    def count(self, bucket: str, period: int, amount: int = 1) -> int:
        """
        Add *amount* to what *bucket* has counted in *period*; return the sum.

        *period* is any number that grows with time; much older ones are forgotten.
        """
