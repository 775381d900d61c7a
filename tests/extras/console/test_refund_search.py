"""The console finds refunds by time, amount and network, and exports them."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from backends.sql import SQLStore
from signer.model.refund import Refund, new_refund_id
from tests.api.browser import Browser
from tests.fixtures.ledger import OTHER_WALLET, accepted


NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def refunds(sqlite_store: SQLStore) -> list[Refund]:
    found = []
    for number in range(3):
        at = NOON + timedelta(hours=number)
        amount = (number + 1) * 10**6
        changes = {"recipient": OTHER_WALLET} if number == 1 else {}
        new = accepted(
            sqlite_store,
            id=new_refund_id(at),
            created_at=at,
            amount=amount,
            reference=f"order-{number}",
            **changes,
        )
        found.append(new)
    return found


CASES = {
    "": [0, 1, 2],
    "created_from=2026-01-31T13%3A00": [1, 2],
    "created_before=2026-01-31T13:00&tenant=": [0],
    "min_amount=2&max_amount=2": [1],
    "network=other": [],
    f"q={OTHER_WALLET}&min_amount=1": [1],
    f"q={OTHER_WALLET.lower()}&max_amount=1": [],
}


@pytest.mark.parametrize("query", CASES)
def test_what_a_page_shows_is_what_its_files_have(
    browser: Browser, refunds: list[Refund], query: str
) -> None:
    page = browser.get(f"/console/refunds?{query}").text
    lines = browser.get(f"/console/refunds/export?format=jsonl&{query}").text
    expected = [refunds[number].id for number in CASES[query]]

    assert [each.id for each in refunds if each.id in page] == expected
    found = [json.loads(line)["id"] for line in lines.splitlines()]
    assert found == expected[::-1]


def test_a_reference_is_filtered_too(browser: Browser, refunds: list[Refund]) -> None:
    """No field is read and dropped, whatever is looked for."""
    one = refunds[1]
    for text in (one.id, one.reference):
        found = browser.get(f"/console/refunds?q={text}&min_amount=2")
        missed = browser.get(f"/console/refunds?q={text}&min_amount=2.1")

        assert one.id in found.text
        assert f"/console/refunds/{one.id}" not in missed.text

    refused = browser.get(f"/console/refunds/export?q={one.reference}")
    assert refused.status_code == 400


def test_a_malformed_field_is_named(browser: Browser) -> None:
    page = browser.get("/console/refunds?min_amount=many")

    assert page.status_code == 400
    assert "min_amount" in page.text
