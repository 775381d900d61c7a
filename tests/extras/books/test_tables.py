"""What the books read of the ledger, page by page, and the indexes that they use."""

from dataclasses import replace
from typing import Any

import pytest

from api.extras.books import tables
from api.extras.books.tables import BookTables, BookToken, TransactionCost
from backends.sql import SQLStore
from signer.errors import RowNotAuthenticError
from signer.model.audit_record import Record
from signer.model.refund import Status
from signer.model.transaction import Kind, SignedTransaction, TransactionStatus
from tests.fixtures.batches import CAPPED, PAID, VAULT, batch_of, ended
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    a_filler,
    accepted,
    broadcast,
    forge,
    later,
    mined,
    moved,
    now,
    opened,
    queued,
    refund_page,
    reserved,
    save,
    step_to,
    stored,
    transaction,
    unrecorded,
)
from tests.support.ledgers import query_plan
from tests.support.payments import RECIPIENT


CHAIN = 31337


def test_a_ledger_without_refunds(store: SQLStore) -> None:
    books = store.tables(BookTables)

    assert books.nonce_entries(CHAIN, WALLET, 0, 10) == ()
    assert books.entries_in_blocks(CHAIN, WALLET, (0, 9), after=-1, limit=9) == []
    assert books.refunds_of_chain(CHAIN, after="", limit=9) == ()
    assert books.refunded_tokens(CHAIN) == []
    assert books.logged_addresses() == []


def test_an_entry_has_the_refund_and_all_its_attempts(store: SQLStore) -> None:
    """The newest attempt first, each with the most that it may cost."""
    sent = broadcast(store)
    again = transaction(
        sent, attempt=1, kind=Kind.NOOP, gas_limit=21_000, max_fee_per_gas=2**70
    )
    after = step_to(sent, Status.SIGNED, now(), tx_hash=again.tx_hash)
    save(store, sent, after, again)

    (entry,) = store.tables(BookTables).nonce_entries(CHAIN, WALLET, 0, 10)

    assert entry.nonce == 0
    assert entry.refund == stored(store, sent)
    assert entry.unrecorded is None
    assert entry.attempts == (
        TransactionCost(again.tx_hash, Kind.NOOP, 21_000 * 2**70),
        TransactionCost(str(sent.tx_hash), Kind.TRANSFER, 65_000 * 2 * 10**9),
    )


def test_unrecorded_transactions_have_entries(store: SQLStore) -> None:
    """Alone, or beside the refund that has the same nonce; their MACs are verified."""
    wallet = opened(store)
    refund = reserved(store, accepted(store))
    for nonce in (0, 1):
        wallet = opened(store)
        store.add_unrecorded(wallet, [unrecorded(nonce=nonce)])
    accept = "UPDATE unrecorded_transactions SET accepted_at = seen_at"
    forge(store, f"{accept} WHERE nonce = 1")

    beside, alone = store.tables(BookTables).nonce_entries(CHAIN, WALLET, 0, 10)

    assert beside.refund == refund
    assert beside.unrecorded is not None
    assert beside.unrecorded.is_authentic
    assert alone.refund is None
    assert alone.unrecorded is not None
    assert not alone.unrecorded.is_authentic


def test_a_batch_is_one_entry(store: SQLStore) -> None:
    """With its refunds, also after all of them were queued again."""
    opened(store)
    paid, capped = accepted(store), accepted(store)
    ended(store, batch_of(store, paid, capped), PAID, CAPPED)
    again = stored(store, capped)
    ended(store, batch_of(store, again, nonce=1), CAPPED)
    lost = [unrecorded(nonce=2, position=place) for place in range(3)]
    store.add_unrecorded(opened(store), lost)
    books = store.tables(BookTables)

    first, second, third = books.nonce_entries(CHAIN, WALLET, 0, 3)

    assert first.batch is not None
    assert first.batch.payment_ids == (paid.id, capped.id)
    assert [each.id for each in first.batch.payments] == [paid.id]
    assert second.batch is not None
    assert (second.batch.payments, second.refund) == ((), None)
    assert second.batch.payment_ids == (capped.id,)
    assert third.unrecorded is not None
    assert books.vaults(CHAIN) == [VAULT]


def test_entries_are_pages_in_the_order_of_nonces(store: SQLStore) -> None:
    """A page has as many nonces as asked for; other wallets are not in it."""
    opened(store, first=3)
    for _ in range(5):
        reserved(store, accepted(store))
    opened(store, sender=OTHER_WALLET)
    reserved(store, accepted(store), sender=OTHER_WALLET)
    store.add_unrecorded(opened(store), [unrecorded(nonce=8)])

    def nonces(first: int, limit: int) -> list[int]:
        found = store.tables(BookTables).nonce_entries(CHAIN, WALLET, first, limit)
        return [each.nonce for each in found]

    assert nonces(0, 4) == [3, 4, 5, 6]
    assert nonces(7, 4) == [7, 8]
    assert nonces(9, 4) == []


def test_refunds_in_blocks(store: SQLStore) -> None:
    """Those with a block of the range, lowest nonce first, after a nonce."""
    found = [mined(store, broadcast(store)) for _ in range(3)]  # In block 7.
    broadcast(store)

    def ids(*blocks: int, after: int = -1, limit: int = 9) -> list[str]:
        first, last = blocks
        page = store.tables(BookTables).entries_in_blocks(
            CHAIN, WALLET, (first, last), after=after, limit=limit
        )
        return [each.refund.id for each in page if each.refund]

    assert ids(7, 7) == [each.id for each in found]
    assert ids(0, 6) == ids(8, 9) == []
    assert ids(0, 9, after=0, limit=1) == [found[1].id]


def test_fillers_in_blocks(store: SQLStore) -> None:
    """They are read with their MACs, by nonce and by block."""
    opened(store)
    filler = a_filler(store, 0, now())
    attempt = SignedTransaction(
        "0x" + "7" * 64, 0, Kind.NOOP, CHAIN, WALLET, 0, 2, 1, 21_000, b"", now()
    )
    signed = filler.with_status(
        TransactionStatus.SIGNED, now(), tx_hash=attempt.tx_hash
    )
    sent = signed.with_status(TransactionStatus.BROADCAST, now())
    mined = sent.with_status(
        TransactionStatus.MINED, now(), block_number=7, block_hash="0x07"
    )
    save(store, filler, signed, attempt)
    save(store, signed, sent)
    save(store, sent, mined)
    books = store.tables(BookTables)

    (entry,) = books.nonce_entries(CHAIN, WALLET, 0, 10)
    (claim,) = books.entries_in_blocks(CHAIN, WALLET, (7, 7), after=-1, limit=9)

    assert entry.filler == claim.filler == mined
    assert entry.refund is None
    assert (claim.nonce, claim.status) == (0, Status.MINED)
    assert [each.kind for each in entry.attempts] == [Kind.NOOP]
    books.require_authentic(mined)


def test_what_a_comparison_may_leave_out(store: SQLStore) -> None:
    """Senders of refunds, also without a block, and chains on which refunds ended."""
    began = now()
    for _ in range(2):
        moved(store, mined(store, broadcast(store)), Status.CONFIRMED)  # In block 7.
    broadcast(store)

    assert store.tables(BookTables).senders_in_blocks(CHAIN, (7, 7)) == {WALLET: 3}
    assert store.tables(BookTables).senders_in_blocks(CHAIN, (8, 9)) == {WALLET: 1}
    assert store.tables(BookTables).senders_in_blocks(7, (7, 7)) == {}
    (network,) = {each.network for each in refund_page(store, "gateway").refunds}
    until = later(60)
    assert store.tables(BookTables).results_by_chain(began, until) == {
        CHAIN: (network, 2)
    }
    assert store.tables(BookTables).results_by_chain(until, until) == {}


def test_the_payments_of_a_sender_are_counted(store: SQLStore) -> None:
    """Two in one transaction are two, and a filler is none."""
    books = store.tables(BookTables)
    a_filler(
        store, opened(store, sender=OTHER_WALLET).next_nonce, now(), sender=OTHER_WALLET
    )
    sent, other = broadcast(store), accepted(store)
    forge(
        store,
        "INSERT INTO transaction_payments"
        " (payment_id, chain_id, sender, nonce, position)"
        f" VALUES ('{other.id}', {CHAIN}, '{WALLET}', {sent.nonce}, 1)",
    )

    assert books.senders_in_blocks(CHAIN, (7, 7)) == {WALLET: 2, OTHER_WALLET: 0}


def test_refunds_of_a_chain_are_pages_in_the_order_of_ids(store: SQLStore) -> None:
    """With any status; refunds of other chains are not in them."""
    found = sorted(accepted(store).id for _ in range(3))
    accepted(store, chain_id=7)

    first = store.tables(BookTables).refunds_of_chain(CHAIN, after="", limit=2)
    rest = store.tables(BookTables).refunds_of_chain(CHAIN, after=first[-1].id, limit=2)

    assert [each.id for each in (*first, *rest)] == found


def test_tokens_of_refunds(store: SQLStore) -> None:
    """Each contract once, also those that no configuration has any more."""
    for _ in range(2):
        accepted(store)
    accepted(store, token="OLD", token_address=WALLET, decimals=18)
    accepted(store, chain_id=7, token_address="0x7")

    assert sorted(
        store.tables(BookTables).refunded_tokens(CHAIN), key=lambda each: each.symbol
    ) == [BookToken(WALLET, "OLD", 18), BookToken(OTHER_WALLET, "TUSD", 6)]


def test_the_log_names_keys_that_the_ring_may_have_lost(store: SQLStore) -> None:
    """Rotations, also under their old name, name the new and the previous key."""
    third = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
    rotated = "key-rotate-succeeded"
    records: list[dict[str, str | None]] = [
        {"event": rotated, "address": OTHER_WALLET, "previous": WALLET},
        {"event": "rotation", "address": third, "previous": None},
        {"event": "key-rotate-requested", "address": RECIPIENT},
        {"event": "note", "text": '"event":"rotation"'},
        {"event": rotated, "address": "not an address"},
    ]
    drafts = [Record.of(each, now()) for each in records]
    store.append([store.authenticate(each) for each in drafts])

    assert store.tables(BookTables).logged_addresses() == sorted(
        [WALLET, OTHER_WALLET, third]
    )


def test_a_changed_refund_is_not_authentic(store: SQLStore) -> None:
    """The books ask for each refund; they compare no row that another wrote."""
    refund = accepted(store)
    store.require_authentic(refund)

    with pytest.raises(RowNotAuthenticError):
        store.require_authentic(replace(refund, amount=1))


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
