"""What the store costs: round trips per method, and indexes instead of history."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pytest
from sqlalchemy import ClauseElement, Executable, event, insert, select, text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from backends.sql import SQLStore, queries
from backends.sql.schema import refunds
from backends.sql.statements import next_nonce
from signer.refunds.refund import Refund, Status
from tests.fixtures.ledger import (
    WALLET,
    moved,
    queued,
    reserved,
    signed,
)


@contextmanager
def _counted(store: SQLStore) -> Iterator[list[str]]:
    """Collect the statements that go to the database."""
    engine = store._database._here().engine
    statements: list[str] = []

    def note(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(engine, "before_cursor_execute", note)
    yield statements
    event.remove(engine, "before_cursor_execute", note)


# A statement on its own is its transaction.  After BEGIN comes one COMMIT.
EXPECTED = {
    "sqlite": {
        "accept": ["BEGIN IMMEDIATE", "INSERT", "INSERT"],
        "replay": ["BEGIN IMMEDIATE", "INSERT", "SELECT"],
        "reserve": ["BEGIN IMMEDIATE", "UPDATE", "INSERT"],
        "sign": ["BEGIN IMMEDIATE", "UPDATE", "INSERT", "INSERT"],
        "move": ["BEGIN IMMEDIATE", "UPDATE", "INSERT"],
        "get": ["SELECT"],
    },
    "postgresql": {
        "accept": ["WITH"],
        "replay": ["WITH", "SELECT"],
        "reserve": ["BEGIN", "SELECT", "WITH"],
        "sign": ["WITH"],
        "move": ["WITH"],
        "get": ["SELECT"],
    },
}


def test_round_trips(store: SQLStore) -> None:
    """Each method sends as few statements as its database allows."""
    seen = {}
    refund = queued()
    steps: dict[str, Callable[[Refund], Refund]] = {
        "accept": lambda it: store.accept(it)[0],
        "replay": lambda it: store.accept(it)[0],
        "reserve": lambda it: reserved(store, it),
        "sign": lambda it: signed(store, it),
        "move": lambda it: moved(store, it, Status.BROADCAST),
        "get": lambda it: store.get(it.id) or it,
    }
    store.check()
    for name, step in steps.items():
        with _counted(store) as statements:
            refund = step(refund)
        seen[name] = [
            each if each.startswith("BEGIN") else each.split()[0] for each in statements
        ]

    assert seen == EXPECTED[store._database.dialect]


def _fill(store: SQLStore, count: int) -> None:
    """Put *count* cancelled refunds of many clients and sessions into the ledger."""
    rows = []
    for n in range(count):
        refund = queued(client=f"client {n % 99}", payment_session_id=f"session {n}")
        rows.append({**asdict(refund), "status": Status.CANCELLED})
    store._database.transaction(lambda c: c.execute(insert(refunds), rows))
    if store._database.dialect == "postgresql":  # It would do so by itself.
        store._database.run(lambda c: c.execute(text("ANALYZE")))


class Explain(Executable, ClauseElement):
    """How the database would answer *statement*."""

    inherit_cache = False

    def __init__(self, statement: ClauseElement) -> None:
        self.statement = statement


@compiles(Explain)
def _explain(element: Explain, compiler: SQLCompiler, **given: Any) -> str:
    word = "EXPLAIN QUERY PLAN" if compiler.dialect.name == "sqlite" else "EXPLAIN"
    return f"{word} {compiler.process(element.statement, **given)}"


def _plan(store: SQLStore, statement: Any, given: Mapping[str, Any]) -> str:
    rows = store._database.run(lambda c: c.execute(Explain(statement), given).all())
    return "\n".join(str(row) for row in rows)


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ((), "ix_refunds_client"),
        (("status",), "ix_refunds_status"),
        (("payment_session_id",), "ix_refunds_session"),
        (("payment_session_id", "status"), "ix_refunds_session"),
    ],
)
def test_pages_come_from_an_index(
    store: SQLStore, filters: tuple[str, ...], index: str
) -> None:
    """A page is read from the index of what it asks for, and is not sorted."""
    _fill(store, 1500)
    given = {
        "of_client": "client 3",
        "status": Status.QUEUED,
        "payment_session_id": "session 5",
        "cursor": queued().id,
        "at_most": 10,
    }
    for asked in (filters, (*filters, "cursor")):
        used = {name: given[name] for name in (*asked, "of_client", "at_most")}
        plan = _plan(store, queries.newest(*asked), used)

        # PostgreSQL knows the rows, and may know something better.
        assert index in plan or store._database.dialect == "postgresql"
        assert "Sort" not in plan
        assert "TEMP B-TREE" not in plan
        assert "Seq Scan" not in plan


def test_the_worker_reads_open_refunds_only(store: SQLStore) -> None:
    """An idle pass reads the partial index, whatever the ledger holds."""
    _fill(store, 1500)

    assert "ix_refunds_open" in _plan(store, queries.OPEN, {"after": "", "at_most": 9})


def test_the_next_nonce_comes_from_an_index(sqlite_store: SQLStore) -> None:
    """A reservation looks at one entry of the wallet's nonces."""
    given = {"refunds_chain_id": 1, "refunds_sender": WALLET, "floor": 0}
    plan = _plan(sqlite_store, select(next_nonce()), given)

    assert "COVERING INDEX" in plan
    assert "chain_id=? AND sender=? AND nonce>?" in plan
