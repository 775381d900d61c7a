"""*What it costs to run*: its table follows from the constants of page and code."""

import re
from pathlib import Path

from api.health.readiness import _SELF_TEST_SECONDS
from bench.scale import TRANSFER_GAS
from signer.config.networks import KINDS
from tests.integration.test_calls_by_kind import CALLS as CALLS_OF_KINDS
from tests.integration.test_calls_by_kind import CALLS_OF_BATCH, WITHOUT_SIMULATION
from tests.integration.test_calls_to_nodes import (
    IDLE_PER_MINUTE,
    IDLE_STATEMENTS_PER_MINUTE,
    PER_MINUTE,
    PER_REFUND,
    PER_REFUND_OF_FULL_BLOCKS,
)


PAGE = Path(__file__).resolve().parents[3] / "docs" / "explanation" / "costs.md"

NODES, PROCESSES, DAYS = 3, 3, 30
CALLS, IDLE_CALLS = 11, 354
UNITS_PER_CALL, UNIT_PRICE = 19.1, 0.45 / 10**6
SIGNATURE_PRICE = 0.15 / 10**4
ROW_BYTES = 9_700


def _row(refunds: int) -> list[str]:
    calls = NODES * (CALLS * refunds + IDLE_CALLS * 24)
    units = calls * DAYS * UNITS_PER_CALL
    signed = refunds + PROCESSES * round(24 * 3600 / _SELF_TEST_SECONDS)
    signatures = signed * DAYS * SIGNATURE_PRICE
    size = refunds * ROW_BYTES * 365 / 10**9
    return [
        *(f"{refunds:,}", f"{calls:,}", f"{units / 10**6:,.0f} million"),
        *(f"{units * UNIT_PRICE:,.0f}", f"{signed:,}", f"{1 + signatures:.2f}"),
        f"{2.5 + signatures:.2f}",
        f"{refunds * TRANSFER_GAS / 10**6:,.0f} million",
        f"{size:.0f} GB" if size > 10 else f"{size:.1f} GB",
    ]


def test_the_table_follows_from_the_constants() -> None:
    """Each cell is computed again."""
    rows = re.findall(r"^\| (10*,000) \|(.*)\|$", PAGE.read_text("utf-8"), re.MULTILINE)
    shown = [
        [first, *(cell.strip() for cell in rest.split("|"))] for first, rest in rows
    ]

    assert shown == [_row(1_000), _row(10_000), _row(100_000)]


def test_the_counts_are_within_what_tests_hold() -> None:
    """The page counts no less than half, and no more than all, of each bound."""
    assert PER_REFUND / 2 < CALLS <= PER_REFUND
    assert PER_MINUTE * 30 < IDLE_CALLS <= PER_MINUTE * 60
    text = PAGE.read_text("utf-8")
    assert f"| {CALLS} | {IDLE_CALLS}, for any number" in text
    bounds = f"{PER_REFUND}, {PER_MINUTE * 60} and {IDLE_PER_MINUTE * 60}"
    assert f"bounds them by {bounds}" in text
    assert f"at most {PER_REFUND_OF_FULL_BLOCKS} a refund" in text
    assert f"bounds them by {IDLE_STATEMENTS_PER_MINUTE * 60:,}" in text


def test_the_table_of_kinds_follows_from_their_counts() -> None:
    """Each kind without a vault, and a million refunds with one."""
    rows = [
        f"| `{kind}` | {_day(few * 100)} | {_day(many * 10_000)} |"
        for kind, (few, many) in CALLS_OF_KINDS.items()
    ]
    text = PAGE.read_text("utf-8")

    assert "\n".join(rows) in text
    assert set(CALLS_OF_KINDS) == set(KINDS) - {"local"}
    assert f"{CALLS_OF_BATCH} calls: {_day(CALLS_OF_BATCH * 10_000)}" in text
    assert f"{WITHOUT_SIMULATION} without `eth_simulateV1`" in text


def _day(calls: int) -> str:
    """Return the calls of a node in a day, and what they cost in a month."""
    return f"{calls:,}, ${calls * DAYS * UNITS_PER_CALL * UNIT_PRICE:.0f}"
