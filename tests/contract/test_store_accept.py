"""Contract of ``accept_all``: each refund once and as given, one by one or together."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from backends.sql import SQLStore
from backends.sql.tables import audit_records
from signer.errors import (
    ConflictError,
    HotWalletError,
    IdempotencyMismatchError,
    InvalidInputError,
    OpenRefundsLimitError,
    StoreError,
    StoreUnavailableError,
)
from signer.model.acceptance import Acceptance, SignedRequest
from signer.model.refund import Refund, Status
from tests.fixtures.ledger import (
    TEXTS,
    accept,
    accepted,
    examples,
    now,
    queued,
    queued_call,
    refund_page,
    reserved,
    save,
    step_to,
    stored,
)
from tests.fixtures.races import race
from tests.support.ledgers import DRAFTS, open_ledger


INVALID = [
    *(queued(amount=each) for each in (0, -1, 2**256, 1.0)),
    queued(created_at=now().replace(tzinfo=None)),
    queued_call(amount=0, calldata=None),
    queued_call(calldata=bytes(16_385)),
]

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


def test_a_key_finds_its_refund(store: SQLStore) -> None:
    refund = accepted(store)

    assert refund == store.find(refund.tenant, refund.idempotency_key)
    assert store.find("another", refund.idempotency_key) is None
    assert store.find(refund.tenant, "never used") is None
    assert store.find(refund.tenant, "a\0b") is None


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


def test_invalid_values_are_refused(store: SQLStore) -> None:
    """An amount is of at most 256 bits, calldata has a bound, and a time a zone."""
    for refund in INVALID:
        with pytest.raises(StoreError):
            accept(store, refund)
        assert store.get(refund.id) is None


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

    assert len(refund_page(store, "gateway").refunds) == 6


@pytest.mark.parametrize("field", ["idempotency_key", "reference", "tenant"])
def test_invalid_names_are_refused(store: SQLStore, field: str) -> None:
    """The error for a name that no index can hold names the field."""
    for text in ("", "x" * 256, "a\0b", "\ud800"):
        with pytest.raises(InvalidInputError) as caught:
            accept(store, queued(**{field: text}))

        assert field == caught.value.field


def test_a_new_refund_is_queued(store: SQLStore) -> None:
    with pytest.raises(ValueError, match="queued"):
        accept(store, queued(status=Status.CONFIRMED))
    with pytest.raises(ValueError, match="queued"):
        accept(store, queued(version=1))


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


Result = tuple[Refund, bool] | HotWalletError


def _accept(store: SQLStore, *refunds: Refund, **given: Any) -> list[Result]:
    return list(store.accept_all([Acceptance(each, **given) for each in refunds]))


def test_each_new_refund_is_stored(store: SQLStore) -> None:
    for count in (0, 1, 2, 20):
        refunds = [queued() for _ in range(count)]

        assert _accept(store, *refunds) == [(refund, True) for refund in refunds]
        assert [store.get(refund.id) for refund in refunds] == refunds
        assert [len(store.history(refund.id)) for refund in refunds] == [1] * count


def test_the_results_have_the_order_of_the_list(store: SQLStore) -> None:
    """The tenants' locks are taken in another order."""
    refunds = [queued(tenant=tenant) for tenant in ("b", "a", "c", "a", "b")]

    assert _accept(store, *refunds) == [(refund, True) for refund in refunds]


@pytest.mark.parametrize("together", [True, False])
def test_a_refused_refund_does_not_affect_the_others(
    store: SQLStore, *, together: bool
) -> None:
    """Errors name the earlier refund, which is found in its current state."""
    new = accepted(store)
    first = reserved(store, new)
    given = [
        queued(),
        queued(idempotency_key=first.idempotency_key, fingerprint="ff" * 32),
        replace(new, id=queued().id),
        queued(reference=first.reference),
        queued(reference="x" * 256),
        queued(id=first.id),
        queued(amount=0),
        queued(),
    ]
    groups = [given] if together else [[each] for each in given]
    results = [result for group in groups for result in _accept(store, *group)]

    assert results[0] == (given[0], True)
    assert isinstance(results[1], IdempotencyMismatchError)
    assert results[2] == (first, False)
    assert type(results[3]) is ConflictError
    assert results[1].refund_id == results[3].refund_id == first.id
    assert first.id in str(results[1])
    assert isinstance(results[4], InvalidInputError)
    assert isinstance(results[5], StoreError)
    assert isinstance(results[6], StoreError)
    assert results[7] == (given[7], True)
    assert [store.get(each.id) for each in given[:1] + given[7:]] == [
        given[0],
        given[7],
    ]
    assert len(refund_page(store, "gateway").refunds) == 3


def test_the_list_may_repeat_a_refund(store: SQLStore) -> None:
    """The second one finds the first, as if it had come later."""
    refund = queued()
    again = replace(refund, id=queued().id)
    other = replace(refund, id=queued().id, fingerprint="ff" * 32)
    results = _accept(store, refund, again, other)

    assert results[:2] == [(refund, True), (refund, False)]
    assert isinstance(results[2], IdempotencyMismatchError)


def test_the_limit_counts_the_refunds_of_the_list(store: SQLStore) -> None:
    """Those over the limit leave nothing; a repetition is over no limit."""
    first = accepted(store)
    refunds = [queued() for _ in range(4)]
    repeated = replace(first, id=queued().id)
    conflicting = queued(reference=first.reference)
    results = _accept(store, *refunds, repeated, conflicting, max_open=3)

    assert results[:2] == [(refund, True) for refund in refunds[:2]]
    assert [type(each) for each in results[2:4]] == [OpenRefundsLimitError] * 2
    assert results[4] == (first, False)
    assert isinstance(results[5], ConflictError)
    assert [store.get(each.id) for each in refunds] == [*refunds[:2], None, None]


def test_threads_accept_together(store: SQLStore) -> None:
    """Each gets its own answer; one that is refused leaves the others as they are."""
    first = accepted(store)
    given = [queued() for _ in range(20)]
    given[4] = queued(amount=0)
    given[8] = queued(reference=first.reference)
    given[12] = replace(first, id=queued().id)
    start = Barrier(len(given))

    def accept(refund: Refund) -> Result:
        start.wait(10)
        (result,) = _accept(store, refund)
        return result

    with ThreadPoolExecutor(len(given)) as threads:
        results = list(threads.map(accept, given))

    assert isinstance(results.pop(12), tuple)
    assert isinstance(results.pop(8), ConflictError)
    assert isinstance(results.pop(4), StoreError)
    stored = [each for place, each in enumerate(given) if place not in {4, 8, 12}]
    assert results == [(refund, True) for refund in stored]
    assert [store.get(each.id) for each in given[:4]] == given[:4]
    assert len(refund_page(store, "gateway").refunds) == 18


def test_record_and_signed_request_are_stored(store: SQLStore) -> None:
    """Only those of the inserted refunds."""
    first = accepted(store)
    refunds = [queued(), replace(first, id=queued().id)]
    signed = SignedRequest(b"{}", "digest", "input", "signature", now())
    records = [DRAFTS.forged([f"record {n}"]) for n in range(2)]
    store.accept_all(
        [
            Acceptance(refund, record, signed=signed)
            for refund, record in zip(refunds, records, strict=True)
        ]
    )
    found = store._database.rows(select(audit_records.c.id))

    assert store.signed_request(refunds[0].id) is not None
    assert store.signed_request(refunds[1].id) is None
    assert store.signed_request(first.id) is None
    assert [row.id for row in found] == [records[0].id]


def test_an_unavailable_database_is_the_result_of_each(tmp_path: Path) -> None:
    store = open_ledger(f"sqlite:///{tmp_path}/missing.db", timeout=0.1)
    results = _accept(store, queued(), queued())

    assert [type(each) for each in results] == [StoreUnavailableError] * 2


def _accept_tenants(store: SQLStore, index: int) -> list[bool]:
    order = TENANTS if index % 2 else TENANTS[::-1]
    refunds = [
        queued(tenant=tenant, idempotency_key=f"key {n}", reference=f"key {n}")
        for tenant in order
        for n in range(5)
    ]
    results = _accept(store, *refunds, max_open=100)
    assert not [each for each in results if isinstance(each, HotWalletError)]
    return [created for _, created in results]  # type: ignore[misc]


TENANTS = ("a", "b", "c")


def test_lists_of_several_processes_do_not_deadlock(database_url: str) -> None:
    """In opposite orders; each refund is created once."""
    created = race(_accept_tenants, database_url, 4)

    assert sum(map(sum, created)) == 15
