"""The process of administrators starts and works while KMS does not answer (ADR 8)."""

import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from api.auth.dev_tokens import mint
from dev import kms_faults as faults
from dev.kms_emulator import KMSEmulator
from dev.kms_wire import Fault
from dev.stack import request
from signer.config.settings import Settings
from tests.e2e.dependencies import kms_service
from tests.e2e.running_service import RunningService
from tests.fixtures.chain import DevChain
from tests.support.forked_processes import run_command
from tests.support.waiting import eventually


@dataclass(frozen=True)
class Wallet:
    """A ledger whose ring has the key of an emulator, and the admin's settings."""

    environ: dict[str, str]
    kms: KMSEmulator

    def fail(self, fault: Fault) -> None:
        """Let all requests to KMS fail with *fault*."""
        for operation in ("Sign", "GetPublicKey", "DescribeKey"):
            self.kms.faults.always(operation, fault)

    def serve(self) -> RunningService:
        """Return ``hotwallet serve --role admin``, which starts inside of ``with``."""
        return RunningService(self.environ, names=["serve"])

    def ask(self, service: RunningService, method: str, path: str, **body: str) -> Any:
        """Return status and document of an administrator's request."""
        settings = Settings.from_env(self.environ)
        scopes = ["signing:stop", "tenants:block", "keys:rotate"]
        token = mint(settings, subject="alice", roles=["admin"], scopes=scopes)
        url = f"http://127.0.0.1:{service.port}{path}"
        headers = {"Authorization": f"Bearer {token}"}
        status, _, document = request(method, url, headers=headers, body=body or None)
        return status, document


@pytest.fixture(scope="module")
def ring(
    tmp_path_factory: pytest.TempPathFactory, anvil: DevChain, aws_environment: None
) -> Iterator[Wallet]:
    settings = {"SERVE_ROLE": "admin", "KMS_MAX_RETRIES": "1", "METRICS_OPEN": "true"}
    folder = tmp_path_factory.mktemp("admin")
    with kms_service(folder, anvil, **settings) as (kms, environ):
        assert run_command(["guard"], environ).returncode == 0
        yield Wallet(environ, kms)


@pytest.fixture
def wallet(ring: Wallet) -> Iterator[Wallet]:
    """The ring of the module, with a KMS that answers again after the test."""
    yield ring
    ring.kms.faults.clear()


def test_it_serves_what_needs_no_device(wallet: Wallet) -> None:
    """And reports the device; it becomes ready when KMS answers."""
    wallet.fail(faults.hang())

    with wallet.serve() as service:
        status, ready = wallet.ask(service, "GET", "/readyz")
        assert status == 200
        assert ready["status"] == "degraded"
        assert ready["checks"]["key"] in {"timeout", "backend-unavailable"}
        assert ready["address"] == wallet.kms.address(wallet.environ["KMS_KEY_ID"])
        assert wallet.ask(service, "GET", "/healthz") == (200, {"status": "ok"})
        assert b"hotwallet_workers" in _page(service, "/metrics")
        assert b"<form" in _page(service, "/console/login")
        stop = {"reason": "KMS is down"}
        assert wallet.ask(service, "POST", "/v1/admin/stop", **stop)[0] == 200
        assert wallet.ask(service, "POST", "/v1/admin/resume", **stop)[0] == 200
        for change in ("block", "unblock"):
            path = f"/v1/admin/tenants/alice/{change}"
            assert wallet.ask(service, "POST", path)[0] == 200
        # Signing is refused: that of the new key too, by the same device.
        other = wallet.kms.create_key()
        rotation = ("/v1/admin/kms/rotate", {"newKeyId": other, "reason": "a test"})
        assert wallet.ask(service, "POST", rotation[0], **rotation[1])[0] == 503

        wallet.kms.faults.clear()

        def key() -> str:
            return str(wallet.ask(service, "GET", "/readyz")[1]["checks"]["key"])

        assert eventually(lambda: key() == "ok", 30)

    events = {event.get("event") for event in service.events({})}
    assert "worker-not-started" not in events
    assert "the device does not answer" in service.output["serve: stderr"]


def test_a_wrong_key_later_never_signs(wallet: Wallet) -> None:
    """A device that answers with another key, when it answers, is reported."""
    wallet.fail(faults.throttle())

    with wallet.serve() as service:
        wallet.kms.faults.clear()
        wallet.kms.faults.always("Sign", faults.other_key())

        def key() -> str:
            return str(wallet.ask(service, "GET", "/readyz")[1]["checks"]["key"])

        assert eventually(lambda: key() == "signature-recovery", 30)

    alerts = {event.get("alert") for event in service.events({})}
    assert "key-mismatch" in alerts


def test_other_processes_need_the_device(wallet: Wallet) -> None:
    """They sign."""
    wallet.fail(faults.throttle())

    refused = run_command(["guard"], {**wallet.environ, "SERVE_ROLE": "sign"})

    assert refused.returncode == 78
    assert "refused: kms-signing-error" in refused.stderr


def _page(service: RunningService, path: str) -> bytes:
    url = f"http://127.0.0.1:{service.port}{path}"
    with urllib.request.urlopen(url, timeout=10) as response:
        page: bytes = response.read()
    return page
