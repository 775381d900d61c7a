"""Contract of ``RefundStore``: a save, a nonce, a request: one compare-and-set."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.sql import SQLStore
from signer.errors import RowNotAuthenticError, StaleStateError, StoreError
from signer.model.audit_record import Record
from signer.model.payment import PaymentState
from signer.model.refund import Move, Refund, Status
from signer.model.transaction import CLAIM_TIME, Transaction
from signer.model.wallet import Pause
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accept,
    accepted,
    as_if,
    delay,
    examples,
    later,
    moved,
    now,
    opened,
    queued,
    refund_page,
    reserve,
    reserved,
    save,
    signed,
    step_to,
    stored,
    transaction,
    unrecorded,
)
from tests.fixtures.races import race
from tests.support.audit import record
from tests.support.keys import key_at, made_active
from tests.support.ledgers import seal_events


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


KEY_ID = key_at(WALLET).key_id


def test_a_reservation_is_stored(store: SQLStore) -> None:
    """The returned refund has the given values and equals the stored one."""
    opened(store, first=3)
    refund = accepted(store)
    at = now()
    after = reserve(
        store, refund, sender=WALLET, key_id=KEY_ID, gas_limit=7, counted=3, at=at
    )

    assert after == refund.assigned(
        Transaction.draft(
            [refund], at, sender=WALLET, key_id=KEY_ID, gas_limit=7, nonce=3
        )
    )
    assert after == store.get(refund.id)


def test_nonces_are_consecutive(store: SQLStore) -> None:
    """Each nonce is one more than the highest, even if the chain counts less."""
    opened(store, first=5)
    nonces = [reserved(store, accepted(store)).nonce for _ in range(4)]

    assert nonces == [5, 6, 7, 8]


def test_a_chain_ahead_gives_no_nonce(store: SQLStore) -> None:
    """If the chain counts more than the ledger, the reservation fails."""
    refund = reserved(store, accepted(store), counted=0)
    assert refund.nonce == 0
    refund = accepted(store)

    with pytest.raises(StaleStateError):
        reserved(store, refund, counted=2)
    assert refund == store.get(refund.id)
    assert reserved(store, refund, counted=1).nonce == 1


def test_nonces_of_unrecorded_transactions_are_used(store: SQLStore) -> None:
    wallet = opened(store)
    assert reserved(store, accepted(store)).nonce == 0
    seen = [unrecorded(nonce=1), unrecorded(nonce=2, memo=b"m" * 16)]
    store.add_unrecorded(wallet, seen)

    assert reserved(store, accepted(store), counted=3).nonce == 3
    assert reserved(store, accepted(store), counted=3).nonce == 4


def test_a_wallet_must_be_opened(store: SQLStore) -> None:
    made_active(store, key_at(WALLET))
    refund = accepted(store)

    with pytest.raises(StaleStateError):
        reserve(
            store,
            refund,
            sender=WALLET,
            key_id=KEY_ID,
            gas_limit=7,
            counted=0,
            at=now(),
        )
    assert refund == store.get(refund.id)


def test_a_paused_wallet_gives_no_nonce(store: SQLStore) -> None:
    store.pause(opened(store), Pause.CHAIN_AHEAD, now())
    refund, other = accepted(store), accepted(store)

    with pytest.raises(StaleStateError):
        reserved(store, refund)
    assert refund == store.get(refund.id)
    assert reserved(store, other, sender=OTHER_WALLET).nonce == 0
    store.resume(opened(store), now(), ())
    assert reserved(store, refund).nonce == 0


def test_wallets_have_separate_nonces(store: SQLStore) -> None:
    first = reserved(store, accepted(store))
    other_sender = reserved(store, accepted(store), sender=OTHER_WALLET)
    other_chain = reserved(store, accepted(store, chain_id=1))

    assert [r.nonce for r in (first, other_sender, other_chain)] == [0, 0, 0]


def test_an_address_without_checksum_is_refused(store: SQLStore) -> None:
    """One wallet must not have two spellings, and so two counts."""
    refund = accepted(store)

    with pytest.raises(ValueError, match="EIP-55"):
        reserved(store, refund, sender=WALLET.lower())
    assert refund == store.get(refund.id)


def test_only_the_queued_version_is_reserved(store: SQLStore) -> None:
    """Not a refund that is reserved, cancelled or unknown."""
    taken, refund = accepted(store), accepted(store)
    first = reserved(store, taken)
    cancelled = moved(store, refund, Status.CANCELLED)

    for each in (taken, refund, queued()):
        with pytest.raises(StaleStateError):
            reserved(store, each)
    assert first == store.get(taken.id)
    assert cancelled == store.get(refund.id)


AT = now()


def _request(store: SQLStore, refund: Refund, name: str = "x") -> bool:
    return store.request_cancellation(refund, AT, record(event=name))


def test_a_request_is_stored_once(store: SQLStore) -> None:
    """The first request and its record are stored; nothing else of the row changes."""
    refund = accepted(store)

    assert _request(store, refund, "first")
    assert not store.request_cancellation(refund, later(9), record(event="second"))
    assert stored(store, refund) == replace(refund, cancel_requested_at=AT)
    assert seal_events(store) == ["first"]


@pytest.mark.parametrize("status", [Status.REFUSED, Status.CANCELLED, Status.RESERVED])
def test_a_refund_that_is_not_queued(store: SQLStore, status: Status) -> None:
    """A refund that left the queue gets no request and no record."""
    refund = accepted(store)
    if status is Status.RESERVED:
        after = reserved(store, refund)
    else:
        after = moved(store, refund, status)

    assert not _request(store, refund)
    assert stored(store, refund) == after
    assert seal_events(store) == []


def test_an_unknown_refund(store: SQLStore) -> None:
    """A refund that is not in the database gets no record."""
    assert not _request(store, queued())
    assert seal_events(store) == []


def test_a_row_that_another_program_changed(store: SQLStore) -> None:
    """No request is made for a row that another program wrote."""
    refund = accepted(store)

    with pytest.raises(RowNotAuthenticError):
        _request(store, replace(refund, amount=1))
    assert stored(store, refund) == refund
    assert seal_events(store) == []


def test_a_worker_is_not_disturbed(store: SQLStore) -> None:
    """A worker that read the refund before may delay it, and gives it no nonce."""
    refund = accepted(store)
    assert _request(store, refund)
    delayed = refund.with_due_at(later(1), blocked_by="reason")
    save(store, refund, delayed)

    with pytest.raises(StaleStateError):
        reserved(store, delayed)
    assert stored(store, refund) == replace(delayed, cancel_requested_at=AT)


def test_no_step_changes_a_request(store: SQLStore) -> None:
    """A caller of ``save`` or ``accept_all`` cannot make or withdraw one."""
    refund = accepted(store)
    assert _request(store, refund)
    asked = stored(store, refund)

    for before, wanted in ((asked, None), (refund, AT)):
        after = replace(before.with_due_at(later(1)), cancel_requested_at=wanted)
        with pytest.raises(ValueError, match="permanent"):
            save(store, before, after)
    with pytest.raises(ValueError, match="queued"):
        accept(store, queued(cancel_requested_at=AT))
    assert stored(store, refund) == asked


def test_workers_read_the_requests(store: SQLStore) -> None:
    """Only queued refunds with a request are listed, in pages, oldest first."""
    asked = [accepted(store) for _ in range(4)]
    accepted(store)
    reserved(store, asked[2])
    for refund in reversed(asked):
        assert _request(store, refund) is (refund is not asked[2])
    moved(store, asked[1], Status.CANCELLED)
    found = store.cancellation_requests(10)

    assert [each.id for each in found] == [asked[0].id, asked[3].id]
    assert list(found) == [stored(store, each) for each in found]
    assert store.cancellation_requests(1) == found[:1]
    assert store.cancellation_requests(1, after=found[0].id) == found[1:]
    assert store.cancellation_requests(1, after=found[1].id) == ()


PROCESSES = 4
REFUNDS = 20


def _ask_or_reserve(store: SQLStore, index: int) -> list[str]:
    """Ask to cancel each refund, or reserve each; return the ids that were changed."""
    refunds = refund_page(store, "gateway", limit=REFUNDS).refunds
    if index % 2:
        return [each.id for each in refunds if _request(store, each, each.id)]
    return [each.id for each in refunds if _is_refused(store, each)]


def _is_refused(store: SQLStore, refund: Refund) -> bool:
    try:
        moved(store, refund, Status.REFUSED)
    except Exception:  # noqa: BLE001  Another process was first.
        return False
    return True


def test_processes_ask_once(database_url: str, store: SQLStore) -> None:
    """Each refund has one request at most, and each request its record."""
    for _ in range(REFUNDS):
        accepted(store)
    results = race(_ask_or_reserve, database_url, PROCESSES)
    asked = [id_ for ids in results[1::2] for id_ in ids]
    ended = [id_ for ids in results[::2] for id_ in ids]
    rows = refund_page(store, "gateway", limit=REFUNDS).refunds

    assert len(asked) == len(set(asked))
    assert sorted(ended) == sorted(each.id for each in rows)
    assert set(asked) == {each.id for each in rows if each.cancel_requested_at}
    assert sorted(seal_events(store)) == sorted(asked)
    assert store.cancellation_requests(REFUNDS) == ()


def test_a_record_that_cannot_be_written(store: SQLStore) -> None:
    """Without its record, the request is not stored."""
    refund = accepted(store)
    twice = Record.of({"event": "x"}, AT)
    store.append([twice])

    with pytest.raises(Exception, match="constraint"):
        store.request_cancellation(refund, AT, twice)
    assert stored(store, refund) == refund
