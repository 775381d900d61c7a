"""Durable refunds over HTTP on PostgreSQL, with two workers."""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg

from bench.devices import open_softhsm
from bench.harness import Figure, Prepared, Scenario, Values
from bench.postgresql import postgresql_database
from bench.refund_rates import refund_figures, refund_works
from bench.servers import constant_server, running_service
from bench.service import Service


_COMMITS = "writing transactions per refund, to its confirmation"
_WAL = "WAL per refund, to its confirmation"


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    key = open_softhsm(folder / "loop")
    with (
        postgresql_database() as url,
        running_service(
            folder / "stack", settings={"DATABASE_URL": url}, workers=2
        ) as service,
        constant_server(service) as server,
    ):
        works = list(refund_works(service, key, server.url, settles=not is_quick))
        figures = [
            *refund_figures(at_least={16: 0.35, 64: 0.45}, batch_at_least=0.7),
            Figure(_COMMITS, ""),
            Figure(_WAL, "KB"),
        ]
        works.append(partial(_writes, service, url))
        yield Prepared(figures, works)


def _writes(service: Service, url: str, seconds: float) -> Values:
    """Return what one refund of a queue writes, from POST to its last confirmation."""
    with psycopg.connect(url, autocommit=True) as connection:
        service.settle()
        commits, position = _written(connection)
        run = service.load(clients=16, seconds=60.0, count=max(16, int(64 * seconds)))
        service.settle()
        later_commits, later_position = _written(connection)
    count = len(run.samples)
    return {
        _COMMITS: (later_commits - commits) / count,
        _WAL: (later_position - position) / 1024 / count,
    }


def _written(connection: psycopg.Connection[tuple[int, int]]) -> tuple[int, int]:
    """Return the transactions with a commit record, and the bytes of WAL, so far."""
    row = connection.execute(
        "SELECT (pg_current_xact_id()::text)::bigint,"
        " (pg_current_wal_lsn() - '0/0')::bigint"
    ).fetchone()
    assert row is not None
    return row


SCENARIO = Scenario(
    "refunds-postgresql",
    "Durable refunds on PostgreSQL: 2 API processes, 2 workers",
    _open,
    rounds=5,
    seconds=3.0,
    quick_seconds=0.3,
)
