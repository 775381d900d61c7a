"""Contract of stored responses: the first response is permanent."""

import pytest
from hypothesis import given

from backends.sql import SQLStore
from signer.errors import StoreError
from tests.fixtures.ledger import TEXTS, accepted, examples, now


def test_there_is_none_at_first(store: SQLStore) -> None:
    """A refund whose request is being answered has no answer yet."""
    refund = accepted(store)

    assert store.answer(refund.id) is None
    assert store.answer("rf_0") is None
    assert store.answer("a\0b") is None


def test_the_first_answer_stays(store: SQLStore) -> None:
    """A second response is discarded; every caller gets the first one."""
    refund, other = accepted(store), accepted(store)

    assert store.remember_answer(refund.id, "first", now()) == "first"
    assert store.remember_answer(refund.id, "second", now()) == "first"
    assert store.remember_answer(other.id, "other", now()) == "other"
    assert store.answer(refund.id) == "first"


@examples
@given(body=TEXTS)
def test_answers_are_exact(store: SQLStore, body: str) -> None:
    """An answer reads back letter by letter."""
    refund = accepted(store)
    store.remember_answer(refund.id, body, now())

    assert body == store.answer(refund.id)


def test_only_refunds_have_answers(store: SQLStore) -> None:
    """A refund that was never accepted has no stored response."""
    with pytest.raises(StoreError) as caught:
        store.remember_answer("rf_0", "body", now())

    assert not caught.value.retryable
