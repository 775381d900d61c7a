"""Contract of ``Store.accept``: it inserts a refund once, and exactly as given."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.sql import SQLStore
from signer.errors import (
    ConflictError,
    IdempotencyMismatchError,
    InvalidInputError,
    StoreError,
)
from signer.model.refund import Status
from signer.ports import Store
from tests.fixtures.ledger import (
    TEXTS,
    accepted,
    examples,
    now,
    queued,
    reserved,
    stored,
)


ZONES = st.integers(-14 * 60, 14 * 60).map(
    lambda minutes: timezone(timedelta(minutes=minutes))
)
MOMENTS = st.builds(
    lambda seconds, microseconds, zone: datetime.fromtimestamp(seconds, zone).replace(
        microsecond=microseconds
    ),
    st.integers(0, 2**32),
    st.integers(0, 999_999),
    ZONES,
)


def test_is_a_store(store: SQLStore) -> None:
    """The store satisfies the port for mypy, and reports that it is usable."""
    as_the_core_sees_it: Store = store

    as_the_core_sees_it.check()


def test_stores_what_was_asked(store: SQLStore) -> None:
    """A new refund is created, and reads back field by field."""
    refund = queued(reason="broken on arrival")

    assert store.accept(refund) == (refund, True)
    assert store.get(refund.id) == refund


@examples
@given(amount=st.integers(1, 2**256 - 1))
def test_amounts_are_exact(store: SQLStore, amount: int) -> None:
    """Every amount that an ERC-20 token knows reads back to the last unit."""
    refund = accepted(store, amount=amount)

    assert amount == stored(store, refund).amount


@examples
@given(moment=MOMENTS)
def test_times_are_exact(store: SQLStore, moment: datetime) -> None:
    """A time reads back to the microsecond, and in UTC, whatever its zone was."""
    refund = accepted(store, created_at=moment)
    created_at = stored(store, refund).created_at

    assert moment == created_at
    assert UTC is created_at.tzinfo


@examples
@given(text=TEXTS)
def test_texts_are_exact(store: SQLStore, text: str) -> None:
    """A text reads back letter by letter, in every script."""
    refund = accepted(store, reason=text)

    assert text == stored(store, refund).reason


@pytest.mark.parametrize("amount", [0, -1, 2**256])
def test_impossible_amounts(store: SQLStore, amount: int) -> None:
    """Nothing, less than nothing and more than a word are no amounts."""
    refund = queued(amount=amount)

    with pytest.raises(StoreError):
        store.accept(refund)
    assert store.get(refund.id) is None


def test_refuses_floats(store: SQLStore) -> None:
    """Money is an integer, whatever a driver would make of it."""
    with pytest.raises(StoreError):
        store.accept(queued(amount=1.0))


def test_refuses_naive_times(store: SQLStore) -> None:
    """A time without a time zone is refused."""
    with pytest.raises(StoreError):
        store.accept(queued(created_at=now().replace(tzinfo=None)))


def test_replays(store: SQLStore) -> None:
    """The same key and request find the stored refund, as far as it has come."""
    first = accepted(store)
    now_reserved = reserved(store, first)
    again = replace(first, id=queued().id, created_at=now(), updated_at=now())

    assert (now_reserved, False) == store.accept(again)
    assert store.get(again.id) is None


def test_find(store: SQLStore) -> None:
    """A key finds the refund that the same client created with it, and no other."""
    refund = accepted(store)

    assert refund == store.find(refund.client, refund.idempotency_key)
    assert store.find("another", refund.idempotency_key) is None
    assert store.find(refund.client, "never used") is None
    assert store.find(refund.client, "a\0b") is None


def test_key_for_another_request(store: SQLStore) -> None:
    """A used key with another request is a mismatch, and inserts nothing."""
    first = accepted(store)
    other = queued(idempotency_key=first.idempotency_key, fingerprint="ff" * 32)

    with pytest.raises(IdempotencyMismatchError, match=first.id):
        store.accept(other)
    assert store.get(other.id) is None


def test_reference_under_another_key(store: SQLStore) -> None:
    """A used reference under a new key is a conflict that names the refund."""
    first = accepted(store)
    other = queued(reference=first.reference)

    with pytest.raises(ConflictError, match=first.id) as caught:
        store.accept(other)
    assert ConflictError is type(caught.value)
    assert store.get(other.id) is None


def test_mismatch_comes_before_conflict(store: SQLStore) -> None:
    """When one refund has the key and another the reference, the key decides."""
    by_key, by_reference = accepted(store), accepted(store)
    other = queued(
        idempotency_key=by_key.idempotency_key,
        reference=by_reference.reference,
        fingerprint="ff" * 32,
    )

    with pytest.raises(IdempotencyMismatchError, match=by_key.id):
        store.accept(other)


def test_clients_do_not_meet(store: SQLStore) -> None:
    """Keys and references belong to a client; another's are not in the way."""
    first = accepted(store)
    other = queued(
        client="another",
        idempotency_key=first.idempotency_key,
        reference=first.reference,
    )

    assert (other, True) == store.accept(other)


def test_names_are_compared_byte_by_byte(store: SQLStore) -> None:
    """Keys that a locale would call equal are two keys."""
    for key in ("ss", "ß", "SS", "ss ", "e\u0301", "\u00e9"):
        accepted(store, idempotency_key=key)

    assert len(store.list("gateway").refunds) == 6


@pytest.mark.parametrize("text", ["", "x" * 256, "a\0b", "\ud800"])
@pytest.mark.parametrize("field", ["idempotency_key", "reference", "client"])
def test_impossible_names(store: SQLStore, field: str, text: str) -> None:
    """Names that no index can hold are the caller's mistake, and name the field."""
    with pytest.raises(InvalidInputError) as caught:
        store.accept(queued(**{field: text}))

    assert field == caught.value.field


def test_only_queued(store: SQLStore) -> None:
    """Nothing enters the ledger but by its first state."""
    with pytest.raises(ValueError, match="queued"):
        store.accept(queued(status=Status.CONFIRMED))
    with pytest.raises(ValueError, match="queued"):
        store.accept(queued(version=1))


def test_taken_id(store: SQLStore) -> None:
    """An id that another refund has is a defect, and changes nothing."""
    first = accepted(store)

    with pytest.raises(StoreError):
        store.accept(queued(id=first.id))
    assert first == store.get(first.id)
