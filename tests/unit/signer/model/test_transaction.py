"""The statuses of a transaction, its legal moves, and the digest of its payments."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from time import process_time

import pytest

from signer.model.transaction import (
    TRANSACTION_MOVES,
    Transaction,
    TransactionStatus,
    compose,
)
from tests.fixtures.ledger import queued
from tests.support.ledgers import ROW_MACS


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _transaction(status: TransactionStatus) -> Transaction:
    return queued(status=status, tx_hash="0x1").reserved()


@pytest.mark.parametrize(
    ("before", "after"), list(product(TransactionStatus, TransactionStatus))
)
def test_only_legal_moves_are_possible(
    before: TransactionStatus, after: TransactionStatus
) -> None:
    """A legal move increases the version; another one raises ValueError."""
    transaction = replace(
        _transaction(before), attempts=3, blocked_by="chain-unavailable"
    )
    due_at = NOW + timedelta(seconds=7)

    if after in TRANSACTION_MOVES[before]:
        moved = transaction.with_status(after, NOW, due_at=due_at, tx_hash="0x2")

        assert replace(moved, payments=()) == replace(
            transaction,
            payments=(),
            status=after,
            updated_at=NOW,
            version=1,
            due_at=due_at,
            attempts=0,
            blocked_by=None,
            tx_hash="0x2",
        )
    else:
        with pytest.raises(ValueError, match=f"from {before} to {after}"):
            transaction.with_status(after, NOW, due_at=due_at)


def test_a_signed_nonce_is_never_given_back() -> None:
    """No status leads back to one in which nothing was signed."""
    assert not [
        status
        for status, after in TRANSACTION_MOVES.items()
        if TransactionStatus.RESERVED in after
    ]


def test_the_digest_of_payments_is_that_of_stored_rows() -> None:
    """Another one would make each stored transaction not authentic."""
    assert compose(["rf_1", "rf_2"]) == (
        "0d20b34df9f1cb30a819523a5f31818b47b5e1f5e289e2d4ce7b086bdb01b4b5"
    )


def test_the_digest_depends_on_order_and_on_each_payment() -> None:
    given = [["a"], ["b"], ["a", "b"], ["b", "a"], ["a", "b", "b"], []]

    assert len({compose(each) for each in given}) == len(given)


def test_refunds_of_other_programs_are_told_apart_in_one_pass() -> None:
    """However many they are: each read of the transaction does it again."""
    own = queued(status=TransactionStatus.RESERVED)
    strangers = [replace(own, id=f"rf_{n:032x}", position=n) for n in range(20_000)]
    invented = replace(own.reserved(), composition=compose(["other"]))
    begin = process_time()

    found = own.reserved().paying_own([own, *strangers[1:]])
    none = invented.paying_own(strangers)

    assert [each.id for each in found.payments] == [own.id]
    assert len(found.strangers) == 19_999
    assert len(none.payments) == 20_000
    assert process_time() - begin < 5


def test_the_mac_covers_what_is_signed() -> None:
    """A move keeps it; another key, nonce, gas limit or payment does not."""
    transaction = _transaction(TransactionStatus.RESERVED)
    mac = ROW_MACS.compute(transaction)
    moved = transaction.with_status(TransactionStatus.SIGNED, NOW, due_at=NOW)

    assert ROW_MACS.is_valid(mac, moved)
    for changed in (
        replace(transaction, chain_id=1),
        replace(transaction, sender="0x"),
        replace(transaction, nonce=1),
        replace(transaction, key_id="02"),
        replace(transaction, gas_limit=1),
        replace(transaction, composition=compose(["other"])),
    ):
        assert not ROW_MACS.is_valid(mac, changed)
