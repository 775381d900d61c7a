"""
Writes addresses, amounts, times and foreign texts for descriptions of one line.

Addresses are written in full: a shortened one can be imitated.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

from eth_utils.address import to_checksum_address

from signer.amounts import MAX_UINT256, format_units
from signer.config.networks import Network


MAX_TEXT = 80
"""Characters of a foreign text in a description."""

_COIN_DECIMALS = 18

_UNLIMITED = {MAX_UINT256, 2**160 - 1}  # Permit2 has amounts of 160 bits.

NEVER = 253_402_300_800
"""The first second that has no date: it begins the year 10000."""


@dataclass(frozen=True, slots=True)
class TokenName:
    """The symbol and the decimals of a token."""

    symbol: str
    decimals: int


@dataclass(frozen=True, slots=True)
class AddressBook:
    """
    The names of tokens and other addresses on one network, by checksummed address.

    *coin* is what the network's coin is called.
    """

    tokens: Mapping[str, TokenName] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    coin: str = "coins"

    @classmethod
    def of(cls, network: Network, labels: Mapping[str, str] | None = None) -> Self:
        """Return the names of the configured tokens of *network*, and *labels*."""
        tokens = {
            token.address: TokenName(symbol, token.decimals)
            for symbol, token in network.tokens.items()
        }
        return cls(tokens, labels or {})

    def address(self, address: str) -> str:
        """Return *address* in full, with its name if it has one."""
        full = to_checksum_address(address)
        token = self.tokens.get(full)
        name = self.labels.get(full) or (token and token.symbol)
        return f"{full} ({name})" if name else full

    def amount(self, units: int, token: str | None) -> str:
        """Return *units* of the contract *token*; of no known token, they are raw."""
        if token is None:
            return f"{units} units"
        full = to_checksum_address(token)
        known = self.tokens.get(full)
        if known is None:
            # It may be an NFT, whose amount is the id of a token.
            number = "unlimited" if units in _UNLIMITED else units
            return f"{number} units (or token id) of {self.address(token)}"
        number = "unlimited" if units in _UNLIMITED else _decimal(units, known.decimals)
        return f"{number} {known.symbol}"

    def coins(self, wei: int) -> str:
        """Return *wei* in whole coins."""
        return f"{_decimal(wei, _COIN_DECIMALS)} {self.coin}"


def write_time(seconds: int) -> str:
    """Return until when: *seconds* since 1970, in UTC."""
    if seconds >= NEVER:
        return "without an end"
    return f"until {datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def quote(text: str) -> str:
    """
    Return the foreign *text* in quotes, shortened, on one line, and in ASCII.

    Other characters could look like our own words, or change their order.
    """
    short = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."
    return json.dumps(short)


def _decimal(units: int, decimals: int) -> str:
    """Return whole tokens with at least two digits after the point, if there are."""
    whole, point, fraction = format_units(units, decimals).partition(".")
    kept = fraction.rstrip("0")
    return f"{whole}{point}{kept.ljust(min(2, decimals), '0')}"
