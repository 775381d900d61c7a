"""
Each dependency in turn freezes and thaws (I7).

Every request is answered within the time of the table in ``docs/reference/api.md``, and
ten seconds after the thaw all is well.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import pytest
import structlog

from dev import stablecoin
from dev.anvil import ROOT, find_anvil
from dev.chain import LocalChain, LocalNode
from signer.config.settings import Settings
from tests.e2e.conftest import LONG_CHAINS
from tests.e2e.dependencies import (
    AlertReceiver,
    KMSProcess,
    prepared_networks,
    service_environ,
    stopped,
)
from tests.e2e.running_service import RunningService
from tests.e2e.timed_client import WAIT, Submission, TimedClient
from tests.fixtures.geth import running_geth
from tests.fixtures.postgresql import PostgreSQL
from tests.support.waiting import eventually


RECOVERY_SECONDS = 10.0
NOTICED_SECONDS = 45.0  # Decision 77: a worker sees it at its next look.
SLACK = 15.0  # For refunds: the machine may be busy, and they take nine seconds.

SETTINGS = {"rpc_timeout_ms": 500, "KMS_TIMEOUT_MS": 1000}

AMOUNT = "1.25"
BASE_UNITS = 1_250_000
MORE_THAN_THE_WALLET_HAS = "9999999"

Limits = Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class System:
    """A running service, its client and its dependencies."""

    service: RunningService
    client: TimedClient
    postgresql: PostgreSQL
    kms: KMSProcess
    chain: LocalNode
    token: str
    receiver: AlertReceiver

    def freeze(self, dependency: str) -> AbstractContextManager[None]:
        """Freeze a dependency, named as in the table, within the ``with`` block."""
        freezes: Mapping[str, Callable[[], AbstractContextManager[None]]] = {
            "database": self.postgresql.frozen,
            "nodes": lambda: stopped(self.chain.pid),
            "KMS": lambda: stopped(self.kms.process.pid),
            "webhook": self.receiver.silent,
        }
        return freezes[dependency]()

    def is_paid_once(self, submission: Submission) -> bool:
        """Whether the refund is confirmed, and its recipient has its amount."""
        found = self.client.find(submission)
        if found.status != 200 or not found.body["refunds"]:
            return False
        (refund,) = found.body["refunds"]
        recipient = submission.body["recipient"]
        balance = stablecoin.balance_of(self.chain.url, self.token, recipient)
        assert balance <= BASE_UNITS
        return refund["status"] == "confirmed" and balance == BASE_UNITS


@pytest.fixture(scope="module", params=LONG_CHAINS)
def system(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    postgresql: PostgreSQL,
    aws_environment: None,
) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("frozen")
    with (
        KMSProcess(folder) as kms,
        AlertReceiver() as receiver,
        running_geth()
        if request.param == "geth"
        else LocalChain(find_anvil(ROOT)) as chain,
    ):
        networks, token = prepared_networks(
            folder,
            chain.url,
            kms.address,
            node_url=chain.url,
            confirmations=1,
            rpc_timeout_ms=SETTINGS["rpc_timeout_ms"],
        )
        environ = service_environ(
            folder,
            networks,
            **kms.settings,
            DATABASE_URL=postgresql.url(postgresql.create()),
            KMS_TIMEOUT_MS=str(SETTINGS["KMS_TIMEOUT_MS"]),
            ALERT_WEBHOOK_URL=receiver.url,
            # A request must not wait for the thread of another one.
            WEB_THREADS="18",
        )
        with RunningService(environ) as service:
            client = TimedClient(
                service.port, Settings.from_env(environ), kms.other_key
            )
            yield System(service, client, postgresql, kms, chain, token, receiver)


@pytest.fixture(scope="module")
def limits() -> Limits:
    """Return the documented limit in seconds by request and frozen dependency."""
    text = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    section = text.partition("\n## Time limits\n")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    (_, *dependencies), _, *rest = rows
    return {
        (name.strip(), dependency.removesuffix(" frozen")): _seconds(cell)
        for names, *cells in rest
        for name in names.split(", ")
        for dependency, cell in zip(dependencies, cells, strict=True)
    }


def _seconds(cell: str) -> float:
    """Return the seconds of a cell such as "N + `rpc_timeout_ms` + 1 s"."""
    total = 0.0
    for term in cell.removesuffix(" s").split(" + "):
        name = term.strip("`")
        milliseconds = SETTINGS.get(name)
        if milliseconds is not None:
            total += milliseconds / 1000
        else:
            total += WAIT if name == "N" else float(name)
    return total


@pytest.mark.parametrize("dependency", ["database", "nodes", "KMS", "webhook"])
def test_a_frozen_dependency(system: System, limits: Limits, dependency: str) -> None:
    """Requests end in time, and then succeed; each refund is paid once."""
    client = system.client
    client.submissions.clear()
    assert eventually(lambda: client.ready().status == 200)
    paid, queued = client.submit(AMOUNT), client.submit(MORE_THAN_THE_WALLET_HAS)
    assert (paid.status, queued.status) == (201, 201)
    refunds = paid.body["id"], queued.body["id"]
    with system.freeze(dependency):
        # The second round meets what the first one has left.
        answers = [*client.send_all(*refunds), client.raise_alert()]
        answers += client.send_all(*refunds)
        if dependency in {"database", "nodes"}:
            assert eventually(lambda: client.ready().status == 503, NOTICED_SECONDS)
    thawed = time.monotonic()

    slowest: dict[str, float] = {}
    for each in answers:
        slowest[each.request] = max(slowest.get(each.request, 0.0), each.seconds)
    log = structlog.get_logger("tests")
    log.info("slowest-answers", dependency=dependency, seconds=slowest)
    assert slowest.keys() == {request for request, _ in limits}
    assert [
        each for each in answers if each.seconds > limits[each.request, dependency]
    ] == []
    assert eventually(lambda: _succeeds(client, refunds), _left(thawed))
    submissions = [each for each in client.submissions if each.body["amount"] == AMOUNT]
    for submission in submissions:
        if not client.find(submission).body["refunds"]:  # It was not accepted.
            assert client.repeat(submission).status == 201
    for submission in submissions:
        is_paid_once = partial(system.is_paid_once, submission)
        assert eventually(is_paid_once, _left(thawed) + SLACK), client.find(submission)
    log.info("all-is-well", dependency=dependency, seconds=time.monotonic() - thawed)


def test_alerts_are_sent_after_the_thaw(system: System) -> None:
    """An alert without an answer is sent again, and later ones follow."""
    system.receiver.alerts.clear()
    with system.freeze("webhook"):
        system.client.raise_alert()
        assert eventually(lambda: system.receiver.unanswered > 0)
    system.client.raise_alert()

    assert eventually(lambda: len(system.receiver.alerts) >= 2, RECOVERY_SECONDS)


def _succeeds(client: TimedClient, refunds: tuple[str, str]) -> bool:
    # Each process has its own readiness.
    if any(client.ready().status != 200 for _ in range(6)):
        return False
    return all(each.status < 500 for each in client.send_all(*refunds))


def _left(thawed: float) -> float:
    return thawed + RECOVERY_SECONDS - time.monotonic()
