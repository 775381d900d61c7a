"""A worker whose output is not read any more, or whose disk is full, signs nothing."""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from api.extras.restore.evidence import read_evidence
from dev.kms_emulator import KMSEmulator
from signer.row_macs import RowMACs
from tests.e2e.dependencies import kms_service
from tests.e2e.gateway import Gateway
from tests.e2e.running_service import RunningService
from tests.fixtures.chain import DevChain
from tests.support.forked_processes import ForkedCommand
from tests.support.waiting import eventually


CODE = "audit-log-unwritable"


@dataclass
class System:
    """A service without its worker, and the emulated KMS that it signs with."""

    service: RunningService
    kms: KMSEmulator
    environ: dict[str, str]
    errors: Path
    """What the worker writes to standard error."""

    @property
    def gateway(self) -> Gateway:
        """A gateway with a new token."""
        return Gateway.at(f"http://127.0.0.1:{self.service.port}", self.environ)

    def explain(self, refund_id: str) -> Mapping[str, Any]:
        document: Mapping[str, Any] = self.gateway.get(f"{refund_id}/explain")
        return document

    @contextmanager
    def worker(self, stdout: IO[bytes]) -> Iterator[ForkedCommand]:
        """Run a worker that writes its log to *stdout*."""
        with self.errors.open("wb") as stderr:
            process = ForkedCommand(
                ["worker"], self.environ, stdout=stdout, stderr=stderr
            )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


@pytest.fixture
def system(
    tmp_path: Path, local_chain: DevChain, aws_environment: None
) -> Iterator[System]:
    with (
        kms_service(tmp_path, local_chain) as (kms, environ),
        RunningService(environ) as service,
    ):
        service.processes["worker"].send_signal(signal.SIGTERM)
        service.processes["worker"].wait(20)
        yield System(service, kms, environ, tmp_path / "errors")


def test_a_worker_without_a_reader_of_its_log_signs_nothing(
    system: System, tmp_path: Path
) -> None:
    """Another one pays the refund, once, and its log has the evidence."""
    log = tmp_path / "worker.log"
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as output, ExitStack() as running:
        with os.fdopen(writer, "wb") as stdout:
            running.enter_context(system.worker(stdout))
        for line in output:
            if b'"configuration-loaded"' in line:
                break  # It has started, which needs a signature.
        output.close()
        signatures = len(system.kms.trail)
        refund_id = system.gateway.post()[2]["id"]
        assert eventually(lambda: system.explain(refund_id)["blocked_by"] == CODE, 30)
        explained = system.explain(refund_id)
        assert explained["refund"]["status"] == "reserved"
        assert "an operator of the service must act" in explained["next"]["what"]
        assert len(system.kms.trail) == signatures

    with log.open("wb") as file, system.worker(file):
        sent = {"broadcast", "mined", "confirmed"}
        assert eventually(lambda: system.gateway.get(refund_id)["status"] in sent, 30)

    macs = RowMACs.load(Path(system.environ["MAC_KEY_FILE"]))
    signed = [
        (entry.fields["event"], entry.fields["details"]["nonce"])
        for entry in read_evidence([log], macs)
        if entry.fields.get("refund_id") == refund_id
    ]
    assert signed == [("digest-sign-requested", 0), ("digest-sign-succeeded", 0)]


def test_a_worker_does_not_start_while_its_log_is_full(system: System) -> None:
    """Its first signature is a self-test, whose intent has no line either."""
    before = len(system.kms.trail)
    with Path("/dev/full").open("wb") as full, system.worker(full) as worker:
        status = worker.wait(60)

    assert status != 0
    assert len(system.kms.trail) == before
    assert CODE in system.errors.read_text()
