"""The page of a refund in a batch: its item in the bytes, and the other refunds."""

from dataclasses import replace

import pytest
from eth_account import Account

from backends.sql import SQLStore
from signer.chain.vault import Item, encode_pay
from signer.model.refund import Refund
from signer.model.transaction import TransactionStatus
from signer.refunds.payload import items_of
from tests.api.browser import Browser
from tests.fixtures.batches import VAULT, batch_of
from tests.fixtures.ledger import accepted, now, save, transaction


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
