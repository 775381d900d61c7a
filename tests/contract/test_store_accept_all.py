"""Contract of ``accept_all``: many refunds in one transaction, one by one."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
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
from tests.fixtures.ledger import accepted, now, queued
from tests.fixtures.races import race
from tests.support.ledgers import DRAFTS, open_ledger


Result = tuple[Refund, bool] | HotWalletError


def _accept(store: SQLStore, *refunds: Refund, **given: Any) -> list[Result]:
    return list(store.accept_all([Acceptance(each, **given) for each in refunds]))


@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_each_new_refund_is_stored(store: SQLStore, count: int) -> None:
    refunds = [queued() for _ in range(count)]

    assert _accept(store, *refunds) == [(refund, True) for refund in refunds]
    assert [store.get(refund.id) for refund in refunds] == refunds
    assert [len(store.history(refund.id)) for refund in refunds] == [1] * count


def test_the_results_have_the_order_of_the_list(store: SQLStore) -> None:
    """The tenants' locks are taken in another order."""
    refunds = [queued(tenant=tenant) for tenant in ("b", "a", "c", "a", "b")]

    assert _accept(store, *refunds) == [(refund, True) for refund in refunds]


def test_a_refused_refund_does_not_affect_the_others(store: SQLStore) -> None:
    first = accepted(store)
    given = [
        queued(),
        queued(idempotency_key=first.idempotency_key, fingerprint="ff" * 32),
        replace(first, id=queued().id),
        queued(reference=first.reference),
        queued(reference="x" * 256),
        queued(id=first.id),
        queued(amount=0),
        queued(),
    ]
    results = _accept(store, *given)

    assert results[0] == (given[0], True)
    assert isinstance(results[1], IdempotencyMismatchError)
    assert results[2] == (first, False)
    assert isinstance(results[3], ConflictError)
    assert isinstance(results[4], InvalidInputError)
    assert isinstance(results[5], StoreError)
    assert isinstance(results[6], StoreError)
    assert results[7] == (given[7], True)
    assert [store.get(each.id) for each in given[:1] + given[7:]] == [
        given[0],
        given[7],
    ]
    assert len(store.list("gateway").refunds) == 3


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
    results = _accept(store, *refunds, repeated, max_open=3)

    assert results[:2] == [(refund, True) for refund in refunds[:2]]
    assert [type(each) for each in results[2:4]] == [OpenRefundsLimitError] * 2
    assert results[4] == (first, False)
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
    assert len(store.list("gateway").refunds) == 18


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


def test_a_defect_is_raised(store: SQLStore) -> None:
    with pytest.raises(ValueError, match="queued"):
        _accept(store, queued(), queued(status=Status.CONFIRMED))


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
