"""Contract of the queries: complete and in order."""

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.sql import SQLStore
from signer.errors import InvalidInputError
from signer.model.refund import Page, Refund, Status
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accepted,
    adopted,
    broadcast,
    examples,
    forge,
    later,
    mined,
    moved,
    now,
    opened,
    reserved,
    save,
    signed,
    step_to,
    transaction,
    unrecorded,
)


def test_an_unknown_id_has_nothing(store: SQLStore) -> None:
    for unknown in ("rf_0", "", "a\0b", "\ud800"):
        assert store.get(unknown) is None
        assert store.transactions(unknown) == ()
        assert store.history(unknown) == ()
        assert Page((), None) == store.list(unknown)
        assert Page((), None) == store.list("gateway", payment_session_id=unknown)


def test_the_refund_of_a_reference_or_nonce(store: SQLStore) -> None:
    """Of this tenant, and of this wallet."""
    queued, paid = accepted(store, tenant="shop"), reserved(store, accepted(store))
    sender, nonce = paid.reserved().sender, paid.reserved().nonce

    assert store.find_reference("shop", queued.reference) == queued
    assert store.find_reference("gateway", queued.reference) is None
    assert store.find_reference("shop", "a\0b") is None
    assert store.find_transaction(31337, sender, nonce) == paid.reserved()
    assert store.find_transaction(31337, sender, nonce + 1) is None
    assert store.find_transaction(31337, OTHER_WALLET, nonce) is None
    assert store.find_transaction(1, sender, nonce) is None


def test_recent_fees_are_those_of_confirmed_refunds(store: SQLStore) -> None:
    """Those of one wallet: the last ones by nonce, each at the fee that was mined."""
    for fee in (1, 2, 3):
        refund = reserved(store, accepted(store))
        tip = {"max_priority_fee_per_gas": 1}
        first = transaction(refund, max_fee_per_gas=10 * fee, **tip)
        second = transaction(refund, max_fee_per_gas=100 * fee, attempt=1, **tip)
        for each in (first, second):
            after = step_to(refund, Status.SIGNED, now(), tx_hash=each.tx_hash)
            save(store, refund, after, each)
            refund = moved(store, after, Status.BROADCAST)
        place = {"tx_hash": first.tx_hash, "block_number": 7, "block_hash": "0x07"}
        moved(store, moved(store, refund, Status.MINED, **place), Status.CONFIRMED)
    broadcast(store)
    start = later(-60)

    def fees(sender: str, since: datetime, limit: int) -> list[int]:
        return sorted(store.recent_max_fees(31337, sender, since, limit))

    assert fees(WALLET, start, 20) == [10, 20, 30]
    assert fees(WALLET, start, 2) == [20, 30]
    assert fees(WALLET, later(60), 20) == []
    assert fees(OTHER_WALLET, start, 20) == []


@examples
@given(
    rows=st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=12),
    limit=st.integers(1, 5),
    session=st.sampled_from(["a", "b", None]),
    status=st.sampled_from([Status.QUEUED, Status.CANCELLED, None]),
)
def test_pages_are_complete_and_in_order(
    store: SQLStore,
    rows: list[tuple[str, bool]],
    limit: int,
    session: str | None,
    status: Status | None,
) -> None:
    """The pages together have each matching refund once, newest first."""
    tenant = secrets.token_hex(8)
    made = []
    for its_session, is_cancelled in rows:
        refund = accepted(store, tenant=tenant, payment_session_id=its_session)
        if is_cancelled:
            refund = moved(store, refund, Status.CANCELLED)
        made.append(refund)
    expected = [
        refund
        for refund in sorted(made, key=lambda refund: refund.id, reverse=True)
        if session in {None, refund.payment_session_id}
        and status in {None, refund.status}
    ]
    seen: list[Refund] = []
    cursor: str | None = None
    while True:
        page = store.list(
            tenant,
            payment_session_id=session,
            status=status,
            limit=limit,
            cursor=cursor,
        )
        seen += page.refunds
        cursor = page.next_cursor
        assert len(page.refunds) == limit or cursor is None
        if cursor is None:
            break

    assert expected == seen


def test_new_refunds_do_not_shift_pages(store: SQLStore) -> None:
    old = [accepted(store) for _ in range(4)]
    first = store.list("gateway", limit=2)
    accepted(store)
    second = store.list("gateway", limit=2, cursor=first.next_cursor)

    assert {refund.id for refund in old} == {
        refund.id for refund in first.refunds + second.refunds
    }


def test_invalid_page_parameters_are_refused(store: SQLStore) -> None:
    """The error names the field."""
    wrong: list[dict[str, Any]] = [{"limit": 0}, {"limit": 1001}, {"cursor": "\0"}]
    for given_ in wrong:
        with pytest.raises(InvalidInputError) as caught:
            store.list("gateway", **given_)

        assert [caught.value.field] == [*given_]


def test_refunds_in_flight_are_returned_in_batches(store: SQLStore) -> None:
    """Sent refunds that are not final are returned, oldest first."""
    accepted(store)
    reserved(store, accepted(store))
    signed(store, reserved(store, accepted(store)))
    final = moved(store, mined(store, broadcast(store)), Status.CONFIRMED)
    flying = [broadcast(store), mined(store, broadcast(store)), broadcast(store)]
    flying.sort(key=lambda refund: refund.nonce or 0)

    assert final.status.is_final
    found = store.in_flight(10)
    whole = store.with_payments([one.transaction for one in found])
    assert flying == [one.payment for one in whole]
    assert [(each.tx_hash,) for each in flying] == [one.tx_hashes for one in found]
    assert found[:2] == store.in_flight(2)
    assert found[2:] == store.in_flight(2, after=found[1].transaction)
    assert store.in_flight(2, after=found[2].transaction) == ()


def test_all_hashes_of_a_refund_are_watched(store: SQLStore) -> None:
    """R16: a replaced transaction may still be mined."""
    sent = broadcast(store)
    second = transaction(sent, attempt=1)
    replaced = step_to(sent, Status.SIGNED, now(), tx_hash=second.tx_hash)
    save(store, sent, replaced, second)
    moved(store, replaced, Status.BROADCAST)
    (flying,) = store.in_flight(10)

    assert flying.tx_hashes == (second.tx_hash, sent.tx_hash)


def test_the_hash_of_an_adopted_refund_is_watched(store: SQLStore) -> None:
    refund = accepted(store)
    store.add_unrecorded(opened(store), [unrecorded(memo=refund.memo)])
    store.adopt(refund, adopted(refund, 0))
    (flying,) = store.in_flight(10)

    assert flying.tx_hashes == (adopted(refund, 0).tx_hash,)


def test_a_text_that_is_no_hash_is_not_watched(store: SQLStore) -> None:
    """Another program wrote it: nodes would reject the whole batch of receipts."""
    sent = broadcast(store)
    for text in ("", "0x", "0x" + "A" * 64, "0x" + "0" * 63, "x" * 66):
        forge(store, f"UPDATE transactions SET tx_hash = '{text}'")

        (flying,) = store.in_flight(10)

        assert flying.tx_hashes == (sent.tx_hash,)


def _below(store: SQLStore, refund: Refund, limit: int) -> Sequence[Refund]:
    own = refund.reserved()
    below = store.open_below(refund.chain_id, own.sender, own.nonce, limit)
    return tuple(each.payment for each in below)


def test_open_refunds_with_lower_nonces(store: SQLStore) -> None:
    """Those of the same wallet are returned, lowest first."""
    first, second, third, last = (broadcast(store) for _ in range(4))
    accepted(store)
    reserved(store, accepted(store), sender=OTHER_WALLET)
    reserved(store, accepted(store, chain_id=1))
    moved(store, mined(store, second), Status.CONFIRMED)

    assert (first, third) == _below(store, last, 10)
    assert (first,) == _below(store, last, 1)
    assert _below(store, first, 10) == ()
