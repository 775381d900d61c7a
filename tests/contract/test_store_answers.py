"""Contract of stored answers: the first answer is permanent."""

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given

from backends.sql import SQLStore
from signer.errors import StaleStateError, StoreError
from signer.model.acceptance import PENDING_ANSWER
from signer.model.refund import Status
from tests.fixtures.ledger import (
    TEXTS,
    accept,
    accepted,
    examples,
    now,
    queued,
)
from tests.fixtures.races import race
from tests.support.ledgers import open_ledger


def test_a_new_refund_has_no_answer(store: SQLStore) -> None:
    refund = accepted(store)

    assert store.answer(refund.id) is None
    assert store.answer("rf_0") is None
    assert store.answer("a\0b") is None


def test_the_first_answer_stays(store: SQLStore) -> None:
    """A second answer is discarded; every caller gets the first one."""
    refund, other = accepted(store), accepted(store)

    assert store.remember_answer(refund.id, "first", now()) == "first"
    assert store.remember_answer(refund.id, "second", now()) == "first"
    assert store.remember_answer(other.id, "other", now()) == "other"
    assert store.answer(refund.id) == "first"


@examples
@given(body=TEXTS.filter(bool))
def test_answers_are_exact(store: SQLStore, body: str) -> None:
    refund = accepted(store)
    store.remember_answer(refund.id, body, now())

    assert body == store.answer(refund.id)


def test_an_answer_is_stored_with_its_refund(store: SQLStore) -> None:
    """In the transaction of the acceptance; a repetition does not replace it."""
    refund = queued()
    again = replace(refund, id=queued().id)

    assert accept(store, refund, answer="first") == (refund, True)
    assert accept(store, again, answer="second") == (refund, False)
    assert store.answer(refund.id) == "first"
    assert store.answer(again.id) is None


def test_a_change_may_answer_its_request(store: SQLStore) -> None:
    """Unless there is an answer; then the change is saved all the same."""
    answered, other = accepted(store), accepted(store)
    store.remember_answer(answered.id, "first", now())
    for refund in (answered, other):
        after = refund.with_status(Status.REFUSED, now(), failure_code="x")
        store.save(refund, after, answer="second")
        assert store.get(refund.id) == after

    assert store.answer(answered.id) == "first"
    assert store.answer(other.id) == "second"


def test_a_lost_change_does_not_answer(store: SQLStore) -> None:
    refund = accepted(store)
    after = refund.with_status(Status.REFUSED, now(), failure_code="x")
    store.save(refund, after)

    with pytest.raises(StaleStateError):
        store.save(refund, after, answer="late")
    assert store.answer(refund.id) is None


def test_a_pending_answer_is_replaced_once(store: SQLStore) -> None:
    """Workers leave it to the request that waits for the end."""
    refund = queued()
    accept(store, refund, answer=PENDING_ANSWER)
    refused = refund.with_status(Status.REFUSED, now(), failure_code="x")
    store.save(refund, refused, answer="of the worker")

    assert store.answer(refund.id) is None
    assert store.remember_answer(refund.id, "first", now()) == "first"
    assert store.remember_answer(refund.id, "second", now()) == "first"
    assert store.answer(refund.id) == "first"


@pytest.mark.parametrize("answer", [None, PENDING_ANSWER])
def test_one_of_many_answers_stays(database_url: str, answer: str | None) -> None:
    """Every process returns the same one."""
    store = open_ledger(database_url)
    refund = queued()
    accept(store, refund, answer=answer)
    found = race(partial(_remember, refund_id=refund.id), database_url, 4)

    assert set(found) == {store.answer(refund.id)}
    assert found[0] in {f"answer {index}" for index in range(4)}
    store.close()


def _remember(store: SQLStore, index: int, refund_id: str) -> str:
    return store.remember_answer(refund_id, f"answer {index}", now())


def test_advanced_refunds_are_found_with_their_answers(store: SQLStore) -> None:
    """Those with another status, or that are blocked; among those asked for."""
    waiting, answered, other, blocked, unasked = (accepted(store) for _ in range(5))
    after = {}
    for refund in (answered, other, unasked):
        after[refund.id] = refund.with_status(Status.REFUSED, now(), failure_code="x")
        store.save(refund, after[refund.id])
    store.remember_answer(answered.id, "body", now())
    held = replace(blocked, blocked_by="limit-reached", version=1, attempts=1)
    store.save(blocked, held)
    ids = [each.id for each in (waiting, answered, other, blocked)]
    found = store.find_advanced([*ids, "rf_unknown"], [Status.QUEUED, Status.SIGNED])

    alone = [store.find_advanced([id_], [Status.QUEUED]) for id_ in ids]

    assert alone == [
        (),
        ((after[answered.id], "body"),),
        ((after[other.id], None),),
        ((held, None),),
    ]
    assert sorted(found, key=lambda pair: ids.index(pair[0].id)) == [
        (after[answered.id], "body"),
        (after[other.id], None),
        (held, None),
    ]


def test_an_unknown_refund_has_no_answer(store: SQLStore) -> None:
    with pytest.raises(StoreError) as caught:
        store.remember_answer("rf_0", "body", now())

    assert not caught.value.retryable
