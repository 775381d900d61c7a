"""Contract of ``Store.save``: one compare-and-set."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.sql import SQLStore
from signer.errors import StaleStateError, StoreError
from signer.model.refund import HOLD, Move, Refund, Status
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accepted,
    examples,
    later,
    moved,
    now,
    reserved,
    signed,
    stored,
    transaction,
)


def test_replaces(store: SQLStore) -> None:
    """The next state, its transaction and its history are there together."""
    before = reserved(store, accepted(store))
    first = transaction(before)
    after = before.with_status(Status.SIGNED, now(), tx_hash=first.tx_hash)
    store.save(before, after, first)

    assert after == store.get(before.id)
    assert (first,) == store.transactions(before.id)
    assert (
        Move(after.id, 2, Status.SIGNED, after.updated_at)
        == (store.history(after.id)[-1])
    )


def test_whole_life(store: SQLStore) -> None:
    """A refund goes all the way, and back when a block is taken away."""
    sent = moved(
        store, signed(store, reserved(store, accepted(store))), Status.BROADCAST
    )
    block = {"block_number": 7, "block_hash": "0x07"}
    mined = moved(store, sent, Status.MINED, **block)
    again = moved(store, mined, Status.BROADCAST, block_number=None, block_hash=None)
    final = moved(store, moved(store, again, Status.MINED, **block), Status.CONFIRMED)

    assert final == store.get(final.id)
    assert [move.status for move in store.history(final.id)] == [
        "queued", "reserved", "signed", "broadcast",
        "mined", "broadcast", "mined", "confirmed",
    ]  # fmt: skip


def test_stale(store: SQLStore) -> None:
    """The second to move a refund is refused, and nothing of it is stored."""
    before = reserved(store, accepted(store))
    after = signed(store, before)
    late = transaction(before)

    with pytest.raises(StaleStateError):
        store.save(
            before, before.with_status(Status.SIGNED, now(), tx_hash=late.tx_hash), late
        )
    assert after == store.get(before.id)
    assert late not in store.transactions(before.id)
    assert len(store.history(before.id)) == 3


def test_delays_are_no_history(store: SQLStore) -> None:
    """A refund that is put off has a new version, a due date and no new line."""
    before = reserved(store, accepted(store))
    lines = store.history(before.id)
    after = before.with_due_at(later(30), attempts=3, blocked_by="chain-unavailable")
    store.save(before, after)

    assert after == store.get(before.id)
    assert lines == store.history(before.id)


def test_moves_clear_the_trouble(store: SQLStore) -> None:
    """A save keeps the claim of the worker and clears the reason for waiting."""
    before = reserved(store, accepted(store))
    late = before.with_due_at(later(30), attempts=3, blocked_by="chain-unavailable")
    store.save(before, late)
    after = signed(store, late)

    assert (after.attempts, after.blocked_by) == (0, None)
    assert after.due_at == after.updated_at + HOLD
    assert after == store.get(before.id)


def test_same_attempt_twice(store: SQLStore) -> None:
    """An attempt is recorded once; a second save of it changes nothing."""
    first = signed(store, reserved(store, accepted(store)))

    with pytest.raises(StaleStateError):
        store.save(
            first, first.with_status(Status.BROADCAST, now()), transaction(first)
        )
    assert first == store.get(first.id)
    assert len(store.transactions(first.id)) == 1


def test_same_hash_twice(store: SQLStore) -> None:
    """The same bytes as another attempt are a defect, and move nothing."""
    first = signed(store, reserved(store, accepted(store)))
    copy = replace(store.transactions(first.id)[0], attempt=1)

    with pytest.raises(StoreError) as caught:
        store.save(first, first.with_status(Status.BROADCAST, now()), copy)
    assert not caught.value.retryable
    assert first == store.get(first.id)


def test_replacements_in_order(store: SQLStore) -> None:
    """Every transaction of a refund is kept, in the order of its attempts."""
    refund = signed(store, reserved(store, accepted(store)))
    for attempt in (1, 2):
        sent = moved(store, refund, Status.BROADCAST)
        again = transaction(refund, attempt=attempt)
        refund = sent.with_status(Status.SIGNED, now(), tx_hash=again.tx_hash)
        store.save(sent, refund, again)

    kept = store.transactions(refund.id)
    assert [each.attempt for each in kept] == [0, 1, 2]
    assert {refund.nonce} == {each.nonce for each in kept}


@examples
@given(fee=st.integers(0, 2**256 - 1), raw=st.binary(min_size=1, max_size=300))
def test_transactions_are_exact(store: SQLStore, fee: int, raw: bytes) -> None:
    """Signed bytes and fees read back as they were."""
    before = reserved(store, accepted(store))
    kept = transaction(
        before, max_fee_per_gas=fee, max_priority_fee_per_gas=fee, raw=raw
    )
    store.save(
        before, before.with_status(Status.SIGNED, now(), tx_hash=kept.tx_hash), kept
    )

    assert (kept,) == store.transactions(before.id)


@pytest.mark.parametrize(
    "changes",
    [{"nonce": 1}, {"sender": OTHER_WALLET}, {"amount": 1}, {"recipient": WALLET}],
)
def test_permanent_fields_cannot_change(
    store: SQLStore, changes: dict[str, Any]
) -> None:
    """A change of nonce, wallet, amount or recipient is a programming error."""
    before = reserved(store, accepted(store))
    after = before.with_status(Status.FAILED, now(), **changes)

    with pytest.raises(ValueError, match="permanent field"):
        store.save(before, after)
    assert before == store.get(before.id)


def test_no_nonce_but_by_reservation(store: SQLStore) -> None:
    """The schema itself knows no reserved refund without a nonce."""
    before = accepted(store)

    with pytest.raises(StoreError):
        store.save(before, before.with_status(Status.RESERVED, now()))
    assert before == store.get(before.id)


@pytest.mark.parametrize(
    "change",
    [
        lambda refund: refund.with_status(Status.SIGNED, now()),
        lambda refund: refund.with_status(Status.MINED, now(), tx_hash="0x01"),
    ],
    ids=["signed-without-hash", "mined-without-block"],
)
def test_states_have_their_facts(
    store: SQLStore, change: Callable[[Refund], Refund]
) -> None:
    """The schema knows no signed refund without hash, nor mined without block."""
    before = reserved(store, accepted(store))

    with pytest.raises(StoreError):
        store.save(before, change(before))
    assert before == store.get(before.id)


def test_versions_cannot_be_skipped(store: SQLStore) -> None:
    """A save that skips a version is a programming error."""
    before = accepted(store)
    after = replace(before.with_status(Status.CANCELLED, now()), version=2)

    with pytest.raises(ValueError, match="one more than the old"):
        store.save(before, after)


def test_foreign_transaction(store: SQLStore) -> None:
    """A transaction with another nonce cannot be recorded for a refund."""
    before = reserved(store, accepted(store))
    foreign = transaction(before, nonce=before.nonce + 1 if before.nonce else 1)
    after = before.with_status(Status.SIGNED, now(), tx_hash=foreign.tx_hash)

    with pytest.raises(ValueError, match="another refund or nonce"):
        store.save(before, after, foreign)


def test_words_of_strangers(store: SQLStore) -> None:
    """A contract's words cannot keep its refund from failing."""
    before = reserved(store, accepted(store))
    after = moved(store, before, Status.FAILED, failure_detail="no\0 \ud800!")

    assert replace(after, failure_detail="no\ufffd ?!") == stored(store, before)


@examples
@given(turns=st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=12))
def test_is_linear(store: SQLStore, turns: list[tuple[int, bool]]) -> None:
    """A save succeeds if and only if it starts from the newest version."""
    newest = accepted(store)
    views = [newest] * 3
    for index, look_again in turns:
        before = views[index]
        after = replace(before, version=before.version + 1, updated_at=now())
        if before.version == newest.version:
            store.save(before, after)
            newest = views[index] = after
            continue
        with pytest.raises(StaleStateError):
            store.save(before, after)
        if look_again:
            views[index] = stored(store, before)

    assert newest == store.get(newest.id)
