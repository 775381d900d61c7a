"""Conversion of amounts between decimal strings and base units."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signer.amounts import format_units, parse_units
from signer.errors import InvalidInputError


MAX_UINT256 = 2**256 - 1

decimals_of_tokens = st.integers(0, 36)


@given(units=st.integers(1, MAX_UINT256), decimals=decimals_of_tokens)
def test_amounts_survive_the_round_trip(units: int, decimals: int) -> None:
    """Every uint256 above zero is formatted and parsed again, for all decimals."""
    amount = format_units(units, decimals)

    assert parse_units(amount, decimals) == units
    assert Fraction(amount) == Fraction(units, 10**decimals)
    assert len(amount.partition(".")[2]) == decimals


@given(
    whole=st.integers(0, 10**20),
    fraction=st.text("0123456789", max_size=40),
    decimals=decimals_of_tokens,
)
def test_parsing_equals_exact_arithmetic(
    whole: int, fraction: str, decimals: int
) -> None:
    """An amount is scaled exactly, or refused."""
    amount = f"{whole}.{fraction}" if fraction else str(whole)
    try:
        units = parse_units(amount, decimals)
    except InvalidInputError:
        assert len(fraction) > decimals or Fraction(amount) == 0
        return

    assert Fraction(units) == Fraction(amount) * 10**decimals


@pytest.mark.parametrize(
    ("amount", "decimals", "units"),
    [
        ("1", 0, 1),
        ("12.5", 6, 12_500_000),
        ("12.50", 6, 12_500_000),
        ("0.000001", 6, 1),
        ("1", 18, 10**18),
        (str(MAX_UINT256), 0, MAX_UINT256),
        ("1." + "0" * 36, 36, 10**36),
    ],
)
def test_valid_amounts(amount: str, decimals: int, units: int) -> None:
    """Trailing zeros change nothing; the smallest and the largest amount are valid."""
    assert parse_units(amount, decimals) == units
    assert (format_units(0, 6), format_units(0, 0)) == ("0.000000", "0")
    with pytest.raises(InvalidInputError):
        parse_units(str(MAX_UINT256 + 1), 0)


@pytest.mark.parametrize(
    "amount",
    [
        *("", "0", "0.0", "0.000000", "-1", "+1", "1e18", "1E2", "1.", ".5", "1.2.3"),
        *("01", "00", " 1", "1 ", "1\n", "1,5", "1_000", "0x10", "NaN", "Infinity"),
        *("\u0663", "\uff11", "\u00b2", "1\u200b", "1.0000001", "1.\u0663"),
        *(str(MAX_UINT256 // 10**6 + 1), str(2**256), "9" * 78, "9" * 79),
        *("1" + "0" * 5_000, "1." + "0" * 37),
        *(True, False, 1, 1.0, 10**18 + 0.5, None, b"1", []),
    ],
    ids=repr,
)
def test_invalid_amounts(amount: str) -> None:
    """
    Exponents, signs, blanks, other digits, too many decimals, too large, and other
    types (T9).
    """
    with pytest.raises(InvalidInputError) as caught:
        parse_units(amount, 6)

    assert caught.value.field == "amount"
