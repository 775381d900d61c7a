"""Contract of stored answers: the first answer is permanent."""

import pytest
from hypothesis import given

from backends.sql import SQLStore
from signer.errors import StoreError
from tests.fixtures.ledger import TEXTS, accepted, examples, now


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
@given(body=TEXTS)
def test_answers_are_exact(store: SQLStore, body: str) -> None:
    refund = accepted(store)
    store.remember_answer(refund.id, body, now())

    assert body == store.answer(refund.id)


def test_an_unknown_refund_has_no_answer(store: SQLStore) -> None:
    with pytest.raises(StoreError) as caught:
        store.remember_answer("rf_0", "body", now())

    assert not caught.value.retryable
