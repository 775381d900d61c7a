"""How much may leave in an hour and in a day, whoever asks and whatever the reason."""

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from signer.amounts import parse_units
from signer.config.networks import Token


_HOUR_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Spent:
    """
    What nonces were given out for, in base units of one token on one chain.

    The hour is the clock's, the day this one and the 23 before it.  ``recipient`` is
    what one recipient was given of that day's.
    """

    hour: int
    day: int
    recipient: int


@dataclass(frozen=True, slots=True)
class Limits:
    """The most of each, in base units; None is no limit."""

    hourly: int | None = None
    daily: int | None = None
    daily_per_recipient: int | None = None

    @classmethod
    def of(cls, token: Token) -> Self:
        """Return what the networks file says of *token*."""
        return cls(
            *(
                None if limit is None else parse_units(limit, token.decimals)
                for limit in (
                    token.hourly_limit,
                    token.daily_limit,
                    token.daily_limit_per_recipient,
                )
            )
        )

    def reached(self, amount: int, spent: Spent) -> str | None:
        """Return the first limit that *amount* on top would pass, by its name."""
        for name, limit, before in (
            ("hourly_limit", self.hourly, spent.hour),
            ("daily_limit", self.daily, spent.day),
            ("daily_limit_per_recipient", self.daily_per_recipient, spent.recipient),
        ):
            if limit is not None and before + amount > limit:
                return name
        return None


NO_LIMITS = Limits()


def hour_of(moment: datetime) -> int:
    """Return the number of the hour since 1970 that *moment* is in."""
    return int(moment.timestamp()) // _HOUR_SECONDS
