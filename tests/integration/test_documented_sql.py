"""The SQL of the documentation runs on a ledger of the current schema."""

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from sqlalchemy import text

from backends.sql import SQLStore
from tests.fixtures.ledger import accepted, broadcast, delay, now, save
from tests.fixtures.roles import Roles
from tests.support import servers


DOCS = Path(__file__).resolve().parents[2] / "docs"
INCIDENTS, OPERATIONS = "how-to/incidents.md", "how-to/operations.md"

_SQL = re.compile(
    r"^ *```sql\n(?P<block>.*?)^ *```$|`(?P<inline>SELECT [^`]*;)`",
    re.MULTILINE | re.DOTALL,
)
# Its catalog, its roles, and its program psql.
_OF_POSTGRESQL = re.compile(r"pg_|ROLE|\\gexec")


def _found(page: Path) -> Iterator[str]:
    for match in _SQL.finditer(page.read_text(encoding="utf-8")):
        yield dedent(match["block"] or match["inline"])


STATEMENTS = {
    f"{page.relative_to(DOCS)}, {number}": sql
    for page in sorted(DOCS.rglob("*.md"))
    for number, sql in enumerate(_found(page), 1)
}
OF_BOTH = [name for name, sql in STATEMENTS.items() if not _OF_POSTGRESQL.search(sql)]


def test_the_statements_are_found() -> None:
    assert [f"{INCIDENTS}, 3", f"{OPERATIONS}, 1"] == OF_BOTH
    assert len(STATEMENTS) > 6


@pytest.fixture
def again(shipped: Roles) -> Iterator[Roles]:
    """The roles, without the one that a page creates."""
    yield shipped
    shipped.run("DROP ROLE IF EXISTS hotwallet_single")


@pytest.mark.parametrize("name", STATEMENTS)
def test_it_runs_in_psql(again: Roles, name: str) -> None:
    """As an administrator types it, with the roles of ``docker/roles.sql``."""
    psql = servers.postgresql(user=None) / "psql"
    command = [str(psql), "--no-psqlrc", "--set=ON_ERROR_STOP=1", again.superuser]

    ran = subprocess.run(
        command,
        input=STATEMENTS[name],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert (ran.returncode, ran.stderr) == (0, "")


def _rows(store: SQLStore, name: str) -> Sequence[Any]:
    statement = text(STATEMENTS[name])
    found = store._database.write(lambda each: each.execute(statement).all())
    return [*found]


def test_the_first_refund_that_does_not_move(store: SQLStore) -> None:
    """Of those that have a nonce, in the order of their nonces."""
    first, second = broadcast(store), broadcast(store)
    accepted(store)
    save(store, first, delay(first, now(), attempts=3, blocked_by="chain-failed"))

    rows = _rows(store, f"{INCIDENTS}, 3")

    assert [
        (row.id, row.network, row.nonce, row.status, row.blocked_by, row.attempts)
        for row in rows
    ] == [
        (first.id, "local", 0, "broadcast", "chain-failed", 3),
        (second.id, "local", 1, "broadcast", None, 0),
    ]


def test_open_refunds_and_what_they_wait_for(store: SQLStore) -> None:
    """With a nonce or without; the oldest group is first."""
    waiting = broadcast(store)
    save(store, waiting, delay(waiting, now(), attempts=1, blocked_by="chain-failed"))
    broadcast(store)
    queued = [accepted(store) for _ in range(2)]
    for each in queued:
        save(store, each, delay(each, now(), attempts=1, blocked_by="limit-reached"))

    rows = _rows(store, f"{OPERATIONS}, 1")

    assert [tuple(row)[:4] for row in rows] == [
        ("local", "broadcast", "chain-failed", 1),
        ("local", "broadcast", None, 1),
        ("local", "queued", "limit-reached", 2),
    ]
