"""Contract of ``SharedState``: the rows of workers, on SQLite and PostgreSQL."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from backends.sql import SQLStore
from signer.alerts import Alert
from signer.errors import StoreError
from signer.model.worker_row import WorkerRow


AT = datetime(2026, 11, 26, tzinfo=UTC)
ROW = WorkerRow("3f9a1c2e", AT, AT, "hotwallet_x 1\n")


def _after(seconds: float) -> datetime:
    return AT + timedelta(seconds=seconds)


def _recorded(store: SQLStore, count: int) -> list[WorkerRow]:
    rows = [replace(ROW, name=str(n), passed_at=_after(n)) for n in range(count)]
    for row in rows:
        store.record_pass(row)
    return rows


def test_a_worker_has_one_row(store: SQLStore) -> None:
    """A pass replaces the time and the measurements, and not the start."""
    store.record_pass(ROW)
    later = replace(ROW, started_at=_after(5), passed_at=_after(9), metrics="more")
    store.record_pass(later)

    assert store.workers() == (replace(later, started_at=AT),)


def test_the_newest_passes_are_read(store: SQLStore) -> None:
    rows = _recorded(store, 110)

    assert store.workers() == tuple(reversed(rows[10:]))


def test_rows_are_removed(store: SQLStore) -> None:
    rows = _recorded(store, 4)
    store.remove_worker("3")
    store.remove_worker("unknown")
    store.forget_workers(_after(1))

    assert store.workers() == (rows[2], rows[1])


@pytest.mark.parametrize(
    "row",
    [replace(ROW, name="x" * 65), replace(ROW, metrics="x" * 65_537)],
    ids=["name", "metrics"],
)
def test_long_rows_are_refused(store: SQLStore, row: WorkerRow) -> None:
    """Every process reads them all the time."""
    with pytest.raises(StoreError):
        store.record_pass(row)
    assert store.workers() == ()


def test_the_last_alert(store: SQLStore) -> None:
    assert store.last_alert_at(Alert.WORKER_STOPPED) is None
    store.count_alert(Alert.WORKER_STOPPED, AT)
    store.count_alert(Alert.LOW_BALANCE, _after(99))
    store.count_alert(Alert.WORKER_STOPPED, _after(60))

    assert store.last_alert_at(Alert.WORKER_STOPPED) == _after(60)
