"""What webhooks cost the paying path: the same service with and without a receiver."""

import contextlib
import statistics
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg

from bench.harness import Figure, Goal, Prepared, Scenario, Values
from bench.postgresql import postgresql_database
from bench.servers import running_service
from bench.service import SUBJECT, Service, require_created


_CLIENTS = 16

_RATE, _MEDIAN = f"POST /v1/refunds, {_CLIENTS} clients", "median"
_WITHOUT, _WITH = "events, no webhook", "events and a webhook"
_DELIVERED = "events delivered, to the last one of a run"

_WAITING = (
    "SELECT (SELECT count(*) FROM events WHERE sequence IS NULL)"
    " + (SELECT count(*) FROM webhook_deliveries WHERE state = 'pending')"
)


def _name(figure: str, variant: str) -> str:
    return f"{figure}, {variant}"


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    with (
        _receiver() as port,
        postgresql_database() as plain_url,
        postgresql_database() as notified_url,
        running_service(
            folder / "plain", settings={"DATABASE_URL": plain_url}, workers=2
        ) as plain,
        running_service(
            folder / "notified",
            settings={
                "DATABASE_URL": notified_url,
                "TENANTS_FILE": str(_tenants(folder, port)),
            },
            workers=2,
        ) as notified,
    ):
        figures = [
            Figure(_name(_RATE, _WITHOUT), "/s"),
            Figure(
                _name(_RATE, _WITH), "/s", (Goal(_name(_RATE, _WITHOUT), at_least=0.7),)
            ),
            Figure(_name(_MEDIAN, _WITHOUT), "ms"),
            Figure(_name(_MEDIAN, _WITH), "ms", (Goal(_name(_MEDIAN, _WITHOUT)),)),
            Figure(_DELIVERED, "/s"),
        ]
        works = [
            partial(_refunds, plain, plain_url, _WITHOUT),
            partial(_refunds, notified, notified_url, _WITH),
        ]
        yield Prepared(figures, works)


def _refunds(service: Service, url: str, variant: str, seconds: float) -> Values:
    """Post refunds until each has its transaction; then let their events end."""
    before, started = service.sent_count(), time.perf_counter()
    run = service.load(clients=_CLIENTS, seconds=seconds)
    answered_at = time.perf_counter()
    require_created(run)
    service.await_sent(before + len(run.samples))
    drained = time.perf_counter() - answered_at
    values = {
        _name(_RATE, variant): len(run.samples) / (run.seconds + drained),
        _name(_MEDIAN, variant): statistics.median(run.latencies_ms()),
    }
    service.settle()
    events = _await_events(url)
    if variant == _WITH:
        values[_DELIVERED] = events / (time.perf_counter() - started)
    return values


_counted: dict[str, int] = {}


def _await_events(url: str) -> int:
    """Wait until nothing waits; return how many deliveries came since the last time."""
    with psycopg.connect(url, autocommit=True) as connection:
        deadline = time.monotonic() + 120
        while _number(connection, _WAITING):
            if time.monotonic() > deadline:
                raise TimeoutError("events are still waiting")
            time.sleep(0.1)
        total = _number(connection, "SELECT count(*) FROM webhook_deliveries")
    before = _counted.get(url, 0)
    _counted[url] = total
    return total - before


def _number(connection: psycopg.Connection[tuple[int]], query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def _tenants(folder: Path, port: int) -> Path:
    path = folder / "tenants.toml"
    path.write_text(
        f"""\
[tenants.gateway]
subjects = ["{SUBJECT}"]
gas_per_hour = 100_000_000_000
webhook = {{ url = "http://127.0.0.1:{port}/" }}
""",
        encoding="utf-8",
    )
    return path


class _Accepting(BaseHTTPRequestHandler):
    """Answers 204, and does nothing else."""

    def do_POST(self) -> None:
        """Read the event."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextlib.contextmanager
def _receiver() -> Iterator[int]:
    """Run a receiver of webhooks; yield its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Accepting)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


SCENARIO = Scenario(
    "webhooks",
    "Refunds with and without a webhook, on PostgreSQL: 2 API processes, 2 workers",
    _open,
    rounds=5,
    seconds=3.0,
    quick_seconds=0.3,
)
