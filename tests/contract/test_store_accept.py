"""Contract of ``accept_all``: it inserts a refund once, and exactly as given."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

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
from signer.model.acceptance import SignedRequest
from signer.model.refund import Status
from tests.fixtures.ledger import (
    TEXTS,
    accept,
    accepted,
    examples,
    now,
    queued,
    queued_call,
    reserved,
    save,
    step_to,
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


def test_a_new_refund_is_stored(store: SQLStore) -> None:
    """Each field of a new refund reads back as given."""
    refund = queued(reason="broken on arrival")

    assert accept(store, refund) == (refund, True)
    assert store.get(refund.id) == refund


@pytest.mark.parametrize(
    ("amount", "calldata"),
    [(0, b"\xf0\x0d"), (10**18, b""), (2**256 - 1, bytes(16_384))],
    ids=["without coin", "coin", "the most"],
)
def test_a_call_is_stored(store: SQLStore, amount: int, calldata: bytes) -> None:
    """Its calldata reads back exactly: none is not the same as no call."""
    call = queued_call(amount=amount, calldata=calldata)

    assert accept(store, call) == (call, True)
    found = stored(store, call)
    assert (found.amount, found.calldata) == (amount, calldata)
    assert found == call
    store.require_authentic(found)
    assert store.open_calls(call.chain_id) == (found,)
    assert store.open_calls(7) == ()


def test_only_calls_that_are_not_final_are_open(store: SQLStore) -> None:
    """In the order of their ids, with and without a nonce."""
    accepted(store)
    calls = [accept(store, queued_call(id=f"rf_{n:032x}"))[0] for n in range(3)]
    held = reserved(store, calls[0])
    ended = step_to(calls[1], Status.REFUSED, now(), failure_code="x")
    save(store, calls[1], ended)

    assert store.open_calls(31337) == (held, calls[2])


@pytest.mark.parametrize(
    "changes",
    [{"amount": 0, "calldata": None}, {"calldata": bytes(16_385)}],
    ids=["no amount", "too long"],
)
def test_what_no_call_has(store: SQLStore, changes: dict[str, Any]) -> None:
    """A refund pays something, and calldata has a bound."""
    with pytest.raises(StoreError):
        accept(store, queued_call(**changes))


@examples
@given(amount=st.integers(1, 2**256 - 1))
def test_amounts_are_exact(store: SQLStore, amount: int) -> None:
    """Every amount of an ERC-20 token reads back exactly."""
    refund = accepted(store, amount=amount)

    assert amount == stored(store, refund).amount


@examples
@given(moment=MOMENTS)
def test_times_are_exact(store: SQLStore, moment: datetime) -> None:
    """A time of any zone reads back to the microsecond, in UTC."""
    refund = accepted(store, created_at=moment)
    created_at = stored(store, refund).created_at

    assert moment == created_at
    assert UTC is created_at.tzinfo


@examples
@given(text=TEXTS)
def test_texts_are_exact(store: SQLStore, text: str) -> None:
    """A text in any script reads back exactly."""
    refund = accepted(store, reason=text)

    assert text == stored(store, refund).reason


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": 0},
        {"amount": -1},
        {"amount": 2**256},
        {"amount": 1.0},
        {"created_at": now().replace(tzinfo=None)},
    ],
)
def test_invalid_values_are_refused(store: SQLStore, changes: dict[str, Any]) -> None:
    """An amount is a positive integer of at most 256 bits; a time has a zone."""
    refund = queued(**changes)

    with pytest.raises(StoreError):
        accept(store, refund)
    assert store.get(refund.id) is None


def test_a_repeated_request_finds_its_refund(store: SQLStore) -> None:
    """The same key and request find the stored refund in its current state."""
    first = accepted(store)
    now_reserved = reserved(store, first)
    again = replace(first, id=queued().id, created_at=now(), updated_at=now())

    assert (now_reserved, False) == accept(store, again)
    assert store.get(again.id) is None


def test_a_key_finds_its_refund(store: SQLStore) -> None:
    refund = accepted(store)

    assert refund == store.find(refund.tenant, refund.idempotency_key)
    assert store.find("another", refund.idempotency_key) is None
    assert store.find(refund.tenant, "never used") is None
    assert store.find(refund.tenant, "a\0b") is None


def test_a_used_key_with_another_request_is_a_mismatch(store: SQLStore) -> None:
    """The error names the refund, and nothing is inserted."""
    first = accepted(store)
    other = queued(idempotency_key=first.idempotency_key, fingerprint="ff" * 32)

    with pytest.raises(IdempotencyMismatchError, match=first.id) as caught:
        accept(store, other)
    assert caught.value.refund_id == first.id
    assert store.get(other.id) is None


def test_a_used_reference_with_a_new_key_is_a_conflict(store: SQLStore) -> None:
    """The error names the refund, and nothing is inserted."""
    first = accepted(store)
    other = queued(reference=first.reference)

    with pytest.raises(ConflictError, match=first.id) as caught:
        accept(store, other)
    assert ConflictError is type(caught.value)
    assert caught.value.refund_id == first.id
    assert store.get(other.id) is None


def test_a_mismatch_precedes_a_conflict(store: SQLStore) -> None:
    """If one refund has the key and another the reference, the key decides."""
    by_key, by_reference = accepted(store), accepted(store)
    other = queued(
        idempotency_key=by_key.idempotency_key,
        reference=by_reference.reference,
        fingerprint="ff" * 32,
    )

    with pytest.raises(IdempotencyMismatchError, match=by_key.id):
        accept(store, other)


def test_clients_have_separate_keys_and_references(store: SQLStore) -> None:
    first = accepted(store)
    other = queued(
        tenant="another",
        idempotency_key=first.idempotency_key,
        reference=first.reference,
    )

    assert (other, True) == accept(store, other)


def test_names_are_compared_byte_by_byte(store: SQLStore) -> None:
    """Keys that a locale considers equal are different keys."""
    for key in ("ss", "ß", "SS", "ss ", "e\u0301", "\u00e9"):
        accepted(store, idempotency_key=key)

    assert len(store.list("gateway").refunds) == 6


@pytest.mark.parametrize("text", ["", "x" * 256, "a\0b", "\ud800"])
@pytest.mark.parametrize("field", ["idempotency_key", "reference", "tenant"])
def test_invalid_names_are_refused(store: SQLStore, field: str, text: str) -> None:
    """The error for a name that no index can hold names the field."""
    with pytest.raises(InvalidInputError) as caught:
        accept(store, queued(**{field: text}))

    assert field == caught.value.field


def test_a_new_refund_is_queued(store: SQLStore) -> None:
    with pytest.raises(ValueError, match="queued"):
        accept(store, queued(status=Status.CONFIRMED))
    with pytest.raises(ValueError, match="queued"):
        accept(store, queued(version=1))


def test_a_used_id_is_an_error(store: SQLStore) -> None:
    """The id of another refund is refused, and changes nothing."""
    first = accepted(store)

    with pytest.raises(StoreError):
        accept(store, queued(id=first.id))
    assert first == store.get(first.id)


SIGNED = SignedRequest(
    body=b'{"amount": "12.50"}\n\xff\0',
    content_digest="sha-256=:AAAA:",
    signature_input='sig1=("@method");created=1',
    signature="sig1=:AAAA:",
    at=datetime(2026, 11, 26, 3, 0, tzinfo=UTC),
)


@pytest.mark.parametrize("max_open", [None, 100])
def test_a_signed_request_is_stored_with_its_refund(
    store: SQLStore, max_open: int | None
) -> None:
    """Byte for byte, and once; a repetition with another signature changes nothing."""
    refund = queued()
    other = replace(SIGNED, signature="sig1=:BBBB:")
    before = now() - timedelta(seconds=1)
    first = accept(store, refund, max_open=max_open, signed=SIGNED)
    again = accept(
        store, replace(refund, id=queued().id), max_open=max_open, signed=other
    )
    found = store.signed_request(refund.id)

    assert (first, again) == ((refund, True), (refund, False))
    assert found is not None
    assert replace(found, at=SIGNED.at) == SIGNED
    if store._database.dialect == "sqlite":
        assert found.at == SIGNED.at
    else:  # The server's clock: a role of the database cannot date it back.
        assert before <= found.at <= now() + timedelta(seconds=1)


def test_a_refund_without_a_signed_request(store: SQLStore) -> None:
    """None was stored, or there is no such refund."""
    assert store.signed_request(accepted(store).id) is None
    assert store.signed_request("rf_unknown") is None
    assert store.signed_request("\0") is None
