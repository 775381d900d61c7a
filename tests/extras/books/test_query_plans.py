"""Each query of the books uses an index."""

from typing import Any

import pytest

from api.extras.books import tables
from backends.sql import SQLStore
from tests.fixtures.ledger import WALLET, queued
from tests.support.ledgers import query_plan


@pytest.mark.parametrize(
    "statement",
    [
        tables.NONCES,
        tables._REFUNDS,
        tables.ATTEMPTS,
        tables.UNRECORDED,
        tables.IN_BLOCKS,
    ],
    ids=["nonces", "refunds", "attempts", "unrecorded", "in blocks"],
)
def test_books_are_pages_of_an_index(filled_store: SQLStore, statement: Any) -> None:
    """The nonces of one wallet, however many rows others have."""
    given = {
        "of_chain": 31337,
        "of_sender": WALLET,
        "first": 200,
        "last": 210,
        "after": 200,
        "first_block": 7,
        "last_block": 7,
        "at_most": 9,
    }
    plan = query_plan(filled_store, statement, given)

    assert "Seq Scan on refunds" not in plan
    assert "Seq Scan on unrecorded_transactions" not in plan
    assert "SCAN refunds" not in plan
    assert "SCAN unrecorded_transactions" not in plan
    assert "Seq Scan on transactions" not in plan
    assert "SCAN transactions" not in plan


def test_refunds_of_a_chain_are_pages_of_the_primary_key(
    filled_store: SQLStore,
) -> None:
    """Nothing is sorted: each page begins after the last id of the one before."""
    given = {"of_chain": 31337, "after": queued().id, "at_most": 9}
    plan = query_plan(filled_store, tables.OF_CHAIN, given)

    assert "TEMP B-TREE" not in plan
    assert "Seq Scan" not in plan
