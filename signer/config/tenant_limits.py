"""A tenant's limits, per network and per token."""

from collections.abc import Iterator

from pydantic import Field

from signer.amounts import parse_units
from signer.config.networks import Token
from signer.config.toml_file import StrictModel
from signer.errors import InvalidInputError


_LIMITS = ("hourly_limit", "daily_limit", "daily_limit_per_recipient")


class TokenLimits(StrictModel):
    """
    A tenant's limits for one token, in whole tokens; None means no limit.

    ``min_amount`` and ``max_amount`` bound one refund.  A refund of more than
    ``approve_above`` needs an approval.  The others bound all refunds of the tenant in
    an hour or a day.  The token's own limits apply as well.
    """

    min_amount: str | None = None
    max_amount: str | None = None
    approve_above: str | None = None
    hourly_limit: str | None = None
    daily_limit: str | None = None
    daily_limit_per_recipient: str | None = None

    def units(self, name: str, token: Token) -> int | None:
        """Return the limit *name* in base units of *token*; None if there is none."""
        amount = getattr(self, name)
        return None if amount is None else parse_units(amount, token.decimals)

    def problems(self, token: Token) -> Iterator[str]:
        """Yield why these cannot be the limits of *token*."""
        values: dict[str, int] = {}
        for name in type(self).model_fields:
            try:
                units = self.units(name, token)
            except InvalidInputError as e:
                yield f"{name} {e}"
            else:
                values |= {} if units is None else {name: units}
        largest = parse_units(token.max_amount, token.decimals)
        largest = min(largest, values.get("max_amount", largest))
        if values.get("min_amount", 0) > largest:
            yield "min_amount must not be more than max_amount"
        if values.get("approve_above", 0) >= largest:
            yield "approve_above must be less than max_amount, the token's included"
        for name in _LIMITS:
            # An accepted refund must not wait without end.
            if values.get(name, largest) < largest:
                yield f"{name} must not be less than max_amount, the token's included"


class NetworkLimits(StrictModel):
    """A tenant's limits on one network; ``gas_per_hour`` bounds its gas limits."""

    gas_per_hour: int | None = Field(default=None, ge=21_000)
    tokens: dict[str, TokenLimits] = Field(default_factory=dict)
