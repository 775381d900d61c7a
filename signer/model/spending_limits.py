"""Limits on the value that refunds of one token may pay per hour and per day."""

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from signer.amounts import parse_units
from signer.config.networks import Token


_HOUR_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Spent:
    """
    Amounts that already have a nonce, in base units of one token on one chain.

    ``hour`` counts the current clock hour, ``day`` that hour and the 23 before it.
    ``recipient`` is the part of ``day`` that one recipient gets.
    """

    hour: int
    day: int
    recipient: int


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one token, in base units; None means no limit."""

    hourly: int | None = None
    daily: int | None = None
    daily_per_recipient: int | None = None

    @classmethod
    def from_token(cls, token: Token) -> Self:
        """Return the limits that the networks file sets for *token*."""
        limits = token.hourly_limit, token.daily_limit, token.daily_limit_per_recipient
        return cls(
            *(
                None if limit is None else parse_units(limit, token.decimals)
                for limit in limits
            )
        )

    def first_exceeded(self, amount: int, spent: Spent) -> str | None:
        """Return the name of the first limit that *spent* plus *amount* exceeds."""
        for name, limit, before in (
            ("hourly_limit", self.hourly, spent.hour),
            ("daily_limit", self.daily, spent.day),
            ("daily_limit_per_recipient", self.daily_per_recipient, spent.recipient),
        ):
            if limit is not None and before + amount > limit:
                return name
        return None


NO_LIMITS = Limits()


def hour_number(moment: datetime) -> int:
    """Return how many whole hours *moment* is after 1970-01-01T00:00Z."""
    return int(moment.timestamp()) // _HOUR_SECONDS
