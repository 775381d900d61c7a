"""A dependency fails while the second gunicorn worker starts: the first one serves."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dev import kms_faults
from dev.kms_emulator import KMSEmulator
from dev.stack import request
from tests.e2e.dependencies import kms_service, stopped
from tests.e2e.running_service import RunningService
from tests.fixtures.chain import DevChain
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Body, Forward
from tests.support.waiting import eventually


@dataclass(frozen=True)
class System:
    """A service with one gunicorn worker, and its dependencies."""

    service: RunningService
    kms: KMSEmulator
    node: FakeNode

    def gunicorn_workers(self) -> set[int]:
        """Return the process ids of gunicorn's workers."""
        main = {process.pid for process in self.service.processes.values()}
        return set(self.service.members()) - main

    def is_ready(self) -> bool:
        url = f"http://127.0.0.1:{self.service.port}/readyz"
        return request("GET", url)[0] == 200


@pytest.fixture
def system(
    tmp_path: Path, local_chain: DevChain, aws_environment: None
) -> Iterator[System]:
    with (
        FakeNode(local_chain.url) as node,
        kms_service(tmp_path, local_chain, node_url=node.url, KMS_MAX_RETRIES="1") as (
            kms,
            environ,
        ),
        RunningService(environ) as service,
    ):
        yield System(service, kms, node)


def _throttle(system: System) -> None:
    system.kms.faults.always("Sign", kms_faults.throttle())


def _answer_502(system: System) -> None:
    # Each time: the worker that serves may ask as well.
    system.node.script("eth_chainId", Body(status=502))


@pytest.mark.parametrize(
    ("fail", "code"),
    [(_throttle, "kms-signing-error"), (_answer_502, "chain-unavailable")],
)
def test_the_first_worker_serves(
    system: System, fail: Callable[[System], None], code: str
) -> None:
    """The second worker starts as soon as the dependency answers."""
    (first,) = system.gunicorn_workers()
    mark = system.service.mark()
    fail(system)
    system.service.processes["serve"].send_signal(signal.SIGTTIN)

    def refusals() -> list[str]:
        events = list(system.service.events(mark))
        return [
            refusal
            for event in events
            if event["event"] == "worker-not-started"
            for refusal in event["refusals"]
        ]

    assert eventually(refusals, 30)
    assert refusals()[0].startswith(code)
    assert first in system.gunicorn_workers()
    url = f"http://127.0.0.1:{system.service.port}/healthz"
    assert request("GET", url)[0] == 200
    system.kms.faults.clear()
    system.node.script("eth_chainId", Forward())
    with stopped(first):  # Only another worker can answer.
        assert eventually(system.is_ready, 30)
    assert system.service.processes["serve"].poll() is None
