"""
What operators see: each fault, under one name in every place, and traces of refunds.

The processes are real: gunicorn, two workers, PostgreSQL, a chain, a KMS and receivers.
"""

import gzip
import itertools
import json
import os
import signal
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from backends.sql.audit import SEALING_LOCK
from dev.kms_emulator import KMSEmulator
from dev.kms_faults import throttle
from dev.kms_wire import Exchange, Reply
from dev.rpc import RPC
from dev.stack import NETWORK, Stack, running_stack
from signer.alerts import Alert
from signer.keys.signing_alarm import WINDOW_SECONDS
from signer.model.network_view import LAGGING_BLOCKS
from tests.e2e.conftest import LONG_CHAINS, chain_options
from tests.e2e.gateway import Gateway
from tests.e2e.operator import Operator, values_of
from tests.fixtures.postgresql import PostgreSQL
from tests.fixtures.replica import Replica
from tests.support.conditions import CONDITIONS
from tests.support.forked_processes import ForkedHotWallet
from tests.support.servers import LocalHandler, LocalServer
from tests.support.waiting import eventually


WITHIN_SECONDS = 30.0
"""How soon each problem must be visible in each place."""

CLEAR_SECONDS = WINDOW_SECONDS + WITHIN_SECONDS
"""The device's last rejections count for as long as the window of throttling."""

OUTAGE_SECONDS = 90.0
"""How soon an outage must be visible: it must last 20 seconds, and be looked at."""

STALLED_SECONDS = 20

RUNBOOKS = "https://docs.example/how-to/alarms.html"

FAULTS = frozenset(
    {
        Alert.WORKER_STOPPED,
        Alert.NODE_LAGGING,
        Alert.BACKEND_THROTTLED,
        Alert.SEALING_LATE,
        Alert.WEBHOOK_FAILING,
    }
)

_CHECKS = {condition.name: condition.check for condition in CONDITIONS}


class Receiver(LocalServer):
    """
    Answers *status*, and keeps the bodies that it gets.

    ``refused`` are the ids of the events that it did not accept.
    """

    def __init__(self, port: int = 0) -> None:
        super().__init__(_Handler, port)
        self.status = 204
        self.bodies: list[Any] = []
        self.refused: set[str] = set()

    @staticmethod
    def read(body: bytes) -> Any:
        return json.loads(body)


class _Handler(LocalHandler):
    server: Receiver

    def respond(self) -> None:
        """Keep the body."""
        body = self.read_body()
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.bodies.append(self.server.read(body))
        if self.server.status >= 300:
            self.server.refused.add(self.headers["webhook-id"])
        self.answer(self.server.status)


class Collector(Receiver):
    """Keeps the spans that it gets by OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__()
        self.status = 200

    @staticmethod
    def read(body: bytes) -> Any:
        sent = ExportTraceServiceRequest.FromString(body)
        return [
            span
            for resource in sent.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def trace(self, trace_id: str) -> Mapping[str, Any]:
        """Return the spans of a trace, by name."""
        return {
            span.name: span
            for spans in self.bodies
            for span in spans
            if span.trace_id.hex() == trace_id
        }


@dataclass
class System:
    """A stack, and what its dependencies can be made to do."""

    stack: Stack
    kms: KMSEmulator
    nodes: Sequence[Replica]
    alerts: Receiver
    events: Receiver
    traces: Collector
    database: str
    operator: Operator = field(init=False)
    gateway: Gateway = field(init=False)

    def __post_init__(self) -> None:
        self.operator = Operator.of(self.stack)
        self.operator.log_in()
        self.gateway = Gateway.of(self.stack)

    def spare_worker(self) -> int:
        """Return the pid of the worker that does not look at nodes and balances."""
        (looking,) = {
            sample.labels["worker"]
            for sample in self.operator.metrics()["hotwallet_node_up"].samples
        }
        (pid,) = (
            self.stack.processes[name].pid
            for name, log in self.stack.logs().items()
            if name.startswith("worker") and looking not in log.read_text()
        )
        return pid


@pytest.fixture(scope="module", params=LONG_CHAINS)
def system(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    postgresql: PostgreSQL,
    aws_environment: None,
) -> Iterator[System]:
    """A system whose faults are off."""
    database = postgresql.url(postgresql.create())
    with ExitStack() as cleanup:
        alerts = cleanup.enter_context(Receiver())
        traces = cleanup.enter_context(Collector())
        kms = cleanup.enter_context(KMSEmulator())
        nodes = [cleanup.enter_context(Replica()) for _ in range(2)]

        def urls(chain: str) -> list[str]:
            for node in nodes:
                node.chain = chain
            return [chain, *(node.url for node in nodes)]

        settings = {
            "DATABASE_URL": database.replace("postgresql:", "postgresql+psycopg:"),
            "WEB_CONCURRENCY": "1",
            "ALERT_WEBHOOK_URL": f"{alerts.url}/",
            "RUNBOOK_URL": RUNBOOKS,
            "RATE_LIMIT_ADMIN": "10000",
            "TRACES_URL": f"{traces.url}/v1/traces",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        stack = cleanup.enter_context(
            running_stack(
                tmp_path_factory.mktemp("faults") / "home",
                program=ForkedHotWallet(),
                kms=kms,
                rpc_urls=urls,
                edit_networks=lambda text: text.replace(
                    "rpc_urls",
                    f"stalled_after_seconds = {STALLED_SECONDS}\nrpc_urls",
                    1,
                ),
                settings=settings,
                workers=2,
                has_webhook=True,
                **chain_options(request.param),
            )
        )
        tenants = tomllib.loads(Path(stack.environ["TENANTS_FILE"]).read_text())
        port = tenants["tenants"]["developer"]["webhook"]["url"].split(":")[2]
        events = cleanup.enter_context(Receiver(int(port.strip("/"))))
        yield System(stack, kms, nodes, alerts, events, traces, database)


@contextmanager
def _all_faults(system: System) -> Iterator[None]:
    """Inject the faults, and end them."""
    rpc = RPC(system.stack.chain_url)
    calls = itertools.count()
    pid = system.spare_worker()

    def mostly_throttled(exchange: Exchange) -> Reply | None:
        return throttle()(exchange) if next(calls) % 3 else exchange.respond(None)

    with psycopg.connect(system.database, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [SEALING_LOCK])
        os.kill(pid, signal.SIGSTOP)
        system.events.status = 503
        system.kms.faults.always("Sign", mostly_throttled)
        system.nodes[1].newest = int(rpc("eth_blockNumber"), 16)
        system.stack.chain.mine(LAGGING_BLOCKS + 5)
        try:
            yield
        finally:
            system.nodes[1].newest = None
            system.kms.faults.clear()
            system.events.status = 204
            os.kill(pid, signal.SIGCONT)
    # As the runbook says: the next attempts are minutes away.
    system.stack.command("webhooks", "replay", *sorted(system.events.refused))


def _in_metrics(operator: Operator) -> set[str]:
    """Return the problems that the metrics show, by the conditions of the rules."""
    metrics = operator.metrics()

    def values(name: str, **labels: str) -> list[float]:
        return values_of(metrics, f"hotwallet_{name}", **labels)

    found = {
        Alert.WORKER_STOPPED: max(values("workers", state="stopped")) > 0,
        Alert.NODE_LAGGING: max(values("node_lag_blocks"), default=0) > 10,
        Alert.BACKEND_THROTTLED: max(values("signature_throttled_share")) > 0.1,
        Alert.SEALING_LATE: max(values("audit_unsealed_seconds")) > 20,
        Alert.WEBHOOK_FAILING: sum(values("webhook_deliveries", state="failing")) > 0,
    }
    return {alert for alert, is_shown in found.items() if is_shown}


def _in_alerts(system: System) -> set[str]:
    """Return the alerts that arrived, each with the link to its runbook."""
    return {
        each["alert"]
        for each in system.alerts.bodies
        if each["runbook"] == f"{RUNBOOKS}#{each['alert']}"
    }


def _in_console(operator: Operator) -> set[str]:
    notices = operator.notices()
    return {name for name, href in notices.items() if href == f"{RUNBOOKS}#{name}"}


def _in_doctor(operator: Operator) -> set[str]:
    results = operator.doctor()
    return {
        name
        for name in FAULTS
        for check in (_CHECKS[name], f"{NETWORK} {_CHECKS[name]}")
        if check in results
        and results[check]["code"] == name
        and results[check]["runbook"] == f"{RUNBOOKS}#{name}"
        and results[check]["said"].startswith(f"{name}: ")
    }


def _is_clear(operator: Operator) -> bool:
    """Return whether metrics and console show none of the faults."""
    return not (_in_metrics(operator) | _in_console(operator)) & FAULTS


def _see_all(system: System) -> Mapping[str, set[str]]:
    """Return which faults each place has shown within ``WITHIN_SECONDS``."""
    looks: Mapping[str, Callable[[], set[str]]] = {
        "metrics": lambda: _in_metrics(system.operator),
        "alerts": lambda: _in_alerts(system),
        "console": lambda: _in_console(system.operator),
    }
    seen: dict[str, set[str]] = {name: set() for name in looks}

    def are_all_seen() -> bool:
        for name, look in looks.items():
            seen[name] |= look() & FAULTS
        return all(found >= FAULTS for found in seen.values())

    assert eventually(are_all_seen, WITHIN_SECONDS, pause=2), seen
    # Once, since it takes seconds: a doctor that starts now sees all.
    return {**seen, "doctor": _in_doctor(system.operator)}


def test_a_refund_is_one_trace(system: System) -> None:
    """From the request to the confirmation, in two processes; its caller is linked."""
    caller = "4bf92f3577b34da6a3ce929d0e0e4736"
    _, _, refund = system.gateway.post(
        headers={"traceparent": f"00-{caller}-00f067aa0ba902b7-01"}
    )
    system.gateway.wait(refund["id"], "confirmed")
    expected = {"accept", "reserve", "sign", "broadcast", "mine", "confirm"}
    trace_id = refund["id"].removeprefix("rf_")
    assert eventually(lambda: expected <= set(system.traces.trace(trace_id)), 10)
    spans = {**system.traces.trace(trace_id)}

    assert set(spans) == expected
    first = spans.pop("accept")
    assert [link.trace_id.hex() for link in first.links] == [caller]
    assert {span.parent_span_id for span in spans.values()} == {first.span_id}
    for span in (first, *spans.values()):
        assert system.stack.key_id not in str(span)


def test_each_fault_is_visible_everywhere(system: System) -> None:
    """In metrics, alerts, console and doctor within 30 seconds; then it clears."""
    operator = system.operator
    _, _, refund = system.gateway.post()
    system.gateway.wait(refund["id"], "confirmed")
    left = "hotwallet_wallet_refunds_left"
    assert eventually(lambda: operator.values(left, asset="coin"), 30, pause=1)
    assert eventually(lambda: _is_clear(operator), 30, pause=1)

    with _all_faults(system), _refunds(system.gateway):
        seen = _see_all(system)

    assert {name for name, found in seen.items() if found != FAULTS} == set(), seen
    assert eventually(lambda: _is_clear(operator), CLEAR_SECONDS, pause=2)
    assert _in_doctor(operator) == set()


@contextmanager
def _refunds(gateway: Gateway) -> Iterator[None]:
    """Request a refund every second: a device that signs nothing rejects nothing."""
    stopping = threading.Event()

    def request() -> None:
        while not stopping.wait(1):
            gateway.post()

    thread = threading.Thread(target=request)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


@contextmanager
def _nodes_down(system: System) -> Iterator[None]:
    """Leave one node of three."""
    for node in system.nodes:
        node.is_down = True
    try:
        yield
    finally:
        for node in system.nodes:
            node.is_down = False


@contextmanager
def _no_blocks(system: System) -> Iterator[None]:
    """Let the chain make no block."""
    system.stack.chain.mine_every(0)
    try:
        yield
    finally:
        system.stack.chain.mine_every(1)


@contextmanager
def _database_down(system: System) -> Iterator[None]:
    """Let the database accept no connection, and end all that there are."""
    name = urlsplit(system.database).path.removeprefix("/")
    other = system.database.replace(f"/{name}?", "/postgres?")
    with psycopg.connect(other, autocommit=True) as server:

        def allow(*, connections: bool) -> None:
            server.execute(
                f"ALTER DATABASE {name} ALLOW_CONNECTIONS {connections}".encode()
            )

        allow(connections=False)
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            [name],
        )
        try:
            yield
        finally:
            allow(connections=True)


def _shows_outage(operator: Operator, alert: Alert) -> bool:
    """Return whether the metrics show *alert*, by the condition of its rule."""
    metrics = operator.metrics()
    if alert is Alert.DATABASE_UNREACHABLE:
        return values_of(metrics, "hotwallet_database_up") == [0.0]
    if alert is Alert.QUORUM_LOST:
        return 0.0 in values_of(metrics, "hotwallet_network_quorum")
    ages = values_of(metrics, "hotwallet_network_head_age_seconds")
    return max(ages, default=0) > STALLED_SECONDS


_OUTAGES: Mapping[Alert, Callable[[System], AbstractContextManager[None]]] = {
    Alert.DATABASE_UNREACHABLE: _database_down,
    Alert.QUORUM_LOST: _nodes_down,
    Alert.CHAIN_STALLED: _no_blocks,
}


def test_each_outage_is_visible_everywhere(system: System) -> None:
    """
    In metrics, alerts and doctor; then its end is reported.

    All processes report it once.  Without the database they do not know of each other,
    but the key of their reports is the same, so that one page is opened.
    """
    operator = Operator.of(system.stack)  # The token of the first test has expired.

    def reports(alert: Alert, status: str) -> list[Any]:
        return [
            each
            for each in system.alerts.bodies
            if (each["alert"], each["status"]) == (alert, status)
        ]

    def becomes(alert: Alert, *, is_shown: bool) -> bool:
        return eventually(
            lambda: _shows_outage(operator, alert) is is_shown, 30, pause=1
        )

    for alert, outage in _OUTAGES.items():
        assert becomes(alert, is_shown=False)
        with outage(system):
            firing = partial(reports, alert, "firing")
            assert eventually(firing, OUTAGE_SECONDS, pause=1), alert
            assert becomes(alert, is_shown=True)
            results = operator.doctor()
        assert alert in {each.get("code") for each in results.values()}
        assert becomes(alert, is_shown=False)

    # Together, since each is reported when all has been fine for a minute.
    for alert in _OUTAGES:
        resolved = partial(reports, alert, "resolved")
        assert eventually(resolved, OUTAGE_SECONDS, pause=1), alert
        fired = reports(alert, "firing")
        assert len({each["key"] for each in fired}) == 1
        assert len(fired) == 1 or alert is Alert.DATABASE_UNREACHABLE
