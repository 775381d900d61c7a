"""S7: a process that signs raises an alert if the device signs with another key."""

from collections.abc import Mapping

import pytest
from falcon.testing import TestClient

from api.container import Container
from api.http.app import create_app
from backends.aws_kms import KMSBackend
from backends.sql import SQLStore
from dev.kms_faults import disabled, other_key
from dev.kms_wire import Faults
from signer.audit.log import AuditLog
from signer.keys.signer import Signer
from signer.model.refund import HOLD
from signer.ports import KeyId, utc_now
from tests.api.service import BODY, container_over
from tests.api.support import bearer, post
from tests.support.refunds import World


class System:
    """A ledger, a chain, a key in KMS and a receiver of alerts."""

    def __init__(self, store: SQLStore, backend: KMSBackend, key: KeyId) -> None:
        signer = Signer.open(backend, key, AuditLog(_NoLog()))
        self.world = World(store, signer=signer)
        self.world.clock.now = utc_now() - 2 * HOLD  # What it accepts is due now.
        self.store = store
        self._backend = backend
        self.alerts: list[tuple[object, object]] = []
        assert self.world.ring.active().signer is signer

    def notify(self, document: Mapping[str, object]) -> None:
        """Record an alert."""
        self.alerts.append((document["alert"], document["facts"]))

    def process(self) -> Container:
        """Return the container of a new process."""
        return container_over(
            self.store, self._backend, self.world.chains, notifier=self
        )

    def facts(self, code: str) -> dict[str, str]:
        """Return the facts of an alert about the key."""
        return {"code": code, "address": self.world.signer.address}


class _NoLog:
    def info(self, event: str, **fields: object) -> None:
        """Do nothing."""


@pytest.fixture
def system(sqlite_store: SQLStore, hasty_kms: KMSBackend, kms_key: KeyId) -> System:
    return System(sqlite_store, hasty_kms, kms_key)


def test_the_api_raises_key_mismatch(system: System, kms_faults: Faults) -> None:
    """Three refunds raise one alert, and none is sent."""
    kms_faults.always("Sign", other_key())
    client = TestClient(create_app(system.process()))
    answers = [
        post(client, {**BODY, "payment_session_id": f"ps_{n}"}, **bearer(utc_now()))
        for n in range(3)
    ]

    assert [answer.json["status"] for answer in answers] == ["reserved"] * 3
    assert system.alerts == [("key-mismatch", system.facts("signature-recovery"))]
    assert system.store.alert_counts() == {"key-mismatch": 1}
    assert system.world.chain.pool == {}


def test_a_worker_raises_key_mismatch(system: System, kms_faults: Faults) -> None:
    system.world.accepted()
    kms_faults.always("Sign", other_key())
    system.process().worker.work()

    assert system.alerts == [("key-mismatch", system.facts("signature-recovery"))]
    assert system.store.alert_counts() == {"key-mismatch": 1}
    assert system.world.chain.pool == {}


def test_a_worker_raises_key_unhealthy(system: System, kms_faults: Faults) -> None:
    """Three refunds raise one alert."""
    for _ in range(3):
        system.world.accepted()
    kms_faults.always("Sign", disabled())
    system.process().worker.work()

    assert system.alerts == [("key-unhealthy", system.facts("key-unusable"))]
    assert system.store.alert_counts() == {"key-unhealthy": 1}


def test_a_worker_raises_an_alert_for_a_key_it_may_not_use(
    system: System, kms_faults: Faults
) -> None:
    """Another host rotated to the key."""
    system.world.accepted()
    kms_faults.always("GetPublicKey", disabled())
    system.process().worker.work()

    assert system.alerts == [("key-unhealthy", system.facts("key-unusable"))]
