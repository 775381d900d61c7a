"""Pages of refunds: those in a batch, and searches by time, amount and network."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from eth_account import Account

from backends.sql import SQLStore
from signer.chain.vault import Item, encode_pay
from signer.model.refund import Refund, new_refund_id
from signer.model.transaction import TransactionStatus
from signer.refunds.payload import items_of
from tests.api.browser import Browser
from tests.fixtures.batches import VAULT, batch_of
from tests.fixtures.ledger import OTHER_WALLET, accepted, now, save, transaction


def _signed_batch(store: SQLStore, **changes: object) -> list[Refund]:
    """Return refunds of a signed batch, whose first item has *changes*."""
    batch = batch_of(store, *(accepted(store) for _ in range(3)))
    first, *others = items_of(batch)
    items: list[Item] = [replace(first, **changes), *others]  # type: ignore[arg-type]
    fields = {
        "chainId": batch.chain_id,
        "nonce": batch.nonce,
        "to": VAULT,
        "data": encode_pay(batch.payments[0].token_address, items),
        "gas": 500_000,
        "maxFeePerGas": 2 * 10**9,
        "maxPriorityFeePerGas": 10**9,
    }
    raw = bytes(Account.sign_transaction(fields, b"\1" * 32).raw_transaction)
    attempt = replace(transaction(batch.payments[0]), raw=raw)
    after = batch.with_status(TransactionStatus.SIGNED, now(), tx_hash=attempt.tx_hash)
    save(store, batch, after, attempt)
    return [*after.payments]


def _page(browser: Browser, refund: Refund) -> str:
    answer = browser.get(f"/console/refunds/{refund.id}")
    assert answer.status_code == 200
    return answer.text


def test_the_page_shows_the_item_and_the_others(
    browser: Browser, sqlite_store: SQLStore
) -> None:
    refunds = _signed_batch(sqlite_store)

    page = _page(browser, refunds[1])

    assert "lets the vault pay 3 refunds: in place 2, 12.50 " in page
    assert "as requested" in page
    assert "pays 3 refunds, each on its own" in page
    for each in refunds:
        assert f"/console/refunds/{each.id}" in page


@pytest.mark.parametrize("changes", [{"amount": 9}, {"mark": bytes(16)}], ids=repr)
def test_an_item_that_is_not_the_refund_is_marked(
    browser: Browser, sqlite_store: SQLStore, changes: dict[str, object]
) -> None:
    refunds = _signed_batch(sqlite_store, **changes)

    assert "not what the refund says" in _page(browser, refunds[0])
    assert "as requested" in _page(browser, refunds[1])


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


def test_what_a_page_shows_is_what_its_files_have(
    browser: Browser, refunds: list[Refund]
) -> None:
    for query, numbers in CASES.items():
        page = browser.get(f"/console/refunds?{query}").text
        lines = browser.get(f"/console/refunds/export?format=jsonl&{query}").text
        expected = [refunds[number].id for number in numbers]

        assert [each.id for each in refunds if each.id in page] == expected, query
        found = [json.loads(line)["id"] for line in lines.splitlines()]
        assert found == expected[::-1], query


def test_a_reference_is_filtered_too(browser: Browser, refunds: list[Refund]) -> None:
    """A reference or an id does not turn the other fields of the search off."""
    one = refunds[1]
    for text in (one.id, one.reference):
        found = browser.get(f"/console/refunds?q={text}&min_amount=2")
        missed = browser.get(f"/console/refunds?q={text}&min_amount=2.1")

        assert one.id in found.text
        assert f"/console/refunds/{one.id}" not in missed.text

    refused = browser.get(f"/console/refunds/export?q={one.reference}")
    assert refused.status_code == 400
