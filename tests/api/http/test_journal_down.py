"""
A journal that cannot be written (A1): before a signature, or while it is being made.

Nothing is signed without its intent, nothing leaves without its outcome, and all goes
on by itself once there is room again.
"""

import json
import resource
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any

import falcon.testing
import psycopg
import pytest
import structlog
from sqlalchemy import event

from api.container import Container
from api.http.app import create_app
from backends.sql import SQLStore
from signer.audit.log import AuditLog
from signer.model.audit_record import Operation
from tests.api.service import BODY, build_container
from tests.api.support import NOW, bearer, post
from tests.support.devices import Device, point, signer_over
from tests.support.ledgers import open_ledger, seal
from tests.support.refunds import KEY, World


class Outage:
    """An outage of a database that can begin and end."""

    def __init__(self, store: SQLStore, url: str, kind: str) -> None:
        self._store = store
        self._url = url
        self._kind = kind

    def begin(self) -> None:
        getattr(self, f"_{self._kind}")(True)

    def end(self) -> None:
        getattr(self, f"_{self._kind}")(False)

    def _sqlite_full(self, on: bool) -> None:
        # With a limit of 0, write(2) fails as on a full disk.
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = 0 if on else hard
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

    def _sqlite_read_only(self, on: bool) -> None:
        engine = self._store._database._process().engine
        if on:
            event.listen(engine, "checkout", _only_read)
        elif event.contains(engine, "checkout", _only_read):
            event.remove(engine, "checkout", _only_read)
        engine.dispose()

    def _postgresql_full(self, on: bool) -> None:
        self._fail_with("53100", on)  # disk_full

    def _postgresql_read_only(self, on: bool) -> None:
        self._fail_with("25006", on)  # read_only_sql_transaction

    def _fail_with(self, code: str, on: bool) -> None:
        """Let the server fail on audit records with the SQLSTATE *code*."""
        with psycopg.connect(self._url, autocommit=True) as owner:
            owner.execute("DROP TRIGGER IF EXISTS trouble ON audit_records")
            if not on:
                return
            owner.execute(
                "CREATE OR REPLACE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql"
                f" AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}';"
                " END $$".encode()
            )
            owner.execute(
                "CREATE TRIGGER trouble BEFORE INSERT ON audit_records"
                " EXECUTE FUNCTION trouble()"
            )


def _only_read(connection: Any, *_: object) -> None:
    connection.execute("PRAGMA query_only = ON")


TROUBLES = (
    "sqlite_full",
    "sqlite_read_only",
    "postgresql_full",
    "postgresql_read_only",
)


@dataclass
class Scene:
    """
    The API and a worker, over one store, one device and one chain.

    With *falls_in* the trouble begins while the device is asked.
    """

    store: SQLStore
    trouble: Outage
    falls_in: bool = False
    world: World = field(init=False)
    device: Device = field(init=False)

    def __post_init__(self) -> None:
        self.device = Device(point(KEY), self._sign)
        audit = AuditLog(structlog.get_logger("audit"), journal=self.store)
        self.world = World(self.store, signer=signer_over(self.device, audit))
        self.world.clock.now = NOW

    @cached_property
    def container(self) -> Container:
        """The API, whose requests wait for a worker that works meanwhile."""
        return build_container(
            self.store,
            self.world.clock,
            client=self.world.chain,
            device=self.device,
        )

    @property
    def client(self) -> falcon.testing.TestClient:
        return falcon.testing.TestClient(create_app(self.container))

    def _sign(self, digest: bytes) -> bytes:
        # What is asked of the device has its intent in the journal by now.
        intents = [each for each in self._signatures() if "requested" in each["event"]]
        assert len(intents) >= self.device.calls
        if self.falls_in:
            self.trouble.begin()
        return KEY.sign(digest, hasher=None)

    @property
    def bearer(self) -> dict[str, str]:
        return bearer(self.world.clock.now)

    def signatures(self) -> list[tuple[str, str | None]]:
        """Return the records of payments' signatures with their outcomes, in order."""
        return [
            (each["event"], each.get("outcome"))
            for each in self._signatures()
            if each["operation"] != Operation.SELF_TEST
        ]

    def _signatures(self) -> list[dict[str, Any]]:
        """Return the records of all signatures, also those of self-tests."""
        while seal(self.store):
            pass
        fields = [json.loads(each.record.body) for each in self.store.sealed(0, 100)]
        return [each for each in fields if each["event"].startswith("digest-sign")]


@pytest.fixture(params=TROUBLES)
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    url = str(request.getfixturevalue(f"{request.param.partition('_')[0]}_url"))
    store = open_ledger(url)
    trouble = Outage(store, url, request.param)
    yield Scene(store, trouble)
    trouble.end()
    store.close()


def _require_503_or_waiting(scene: Scene, answer: falcon.testing.Result) -> None:
    """
    Require that *answer* promises nothing that has not been written.

    Where nothing at all can be written, that is a 503.  Where records alone cannot, the
    refund was accepted before (ADR 83), and waits for its signature (ADR 15).
    """
    scene.trouble.end()  # Without space, SQLite opens no connection to read either.
    if scene.store.find("gateway-1", "key") is None or answer.status_code != 201:
        assert (answer.status_code, answer.json["code"]) == (503, "store-unavailable")
        assert answer.headers["retry-after"] == "5"
    else:
        assert answer.json["status"] in {"queued", "reserved"}
        assert answer.json["tx_hash"] is None
    assert scene.world.chain.broadcasts == []


def _require_paid_once_afterwards(scene: Scene) -> None:
    """Require one payment after the outage, with its audit records."""
    scene.falls_in = False
    scene.trouble.end()
    for _ in range(3):
        scene.world.work(timedelta(seconds=20))
    again = post(scene.client, BODY, Idempotency_Key="key", **scene.bearer)
    scene.world.mine_deep()
    signatures = scene.signatures()

    assert again.status_code in {200, 201}
    assert len(scene.world.chain.payouts()) == 1
    assert signatures.count(("digest-sign-succeeded", "success")) == 1


def test_nothing_is_signed_without_a_record(scene: Scene) -> None:
    """A1: while no intent can be written, the device is not used."""
    client = scene.client
    scene.trouble.begin()
    answer = post(client, BODY, Idempotency_Key="key")

    _require_503_or_waiting(scene, answer)
    assert scene.device.calls == 0
    _require_paid_once_afterwards(scene)


def test_nothing_is_broadcast_without_its_outcome(scene: Scene) -> None:
    """A1: a signature whose outcome cannot be written is not broadcast."""
    client = scene.client
    scene.container.worker.work()  # Proves the key, so that no self-test is due.
    before = scene.device.calls
    scene.falls_in = True
    answer = post(client, BODY, Idempotency_Key="key")

    _require_503_or_waiting(scene, answer)
    assert (before, scene.device.calls) == (1, 2)
    _require_paid_once_afterwards(scene)
