"""How a change of many rows locks them, and what it does if one was changed."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest

from backends.sql import SQLStore
from backends.sql.prepared import execute
from backends.sql.statements import KEEP, SAVE, kept_values, refund_values
from signer.errors import HotWalletError, StaleStateError
from signer.model.refund import Refund
from signer.model.transaction import Transaction
from signer.ports.refund_store import Change, Reservation
from tests.fixtures.batches import VAULT, batch_of
from tests.fixtures.ledger import (
    WALLET,
    accepted,
    change_of,
    later,
    now,
    opened,
    save,
    stored,
)
from tests.support.keys import key_at, made_active
from tests.support.ledgers import open_ledger
from tests.support.waiting import eventually


@pytest.fixture
def postgresql_store(postgresql_url: str) -> Iterator[SQLStore]:
    """Return a store on PostgreSQL whose wallet is open, and whose key is active."""
    with closing(open_ledger(postgresql_url)) as store:
        opened(store)
        made_active(store, key_at(WALLET))
        yield store


def _postponed(refunds: Sequence[Refund]) -> list[Change]:
    return [change_of(each, each.with_due_at(later(9))) for each in refunds]


def _reserve(
    store: SQLStore, refunds: Sequence[Refund]
) -> Sequence[Transaction | HotWalletError]:
    return store.reserve_all(
        [Reservation(each, 65_000) for each in refunds],
        sender=WALLET,
        key_id=key_at(WALLET).key_id,
        counted=0,
        at=now(),
    )


class _Holder:
    """A transaction that has locked one refund, and what waits meanwhile."""

    def __init__(self, url: str, threads: ThreadPoolExecutor) -> None:
        self._connection = psycopg.connect(url)
        self._observer = psycopg.connect(url, autocommit=True)
        self._threads = threads
        self._waiting = 0

    def change(self, statement: bytes, refund: Refund) -> None:
        self._connection.execute(statement, [refund.id])

    def start(self, work: Any, *arguments: Any) -> Future[Any]:
        """Start *work*, and return once it waits for a lock."""
        self._waiting += 1
        future = self._threads.submit(work, *arguments)
        assert eventually(lambda: self._locks() == self._waiting)
        return future

    def commit(self) -> None:
        self._connection.commit()

    def close(self) -> None:
        self._connection.close()
        self._observer.close()

    def _locks(self) -> int:
        row = self._observer.execute(
            b"SELECT count(*) FROM pg_locks WHERE NOT granted"
        ).fetchone()
        assert row is not None
        return int(row[0])


@contextmanager
def _holding(url: str, statement: bytes, refund: Refund) -> Iterator[_Holder]:
    """Execute *statement* for *refund* in a transaction that stays open."""
    with ThreadPoolExecutor(2) as threads, closing(_Holder(url, threads)) as holder:
        holder.change(statement, refund)
        yield holder


_LOCK = b"SELECT FROM refunds WHERE id = %s FOR UPDATE"
_ASK = b"UPDATE refunds SET cancel_requested_at = now() WHERE id = %s"


@pytest.mark.parametrize("is_first", [True, False], ids=["reserve", "save"])
def test_a_reservation_does_not_deadlock_with_a_change(
    postgresql_url: str, postgresql_store: SQLStore, *, is_first: bool
) -> None:
    """Both wait for the row in the middle, and have the same rows in other orders."""
    store = postgresql_store
    refunds = [accepted(store) for _ in range(9)]
    with _holding(postgresql_url, _LOCK, refunds[4]) as holder:

        def reserve() -> Future[Any]:
            return holder.start(_reserve, store, refunds[::-1])

        def change() -> Future[Any]:
            return holder.start(store.save_all, _postponed(refunds))

        if is_first:
            reserving, saving = reserve(), change()
        else:
            saving, reserving = change(), reserve()
        holder.commit()
        reserved, errors = reserving.result(20)[::-1], saving.result(20)

    assert len(errors) == 9
    for one, error in zip(reserved, errors, strict=True):
        # One of them changed the refund, and the other one saw that.
        was_reserved = isinstance(one, Transaction)
        assert was_reserved == isinstance(error, StaleStateError)
        assert was_reserved != isinstance(one, StaleStateError)
        assert was_reserved != (error is None)


def test_a_request_to_cancel_meanwhile_is_no_change(
    postgresql_url: str, postgresql_store: SQLStore
) -> None:
    """The row is another one then, with the same version."""
    refunds = [accepted(postgresql_store) for _ in range(5)]
    with _holding(postgresql_url, _ASK, refunds[2]) as holder:
        saving = holder.start(postgresql_store._apply, _postponed(refunds))
        holder.commit()
        saving.result(20)

    found = [stored(postgresql_store, each) for each in refunds]
    assert [each.version for each in found] == [1] * 5
    assert [each.cancel_requested_at is not None for each in found].index(True) == 2


def test_a_request_to_cancel_meanwhile_keeps_a_refund_from_a_nonce(
    postgresql_url: str, postgresql_store: SQLStore
) -> None:
    """The others get theirs, without a gap."""
    refunds = [accepted(postgresql_store) for _ in range(5)]
    with _holding(postgresql_url, _ASK, refunds[2]) as holder:
        reserving = holder.start(_reserve, postgresql_store, refunds)
        holder.commit()
        outcomes = reserving.result(20)

    assert isinstance(outcomes[2], StaleStateError)
    others = [each for each in outcomes if isinstance(each, Transaction)]
    assert [each.nonce for each in others] == [0, 1, 2, 3]


def test_a_stale_row_of_many_changes_nothing(store: SQLStore) -> None:
    """The statement changes the other 99, and then all are undone."""
    refunds = [accepted(store) for _ in range(100)]
    save(store, refunds[50], refunds[50].with_due_at(later(1)))
    before = [stored(store, each) for each in refunds]

    with pytest.raises(StaleStateError):
        store._apply(_postponed(refunds))

    assert [stored(store, each) for each in refunds] == before


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_a_statement_returns_what_it_found(store: SQLStore, changed: int) -> None:
    """Each row once, and none that was changed: also of a row that is given twice."""
    opened(store)
    batch = batch_of(store, *(accepted(store) for _ in range(3)))
    ids = [each.id for each in batch.payments]
    kept = [kept_values(each) for each in batch.payments]
    stale = [{**each, "refunds_before": 7} for each in kept[:changed]]
    others = accepted(store), accepted(store)
    values = [
        refund_values(store._macs, each, each.with_due_at(later(1))) for each in others
    ]

    def work(connection: Any) -> tuple[Any, Any]:
        found = execute(connection, KEEP, [*stale, *kept[changed:]]).scalars().all()
        twice = [values[0], *values]
        return found, execute(connection, SAVE, twice).scalars().all()

    found, saved = store._database.transaction(work)

    assert found == ids[changed:]
    assert sorted(saved) == sorted(each.id for each in others)


def test_a_refund_is_reserved_once(store: SQLStore) -> None:
    """Also if it is given twice, and whether a vault pays it or not."""
    opened(store)
    made_active(store, key_at(WALLET))
    for vault in (None, VAULT):
        twice, other = accepted(store), accepted(store)
        outcomes = store.reserve_all(
            [Reservation(each, 65_000, vault=vault) for each in (twice, twice, other)],
            sender=WALLET,
            key_id=key_at(WALLET).key_id,
            counted=0,
            at=now(),
            per_batch=9,
        )

        one, again, _ = outcomes
        assert isinstance(one, Transaction)
        assert isinstance(again, StaleStateError)
        assert len(store.earlier_nonces(twice.id)) == 1
        assert stored(store, twice).nonce == one.nonce


def test_a_kept_refund_stays_as_it_is_until_the_commit(
    postgresql_url: str, postgresql_store: SQLStore
) -> None:
    """No change gets its row; what only refers to it need not wait."""
    batch = batch_of(postgresql_store, *(accepted(postgresql_store) for _ in range(3)))
    rows = [kept_values(each) for each in batch.payments]

    def work(connection: Any) -> list[int]:
        execute(connection, KEEP, rows)
        with psycopg.connect(postgresql_url) as other:
            query = "SELECT FROM refunds WHERE nonce = 0 FOR {} SKIP LOCKED"
            modes = "NO KEY UPDATE", "SHARE", "KEY SHARE"
            return [
                other.execute(query.format(mode).encode()).rowcount for mode in modes
            ]

    assert postgresql_store._database.transaction(work) == [0, 0, 3]
