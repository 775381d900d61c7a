"""S7: a worker raises an alert if the device signs with another key, or not at all."""

from collections.abc import Mapping

import pytest
from falcon.testing import TestClient

from api.container import Container
from api.http.app import create_app
from backends.aws_kms.backend import KMSBackend
from backends.sql import SQLStore
from dev.kms_faults import disabled, other_key
from dev.kms_wire import Faults
from signer.audit.log import AuditLog
from signer.keys.signer import Signer
from signer.model.transaction import CLAIM_TIME
from signer.ports.clock import utc_now
from signer.ports.key_backend import KeyId
from signer.refunds.worker import Worker
from tests.api.service import BODY, container_over
from tests.api.support import bearer, post
from tests.support.refunds import World
from tests.support.waiting import eventually


class System:
    """A ledger, a chain, a key in KMS and a receiver of alerts."""

    def __init__(self, store: SQLStore, backend: KMSBackend, key: KeyId) -> None:
        signer = Signer.open(backend, key, AuditLog(_NoLog()))
        self.world = World(store, signer=signer)
        self.world.clock.now = utc_now() - 2 * CLAIM_TIME  # What it accepts is due now.
        self.store = store
        self._backend = backend
        self.alerts: list[tuple[object, object]] = []
        assert self.world.ring.active().signer is signer

    def notify(self, document: Mapping[str, object]) -> None:
        self.alerts.append((document["alert"], document["facts"]))

    def process(self) -> Container:
        return container_over(
            self.store, self._backend, self.world.chains, notifier=self
        )

    def worker(self) -> Worker:
        """Return the worker of a new process, whose next self-test is not due."""
        worker = self.process().worker
        worker.work()
        return worker

    def facts(self, code: str) -> dict[str, str]:
        return {"code": code, "address": self.world.signer.address}


class _NoLog:
    def info(self, event: str, **fields: object) -> None:
        """Do nothing."""


@pytest.fixture
def system(sqlite_store: SQLStore, hasty_kms: KMSBackend, kms_key: KeyId) -> System:
    return System(sqlite_store, hasty_kms, kms_key)


def test_the_api_raises_no_alert(system: System, kms_faults: Faults) -> None:
    """It accepts three refunds without the device; the worker raises one alert."""
    worker = system.worker()
    kms_faults.always("Sign", other_key())
    client = TestClient(create_app(system.process()))
    answers = [
        post(
            client,
            {**BODY, "payment_session_id": f"ps_{n}"},
            Prefer="respond-async",
            **bearer(utc_now()),
        )
        for n in range(3)
    ]
    alerts_of_api = list(system.alerts)
    worker.work()
    paths = [answer.headers["location"] for answer in answers]
    shown = [client.simulate_get(each, headers=bearer(utc_now())) for each in paths]

    assert [answer.status_code for answer in answers] == [201] * 3
    assert alerts_of_api == []
    assert [each.json["status"] for each in shown] == ["reserved"] * 3
    assert system.alerts == [("key-mismatch", system.facts("signature-recovery"))]
    assert system.store.alert_counts() == {"key-mismatch": 1}
    assert system.world.chain.pool == {}


def test_an_idle_worker_tests_the_key(system: System, kms_faults: Faults) -> None:
    """The key is not proved then, and the next worker that can sign proves it."""
    kms_faults.always("Sign", disabled())
    worker = system.process().worker
    for _ in range(3):
        worker.work()
    unproved = system.world.key.proved_at
    alerts = eventually(lambda: list(system.alerts))
    kms_faults.clear()
    system.worker()

    assert alerts == [("key-unhealthy", {"code": "key-unusable"})]
    assert unproved is None
    assert system.world.key.proved_at is not None
