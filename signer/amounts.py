"""Converts amounts between decimal strings and integers of base units; no floats."""

import re

from signer.errors import InvalidInputError


MAX_UINT256 = 2**256 - 1

COIN_DECIMALS = 18
"""Decimals of a chain's native coin: balances and fees are in wei."""

_AMOUNT = re.compile(r"(0|[1-9][0-9]{0,77})(?:\.([0-9]{1,36}))?", re.ASCII)


def is_amount(text: str) -> bool:
    """Return whether *text* is a decimal string of whole tokens, such as "12.50"."""
    return _AMOUNT.fullmatch(text) is not None


def parse_units(amount: str, decimals: int, *, may_be_zero: bool = False) -> int:
    """
    Return the base units of *amount*, a decimal string of whole tokens.

    >>> parse_units("12.5", 6)
    12500000

    Raises:
        InvalidInputError: *amount* is not plain decimal digits, has more fraction
            digits than *decimals*, exceeds a uint256, or is zero and may not be.
    """
    match = _AMOUNT.fullmatch(amount) if isinstance(amount, str) else None
    if match is None:
        raise InvalidInputError(
            'must be plain decimal digits, such as "12.50"', field="amount"
        )
    whole, fraction = match[1], match[2] or ""
    if len(fraction) > decimals:
        raise InvalidInputError(
            f"must have at most {decimals} digits after the decimal point",
            field="amount",
        )
    units = int(whole + fraction.ljust(decimals, "0"))
    if units > MAX_UINT256 or (units == 0 and not may_be_zero):
        raise InvalidInputError(
            "must be above zero and fit into a uint256", field="amount"
        )
    return units


def format_units(units: int, decimals: int) -> str:
    """
    Return *units* as a decimal string of whole tokens, with all *decimals* digits.

    >>> format_units(12500000, 6)
    '12.500000'
    """
    whole, fraction = divmod(units, 10**decimals)
    return f"{whole}.{fraction:0{decimals}d}" if decimals else str(whole)
