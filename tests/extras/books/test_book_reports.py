"""The report of the books: what a browser and a spreadsheet get."""

import csv
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from api.extras.books.entries import Code, Difference, Period
from api.extras.books.reports import (
    MOST_LISTED,
    BookReport,
    books_csv,
    books_document,
    books_html,
    books_lines,
    describe,
    read_openings,
    summary,
)
from api.views.refund_files import safe_cell
from signer.errors import ChainUnavailableError, InvalidInputError
from signer.ports.clock import utc_now
from tests.extras.books.paid_books import START, TOKEN, WALLET, Books


HOSTILE = "<script>alert('&')</script>"


@pytest.fixture
def report(books: Books) -> BookReport:
    """Return the report of a shop that paid a refund."""
    books.top_up(amount=10**8)
    books.paid(amount=12_500_000)
    report = BookReport(Period(START, START + timedelta(days=1)), utc_now())
    for event in books.events():
        report.add(event)
    return report


def _difference(**changes: Any) -> Difference:
    difference = Difference(Code.WRONG_AMOUNT, "local", WALLET, "another amount")
    return replace(difference, **changes)


def test_what_others_wrote_is_escaped(report: BookReport) -> None:
    """A name of a network, an error and a detail may have any characters."""
    report.add(_difference(detail=HOSTILE, network=HOSTILE, found=HOSTILE))
    report.fail(HOSTILE, ChainUnavailableError(HOSTILE))

    page = books_html(report)

    assert "<script>" not in page
    assert page.count("&lt;script&gt;") == 5


def test_the_page_begins_with_the_summary(report: BookReport) -> None:
    """Then the differences, and then the totals of each network."""
    report.add(_difference())

    page = books_html(report)

    places = [page.index(each) for each in ("1 difference", "<h2>Diff", "<h2>local")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("-1+1", "'-1+1"),
        ("@sum", "'@sum"),
        ("-1.50", "-1.50"),
        ("12.5", "12.5"),
        (None, ""),
        (Code.PAID_TWICE, "paid-twice"),
    ],
)
def test_a_spreadsheet_executes_no_cell(cell: object, expected: str) -> None:
    """A negative amount is a number, and no formula."""
    assert safe_cell(cell) == expected


def test_the_table_has_a_row_of_each_kind(report: BookReport) -> None:
    report.add(_difference())
    report.fail("other", ChainUnavailableError("down"))
    report.networks[0] = replace(report.networks[0], notes=["a note"])

    rows = list(csv.DictReader(books_csv(report).splitlines()))

    assert [each["record"] for each in rows] == [
        "difference",
        *["account"] * len(report.networks[0].accounts),
        "note",
        "not-compared",
    ]
    (tokens,) = [each for each in rows if each["asset"] == "TUSD"]
    assert (tokens["received"], tokens["refunds"]) == ("100.000000", "12.500000")


def test_a_long_list_is_cut_and_counted(report: BookReport) -> None:
    for _ in range(MOST_LISTED + 5):
        report.add(_difference())

    assert len(books_document(report)["differences"]) == MOST_LISTED
    assert books_document(report)["difference_count"] == MOST_LISTED + 5
    assert "... and 5 more" in list(books_lines(report))
    assert "5 more are not listed" in books_html(report)


def test_an_unknown_balance_is_no_zero(report: BookReport) -> None:
    for account in report.networks[0].accounts:
        account.opening = account.closing = None

    accounts = books_document(report)["networks"][0]["accounts"]

    assert {each["opening"] for each in accounts} == {None}
    assert any("opening unknown" in each for each in books_lines(report))
    assert '<td class="amount">unknown</td>' in books_html(report)


def test_summaries(report: BookReport) -> None:
    assert summary(report) == "no difference; 1 refunds were compared"

    report.fail("other", ChainUnavailableError("down"))
    assert summary(report) == "not compared: other"


def test_a_difference_is_one_line() -> None:
    assert describe(_difference(expected="1", found="2")) == (
        f"wrong-amount: another amount; network local; wallet {WALLET}; expected: 1;"
        " found: 2"
    )


def test_the_closing_balances_of_a_report_can_be_read_again(report: BookReport) -> None:
    """Exactly, in base units; an unknown one stays unknown."""
    report.networks[0].accounts[0].closing = None
    document = json.dumps(books_document(report)).encode()

    openings = read_openings(document)["local"]

    first, *others = report.networks[0].accounts
    assert openings.block == report.networks[0].blocks.last.block.number
    assert openings.balances[first.wallet, first.asset] is None
    for each in others:
        assert openings.balances[each.wallet, each.asset] == each.closing
    assert TOKEN in {asset for _, asset in openings.balances}


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b'{"networks": [{"network": 1}]}', b"[" * 100_000]
)
def test_a_file_that_is_no_report(text: bytes) -> None:
    with pytest.raises(InvalidInputError, match="not a report"):
        read_openings(text)
