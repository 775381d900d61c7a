"""Group commit: one transaction for the threads that wait, and an outcome for each."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import pytest
from sqlalchemy import Connection, event
from sqlalchemy.exc import IntegrityError, OperationalError

from backends.sql import sqlite_dbapi
from backends.sql.group_commit import GroupCommit, Work, alone
from backends.sql.sqlite import SQLiteFile, create_file, sqlite_engine
from signer.errors import HotWalletError, LimitReachedError, StoreUnavailableError
from tests.support.waiting import eventually


OneWork = Callable[[Connection], Any]


@dataclass
class Group:
    """A group commit over a file with one table, and what it committed."""

    path: Path
    timeout: float = 5.0
    commits: int = 0
    commit: GroupCommit = field(init=False)
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(20))

    def __post_init__(self) -> None:
        engine = sqlite_engine(SQLiteFile(self.path), pool_size=4, timeout=5.0)
        event.listen(engine, "commit", self._count)
        self.commit = GroupCommit(engine, self.timeout)
        self.close = engine.dispose

    def _count(self, _: object) -> None:
        self.commits += 1

    def write(self, *works: "OneWork | Work[Any, Any]") -> Any:
        """Return the results of *works* of this thread; raise the first error."""
        given = [each if isinstance(each, Work) else alone(each) for each in works]
        return [outcome.get() for outcome in self.commit.execute(given)]

    def submit(self, *works: "OneWork | Work[Any, Any]") -> "Future[Any]":
        """Execute *works* in a thread of their own, which waits in the queue."""
        length = len(self.commit._queue)
        future = self.threads.submit(self.write, *works)
        assert eventually(lambda: len(self.commit._queue) > length)
        return future

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Let a thread lead and execute its work during the context."""
        began, end = threading.Event(), threading.Event()

        def work(_: Connection) -> None:
            began.set()
            assert end.wait(10)

        leader = self.threads.submit(self.write, work)
        assert began.wait(10)
        try:
            yield
        finally:
            end.set()
            leader.result(10)

    def rows(self) -> Sequence[int]:
        """Return the numbers that another connection sees."""
        with closing(sqlite_dbapi.connect(self.path)) as other:
            found = other.execute("SELECT number FROM numbers ORDER BY rowid")
            return [number for (number,) in found.fetchall()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.db"
    create_file(path)
    with closing(sqlite_dbapi.connect(path)) as connection:
        connection.execute("CREATE TABLE numbers (number INTEGER UNIQUE)")
        connection.execute("CREATE TABLE even (number REFERENCES numbers (number))")
    return path


@pytest.fixture
def group(path: Path) -> Iterator[Group]:
    with ExitStack() as stack:
        group = Group(path)
        stack.callback(group.close)
        stack.enter_context(group.threads)
        yield group


def _insert(number: int) -> Callable[[Connection], int]:
    def work(connection: Connection) -> int:
        connection.exec_driver_sql("INSERT INTO numbers VALUES (?)", (number,))
        return number

    return work


def test_waiting_threads_share_one_commit(group: Group) -> None:
    """The works are executed in the order of the queue; each thread gets its result."""
    with group.writing():
        futures = [group.submit(_insert(number)) for number in range(10)]
        assert group.rows() == []

    assert [future.result(10) for future in futures] == [[n] for n in range(10)]
    assert group.rows() == list(range(10))
    assert group.commits == 2


def test_the_works_of_one_thread_share_one_commit(group: Group) -> None:
    assert group.write(*map(_insert, range(5))) == list(range(5))
    assert group.commits == 1


def test_no_work_sees_an_outcome_before_the_commit(group: Group) -> None:
    """A thread is not answered while a later work of its group is executed."""
    began, end = threading.Event(), threading.Event()

    def last(_: Connection) -> None:
        began.set()
        assert end.wait(10)

    with group.writing():
        first, other = group.submit(_insert(1)), group.submit(last)
    assert began.wait(10)
    assert not first.done()
    assert group.rows() == []
    end.set()
    other.result(10)

    assert first.result(10) == [1]
    assert group.rows() == [1]


def test_an_error_is_that_of_one_work(group: Group) -> None:
    """What the work changed is undone; those before and after it are committed."""

    def fail(connection: Connection) -> None:
        _insert(2)(connection)
        raise ValueError("a defect")

    with group.writing():
        futures = [group.submit(work) for work in (_insert(1), fail, _insert(3))]
        taken = group.submit(_insert(3))

    with pytest.raises(ValueError, match="a defect"):
        futures[1].result(10)
    with pytest.raises(IntegrityError):
        taken.result(10)
    assert [futures[index].result(10) for index in (0, 2)] == [[1], [3]]
    assert group.rows() == [1, 3]


@dataclass
class Together:
    """Inserts numbers in one statement, and remembers which it was called with."""

    calls: list[Sequence[int]] = field(default_factory=list)

    def insert(
        self, connection: Connection, numbers: Sequence[int]
    ) -> Sequence[int | HotWalletError]:
        self.calls.append(numbers)
        connection.exec_driver_sql(
            f"INSERT INTO numbers VALUES {', '.join('(?)' for _ in numbers)}",
            (*numbers,),
        )
        return [LimitReachedError("small") if n < 10 else n for n in numbers]

    def work(self, number: int) -> Work[int, int]:
        """Return a work that inserts *number* with those of others."""
        return Work(self.insert, number)


def test_works_that_do_the_same_are_executed_together(group: Group) -> None:
    """Each thread gets its result; other works are executed between them."""
    together = Together()
    with group.writing():
        first = group.submit(together.work(10), together.work(11))
        other = group.submit(_insert(20))
        last = group.submit(together.work(12))

    assert [each.result(10) for each in (first, other, last)] == [[10, 11], [20], [12]]
    assert together.calls == [[10, 11, 12]]
    assert group.rows() == [10, 11, 12, 20]


def test_an_error_that_is_a_result_undoes_nothing(group: Group) -> None:
    """A refused item has no row of its own; the others keep theirs."""
    together = Together()
    with group.writing():
        works = [group.submit(together.work(number)) for number in (1, 10)]

    with pytest.raises(LimitReachedError):
        works[0].result(10)
    assert works[1].result(10) == [10]
    assert group.rows() == [1, 10]


def test_what_fails_together_is_executed_one_by_one(group: Group) -> None:
    """One that fails leaves the others as they are."""
    together = Together()
    group.write(_insert(12))
    with group.writing():
        works = [group.submit(together.work(number)) for number in (11, 12, 13)]

    with pytest.raises(IntegrityError):
        works[1].result(10)
    assert [works[index].result(10) for index in (0, 2)] == [[11], [13]]
    assert together.calls == [[11, 12, 13], [11], [12], [13]]
    assert group.rows() == [12, 11, 13]


def test_a_database_that_does_not_answer_is_asked_once(group: Group) -> None:
    """Each of several items would wait for it again."""
    calls = []

    def run(_: Connection, items: Sequence[int]) -> Sequence[int]:
        calls.append(items)
        locked: Any = sqlite_dbapi.OperationalError("database table is locked")
        locked.sqlite_errorcode = apsw.SQLITE_LOCKED
        raise OperationalError("", None, locked)

    with group.writing():
        works = [group.submit(Work(run, number)) for number in range(3)]
        other = group.submit(_insert(1))

    for work in works:
        with pytest.raises(OperationalError, match="locked"):
            work.result(10)
    assert other.result(10) == [1]
    assert calls == [[0, 1, 2]]


def test_a_single_work_with_an_error_changes_nothing(group: Group) -> None:
    def fail(connection: Connection) -> None:
        _insert(1)(connection)
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        group.write(fail)
    assert group.rows() == []
    assert group.write(_insert(2)) == [2]


def test_a_failed_commit_fails_all(group: Group) -> None:
    """No thread is answered as if its work had been committed."""

    def dangling(connection: Connection) -> None:
        # SQLite checks it at the commit, which then fails.
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        connection.exec_driver_sql("INSERT INTO even VALUES (4)")

    with group.writing():
        futures = [group.submit(work) for work in (_insert(1), dangling, _insert(3))]

    for future in futures:
        with pytest.raises(IntegrityError):
            future.result(10)
    assert group.rows() == []
    assert group.write(_insert(5)) == [5]


def test_a_busy_database_repeats_all(group: Group) -> None:
    """A lock is not released within SQLite's own wait; each row exists once."""
    calls = 0

    def delayed(connection: Connection) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            with connection.engine.connect() as other:
                other.exec_driver_sql("BEGIN IMMEDIATE")
        return _insert(2)(connection)

    with group.writing():
        works = (_insert(1), delayed, _insert(3))
        futures = [group.submit(work) for work in works]

    assert [future.result(10) for future in futures] == [[1], [2], [3]]
    assert calls == 2
    assert group.rows() == [1, 2, 3]


def test_a_busy_database_fails_after_the_timeout(path: Path) -> None:
    """Every waiting thread gets an error within its time."""
    group = Group(path, timeout=0.1)
    with closing(sqlite_dbapi.connect(path)) as other, group.threads:
        other.execute("BEGIN EXCLUSIVE")
        futures = [group.threads.submit(group.write, _insert(n)) for n in range(4)]
        for future in futures:
            with pytest.raises((OperationalError, StoreUnavailableError)):
                future.result(10)
        other.execute("ROLLBACK")

        assert group.write(_insert(5)) == [5]
    assert group.rows() == [5]
    group.close()


def test_a_thread_waits_for_its_turn_only_so_long(path: Path) -> None:
    """Its work is then not executed, also not later."""
    group = Group(path, timeout=0.1)
    with group.threads:
        with group.writing():
            waiting = group.submit(_insert(1))
            with pytest.raises(StoreUnavailableError, match="busy with other writes"):
                waiting.result(10)
        assert group.write(_insert(2)) == [2]

    assert group.rows() == [2]
    group.close()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_leader_leaves_no_thread_waiting(
    group: Group, interruption: type[BaseException]
) -> None:
    """The others of its group get an error that lets them try again."""

    def interrupt(_: Connection) -> None:
        raise interruption

    def lead() -> None:
        with pytest.raises(interruption):
            group.write(_insert(1))

    with group.writing():
        leader = group.threads.submit(lead)
        assert eventually(lambda: len(group.commit._queue) == 1)
        others = [group.submit(work) for work in (interrupt, _insert(3))]

    leader.result(10)
    for future in others:
        with pytest.raises(StoreUnavailableError, match="interrupted"):
            future.result(10)
    assert group.rows() == []
    assert group.write(_insert(4)) == [4]


def test_an_interrupted_thread_withdraws_its_work(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that is interrupted while it waits does not get the lead."""

    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    with group.writing():
        with monkeypatch.context() as patch:
            patch.setattr(group.commit, "_await_turn", interrupt)
            with pytest.raises(KeyboardInterrupt):
                group.write(_insert(1))
        following = group.submit(_insert(2))

    assert following.result(10) == [2]
    assert group.rows() == [2]


def test_a_missing_file_is_the_error_of_each(group: Group, path: Path) -> None:
    """The transaction does not begin; no thread is left waiting."""
    with group.writing():
        futures = [group.submit(_insert(number)) for number in range(3)]
        group.close()
        path.rename(path.with_suffix(".moved"))

    for future in futures:
        with pytest.raises(StoreUnavailableError, match="deleted or moved"):
            future.result(10)


def test_many_threads_and_processes_write_each_row_once(path: Path) -> None:
    """Two groups stand for two processes: only the file is common to them."""
    groups = [Group(path, timeout=30.0) for _ in range(2)]
    start = threading.Barrier(16)

    def write(index: int) -> None:
        start.wait(10)
        for number in range(10):
            groups[index % 2].write(_insert(index * 100 + number))

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(write, range(16)))

    expected = [index * 100 + number for index in range(16) for number in range(10)]
    assert sorted(groups[0].rows()) == sorted(expected)
    for group in groups:
        group.close()
