"""Contract of ``RefundStore.save``: one compare-and-set."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.sql import SQLStore
from signer.errors import StaleStateError, StoreError
from signer.model.payment import PaymentState
from signer.model.refund import Move, Refund, Status
from signer.model.transaction import CLAIM_TIME
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accepted,
    as_if,
    delay,
    examples,
    later,
    moved,
    now,
    reserved,
    save,
    signed,
    step_to,
    stored,
    transaction,
)


def test_a_save_is_atomic(store: SQLStore) -> None:
    """State, transaction and history are stored together."""
    before = reserved(store, accepted(store))
    first = transaction(before)
    after = step_to(before, Status.SIGNED, now(), tx_hash=first.tx_hash)
    save(store, before, after, first)

    assert after == store.get(before.id)
    assert (first,) == store.transactions(before.id)
    assert (
        Move(after.id, 2, Status.SIGNED, after.moving.updated_at)
        == (store.history(after.id)[-1])
    )


def test_a_refund_reaches_confirmed(store: SQLStore) -> None:
    """The history has every step, and the step back at a reorganisation."""
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


def test_the_second_save_of_a_version_is_refused(store: SQLStore) -> None:
    """Nothing of it is stored."""
    before = reserved(store, accepted(store))
    after = signed(store, before)
    late = transaction(before)

    with pytest.raises(StaleStateError):
        save(
            store,
            before,
            step_to(before, Status.SIGNED, now(), tx_hash=late.tx_hash),
            late,
        )
    assert after == store.get(before.id)
    assert late not in store.transactions(before.id)
    assert len(store.history(before.id)) == 3


def test_a_delay_is_not_in_the_history(store: SQLStore) -> None:
    """A delay changes version and due time."""
    before = reserved(store, accepted(store))
    lines = store.history(before.id)
    after = delay(before, later(30), attempts=3, blocked_by="chain-unavailable")
    save(store, before, after)

    assert after == store.get(before.id)
    assert lines == store.history(before.id)


def test_a_new_status_clears_attempts_and_reason(store: SQLStore) -> None:
    """The claim of the worker stays."""
    before = reserved(store, accepted(store))
    late = delay(before, later(30), attempts=3, blocked_by="chain-unavailable")
    save(store, before, late)
    after = signed(store, late)

    assert (after.attempts, after.blocked_by) == (0, None)
    assert after.due_at == after.updated_at + CLAIM_TIME
    assert after == store.get(before.id)


def test_an_attempt_is_saved_once(store: SQLStore) -> None:
    first = signed(store, reserved(store, accepted(store)))

    with pytest.raises(StaleStateError):
        save(store, first, step_to(first, Status.BROADCAST, now()), transaction(first))
    assert first == store.get(first.id)
    assert len(store.transactions(first.id)) == 1


def test_the_hash_of_another_attempt_is_refused(store: SQLStore) -> None:
    first = signed(store, reserved(store, accepted(store)))
    copy = replace(store.transactions(first.id)[0], attempt=1)

    with pytest.raises(StoreError) as caught:
        save(store, first, step_to(first, Status.BROADCAST, now()), copy)
    assert not caught.value.retryable
    assert first == store.get(first.id)


def test_transactions_are_in_the_order_of_their_attempts(store: SQLStore) -> None:
    refund = signed(store, reserved(store, accepted(store)))
    for attempt in (1, 2):
        sent = moved(store, refund, Status.BROADCAST)
        again = transaction(refund, attempt=attempt)
        refund = step_to(sent, Status.SIGNED, now(), tx_hash=again.tx_hash)
        save(store, sent, refund, again)

    kept = store.transactions(refund.id)
    assert [each.attempt for each in kept] == [0, 1, 2]
    assert {refund.nonce} == {each.nonce for each in kept}


@examples
@given(fee=st.integers(0, 2**256 - 1), raw=st.binary(min_size=1, max_size=300))
def test_transactions_are_exact(store: SQLStore, fee: int, raw: bytes) -> None:
    """Signed bytes and fees read back exactly."""
    before = reserved(store, accepted(store))
    kept = transaction(
        before, max_fee_per_gas=fee, max_priority_fee_per_gas=fee, raw=raw
    )
    save(
        store, before, step_to(before, Status.SIGNED, now(), tx_hash=kept.tx_hash), kept
    )

    assert (kept,) == store.transactions(before.id)


@pytest.mark.parametrize(
    "changes",
    [{"nonce": 1}, {"sender": OTHER_WALLET}, {"amount": 1}, {"recipient": WALLET}],
)
def test_permanent_fields_cannot_change(
    store: SQLStore, changes: dict[str, Any]
) -> None:
    before = reserved(store, accepted(store))
    after = as_if(step_to(before, Status.FAILED, now()), **changes)

    with pytest.raises(ValueError, match="permanent field"):
        save(store, before, after)
    assert before == store.get(before.id)


def test_the_schema_refuses_assigned_without_a_nonce(store: SQLStore) -> None:
    before = accepted(store)

    with pytest.raises(StoreError):
        save(store, before, before.with_state(PaymentState.ASSIGNED, now()))
    assert before == store.get(before.id)


@pytest.mark.parametrize(
    "change",
    [
        lambda refund: step_to(refund, Status.SIGNED, now()),
        lambda refund: step_to(refund, Status.MINED, now(), tx_hash="0x01"),
    ],
    ids=["signed-without-hash", "mined-without-block"],
)
def test_the_schema_refuses_incomplete_states(
    store: SQLStore, change: Callable[[Refund], Refund]
) -> None:
    before = reserved(store, accepted(store))

    with pytest.raises(StoreError):
        save(store, before, change(before))
    assert before == store.get(before.id)


def test_a_version_cannot_be_skipped(store: SQLStore) -> None:
    before = accepted(store)
    after = replace(step_to(before, Status.CANCELLED, now()), version=2)

    with pytest.raises(ValueError, match="one more than the old"):
        save(store, before, after)


def test_a_refund_with_a_transaction_does_not_move_alone(store: SQLStore) -> None:
    """A worker moves the transaction, and the refund with it."""
    before = reserved(store, accepted(store))

    with pytest.raises(ValueError, match="moves with it"):
        store.save(before, before.with_due_at(now()))
    assert before == store.get(before.id)


def test_a_transaction_of_another_nonce_is_refused(store: SQLStore) -> None:
    before = reserved(store, accepted(store))
    foreign = transaction(before, nonce=before.nonce + 1 if before.nonce else 1)
    after = step_to(before, Status.SIGNED, now(), tx_hash=foreign.tx_hash)

    with pytest.raises(ValueError, match="another nonce"):
        save(store, before, after, foreign)


def test_unprintable_revert_reasons_are_stored(store: SQLStore) -> None:
    """No text of a contract prevents its refund from failing."""
    before = reserved(store, accepted(store))
    after = moved(store, before, Status.FAILED, failure_detail="no\0 \ud800!")

    assert replace(after, failure_detail="no\ufffd ?!") == stored(store, before)


@examples
@given(turns=st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=12))
def test_only_the_newest_version_can_be_saved(
    store: SQLStore, turns: list[tuple[int, bool]]
) -> None:
    newest = accepted(store)
    views = [newest] * 3
    for index, look_again in turns:
        before = views[index]
        after = replace(before, version=before.version + 1, updated_at=now())
        if before.version == newest.version:
            save(store, before, after)
            newest = views[index] = after
            continue
        with pytest.raises(StaleStateError):
            save(store, before, after)
        if look_again:
            views[index] = stored(store, before)

    assert newest == store.get(newest.id)
