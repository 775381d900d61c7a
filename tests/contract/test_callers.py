"""Contract of ``SharedState``: workers, tokens, counts, alerts, looks, problems."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Table, event, func, select

from backends.sql import SQLStore
from backends.sql.database import Database
from backends.sql.shared_state import SharedTables
from backends.sql.tables import rate_counters, used_tokens
from signer.alerts import Alert
from signer.errors import StoreError
from signer.model.network_view import Look
from signer.model.worker_row import WorkerRow
from tests.fixtures.races import race
from tests.support.ledgers import open_ledger


NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
PERIOD = 30_000_000


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Return each database in turn, with more connections than usual."""
    database = Database(database_url, pool_size=8, timeout=5.0)
    yield database
    database.close()


@pytest.fixture
def tables(database: Database) -> SharedTables:
    """The tables on each database in turn."""
    return SharedTables(database)


def _rows(database: Database, table: Table) -> int:
    count = select(func.count()).select_from(table)
    return int(database.run(lambda c: c.execute(count).scalar_one()))


def test_a_token_is_used_once(tables: SharedTables) -> None:
    """The first use is the only one until the token expires."""
    uses = [tables.use_token("a", NOW + MINUTE, NOW) for _ in range(3)]
    other = tables.use_token("b", NOW + MINUTE, NOW)
    last = tables.use_token("a", NOW + MINUTE, NOW + MINUTE)
    later = tables.use_token("a", NOW + 3 * MINUTE, NOW + 2 * MINUTE)
    again = tables.use_token("a", NOW + 3 * MINUTE, NOW + 2 * MINUTE)

    assert uses == [True, False, False]
    assert other
    assert not last
    assert later
    assert not again


def test_counts_are_added_up(tables: SharedTables) -> None:
    """By their names, which have several words; they are no alerts."""
    for name in ("key-mismatch", "key-unhealthy", "key-mismatch"):
        tables.count_alert(name, NOW)
    for count in (2, 3):
        tables.add_counts({("refused", "a"): count, ("decided", "b", "c"): 1}, NOW)

    assert tables.shared_counts() == {("refused", "a"): 5, ("decided", "b", "c"): 2}
    assert tables.alert_counts() == {"key-mismatch": 2, "key-unhealthy": 1}


def test_threads_share_the_tables(tables: SharedTables) -> None:
    """Of concurrent uses of a token one succeeds; each count gets a different sum."""
    with ThreadPoolExecutor(8) as pool:
        firsts = pool.map(
            lambda n: tables.use_token(f"token {n % 5}", NOW + MINUTE, NOW), range(40)
        )
        sums = pool.map(lambda _: tables.count("a", PERIOD, 2), range(40))

        assert sum(firsts) == 5
        assert sorted(sums) == list(range(2, 82, 2))


def _use_each(store: SQLStore, index: int) -> list[bool]:
    """Use 25 tokens that another process uses at the same moment."""
    tables = SharedTables(store._database)
    return [tables.use_token(f"token {n}", NOW + MINUTE, NOW) for n in range(25)]


def test_one_process_uses_a_token(database_url: str) -> None:
    """H9: of two processes one accepts a token, and none accepts it after a restart."""
    one, other = race(_use_each, database_url, 2)
    restarted = open_ledger(database_url)
    afterwards = _use_each(restarted, 0)
    restarted.close()

    assert [a + b for a, b in zip(one, other, strict=True)] == [1] * 25
    assert not any(afterwards)


def test_buckets_and_periods_have_separate_sums(tables: SharedTables) -> None:
    assert [tables.count("a", PERIOD) for _ in range(3)] == [1, 2, 3]
    assert tables.count("a", PERIOD, 10) == 13
    assert tables.count("b", PERIOD) == 1
    assert tables.count("a", PERIOD + 1, 5) == 5
    assert tables.count("a", PERIOD) == 14


def test_old_rows_are_deleted(tables: SharedTables, database: Database) -> None:
    """Rows that a host with a slow clock needs are kept."""
    for n in range(20):
        tables.count(f"bucket {n}", PERIOD)
        tables.use_token(f"token {n}", NOW + MINUTE, NOW)
    tables.count("a", PERIOD + 9)
    tables.use_token("a", NOW + 60 * MINUTE, NOW + 59 * MINUTE)
    kept = _rows(database, rate_counters), _rows(database, used_tokens)
    tables.count("a", PERIOD + 11)
    tables.use_token("b", NOW + 70 * MINUTE, NOW + 62 * MINUTE)

    assert kept == (21, 21)
    assert _rows(database, rate_counters) == 2
    assert _rows(database, used_tokens) == 2


def test_most_calls_are_one_statement(tables: SharedTables, database: Database) -> None:
    """The search for old rows is not part of every call."""
    tables.count("a", PERIOD)
    tables.use_token("a", NOW + MINUTE, NOW)
    statements: list[str] = []
    _listen(database, statements)
    for n in range(5):
        tables.count("a", PERIOD + n)
        tables.use_token(f"b {n}", NOW + MINUTE, NOW + n * MINUTE)

    written = [each for each in statements if "BEGIN" not in each]
    assert len(written) == 10
    assert all(each.startswith("INSERT") for each in written)


def _listen(database: Database, statements: list[str]) -> None:
    engine = database._process().engine

    def note(*args: object) -> None:
        statements.append(str(args[2]))

    event.listen(engine, "before_cursor_execute", note)


def test_one_of_several_workers_makes_a_look(tables: SharedTables) -> None:
    """The one that replaces the look that all of them read."""
    assert tables.last_look("head 1") is None
    first = Look(NOW, 2**62)
    assert tables.save_look("head 1", None, first)
    assert not tables.save_look("head 1", None, Look(NOW + MINUTE))
    assert tables.last_look("head 1") == first
    second = Look(NOW + MINUTE, 7)
    assert tables.save_look("head 1", first, second)
    assert not tables.save_look("head 1", first, Look(NOW + 2 * MINUTE))
    assert tables.last_look("head 1") == second
    assert tables.last_look("head 2") is None
    assert tables.alert_counts() == {}


def test_a_problem_lasts_until_it_is_resolved(tables: SharedTables) -> None:
    """It is raised once, again after a while, and again after its end."""
    before = [NOW - MINUTE, NOW - MINUTE, NOW]
    raised = [tables.raise_problem("node/a", NOW, each) for each in before]
    other = tables.raise_problem("node/b", NOW, NOW - MINUTE)
    lasting = set(tables.lasting_problems())
    resolved = [tables.resolve_problem("node/a", NOW) for _ in range(2)]

    assert raised == [True, False, True]
    assert other
    assert lasting == {"node/a", "node/b"}
    assert resolved == [True, False]
    assert tables.lasting_problems() == ["node/b"]
    assert tables.raise_problem("node/a", NOW, NOW - MINUTE)
    assert tables.alert_counts() == {}


def test_a_problem_of_the_future_suppresses_nothing(tables: SharedTables) -> None:
    """Another program wrote it, or the clock of its host is wrong."""
    assert tables.raise_problem("a", NOW + 9 * MINUTE, NOW)
    assert tables.raise_problem("a", NOW, NOW - MINUTE)


def test_one_of_many_processes_raises_a_problem(tables: SharedTables) -> None:
    def work(_: int) -> bool:
        return tables.raise_problem("a", NOW, NOW - MINUTE)

    with ThreadPoolExecutor(8) as pool:
        raised = list(pool.map(work, range(16)))

    assert raised.count(True) == 1


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
