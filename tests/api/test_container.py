"""The container opens only what a command uses."""

from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest

from api.auth.authorization import READS_PER_CHANGE, AccessRequest, Permission
from api.bootstrap import (
    accept_rules,
    build_admin_container,
    build_container,
    prepare_rules,
    record_start,
)
from api.container import Container
from api.principal import Principal
from backends.sql import SQLStore
from signer.alerts import Alert
from signer.errors import (
    ConfigurationError,
    RateLimitedError,
    StoreUnavailableError,
)
from signer.model.audit_record import Operation, Purpose, Subject
from signer.ports.clock import utc_now
from signer.ports.key_backend import KeyDirectory
from tests.api.service import build_container as build_service
from tests.api.service import container_over
from tests.api.support import NOW, SettableClock
from tests.contract.reference import ReferenceBackend
from tests.support.audit import record
from tests.support.ledgers import seal
from tests.support.refunds import altered


class _OpenedError(Exception):
    pass


class _ClosedContainer(Container):
    """Opening a device, chain or token key fails, until there is a ``device``."""

    device: KeyDirectory | None = None

    @cached_property
    def backend(self) -> KeyDirectory:
        if self.device is None:
            raise _OpenedError
        return self.device

    @cached_property
    def chains(self) -> NoReturn:
        raise _OpenedError

    @cached_property
    def jwt_keys(self) -> NoReturn:
        raise _OpenedError


@pytest.fixture
def container(sqlite_store: SQLStore) -> _ClosedContainer:
    """A container over a ledger; opening a device, chain or token key fails."""
    container = _ClosedContainer(environ={"APP_ENV": "test"})
    container.store, container.networks = sqlite_store, {}
    return container


@pytest.mark.parametrize("part", ["store", "revocation", "audit", "alerts", "ring"])
def test_parts_that_need_only_the_ledger(container: Container, part: str) -> None:
    assert getattr(container, part) is getattr(container, part)


@pytest.mark.parametrize("part", ["rotation", "failover", "sweeper", "worker"])
def test_only_requests_need_token_keys(
    container: Container, sqlite_store: SQLStore, part: str
) -> None:
    container.backend = cast("KeyDirectory", ReferenceBackend())
    container.chains = {}

    getattr(container, part)

    with pytest.raises(_OpenedError):
        _ = container.authenticator


def test_a_part_that_failed_is_opened_again(container: _ClosedContainer) -> None:
    with pytest.raises(_OpenedError):
        _ = container.backend
    device = cast("KeyDirectory", object())
    container.device = device

    assert container.backend is device


def test_an_administrator_is_refused_before_anything_is_opened() -> None:
    """Settings that the guard refuses stop every administrative command."""
    environ = {"APP_ENV": "production", "DATABASE_URL": "sqlite:////nowhere/ledger"}

    with pytest.raises(ConfigurationError) as refused:
        build_admin_container(environ)

    assert "database-not-ready" not in {r.code for r in refused.value.refusals}
    assert build_container(environ).settings.is_production


class _Webhook:
    def __init__(self) -> None:
        self.sent: list[Mapping[str, Any]] = []

    def notify(self, alert: Mapping[str, Any]) -> None:
        self.sent.append(alert)


def test_every_part_uses_the_clock_of_the_container(sqlite_store: SQLStore) -> None:
    """Alerts, rate limits and the check of sealing have the container's time."""
    webhook, clock = _Webhook(), SettableClock(NOW + timedelta(seconds=50))
    device = cast("KeyDirectory", ReferenceBackend())
    container = container_over(sqlite_store, device, {}, notifier=webhook, clock=clock)
    caller = Principal("alice", frozenset({"admin"}), "jti", NOW)
    reading = Permission(frozenset({"admin"}), "keys:read", administrative=True)
    request = AccessRequest(reading, "GET", "/keys", "192.0.2.1", "req_1")
    sqlite_store.append([record(at=NOW - timedelta(hours=1))])

    container.alerts.sound(Alert.KEY_UNHEALTHY)
    checks = container.readiness().checks
    for _ in range(READS_PER_CHANGE * container.settings.rate_limit_admin):
        container.access.admit(caller, request)
    with pytest.raises(RateLimitedError) as refused:
        container.access.admit(caller, request)

    assert webhook.sent[0]["at"] == clock().isoformat()
    assert checks["audit"] == "audit-sealing-late"
    assert refused.value.retry_after == 10


def test_a_start_is_recorded(sqlite_store: SQLStore) -> None:
    """With the program's version, and the hash that signatures have."""
    container = build_service(sqlite_store, utc_now)
    record_start(container, "api")
    seal(sqlite_store)
    (written,) = sqlite_store.sealed(0, 10)
    details = written.record.fields["details"]

    assert (details["process"], details["environment"]) == ("api", "test")
    assert details["version"] == version("hotwallet")
    assert details["hash"] == container.configuration.hash


def test_a_start_that_cannot_be_recorded_is_refused(sqlite_store: SQLStore) -> None:
    """The supervisor starts the process again if the database is only down."""

    def fail(*_: object) -> NoReturn:
        raise StoreUnavailableError("the database does not answer")

    broken = altered(sqlite_store, last_configuration=fail)
    with pytest.raises(ConfigurationError, match="database-not-ready") as raised:
        record_start(build_service(broken, utc_now), "api")

    assert raised.value.is_transient


def test_operators_need_no_networks_file(sqlite_store: SQLStore) -> None:
    """Records without a configuration are written while the file is broken."""
    broken = container_over(sqlite_store, cast("KeyDirectory", object()), {})
    del broken.networks
    broken.environ = {"APP_ENV": "test", "NETWORKS_FILE": "/does/not/exist"}
    purpose = Purpose(Operation.SELF_TEST)
    intent = broken.audit.intent(purpose, Subject("device", "01", "0x"))

    assert "configuration" not in intent.fields


_RULE = '@id("none") forbid (principal, action, resource);'

_EXAMPLE = """
[[example]]
name = "a digest"
paths = ["account"]
verdict = "{}"
digest = "0x1111111111111111111111111111111111111111111111111111111111111111"
"""


def test_rules_must_decide_as_their_examples(
    container: Container, tmp_path: Path
) -> None:
    """A folder without examples is not compared with any."""
    rules = {"own.cedar": _RULE}
    prepared = prepare_rules(container, tmp_path, rules)
    (tmp_path / "examples.toml").write_text(_EXAMPLE.format("refuse"))
    again = prepare_rules(container, tmp_path, rules)
    (tmp_path / "examples.toml").write_text(_EXAMPLE.format("allow"))

    assert prepared.hash == again.hash == container.compile_policy(rules).hash
    with pytest.raises(ConfigurationError, match="'a digest'"):
        prepare_rules(container, tmp_path, rules)


def test_unapproved_rules_are_not_compiled(
    container: Container, tmp_path: Path
) -> None:
    """Who can only write files must not choose what running processes compile."""
    record_start(container, "worker")
    container.approvals.required = True

    with pytest.raises(ConfigurationError, match="limits-raised"):
        prepare_rules(container, tmp_path, {"own.cedar": "not a rule"})


@pytest.mark.parametrize(("process", "version"), [("worker", 1), ("api", 0)])
def test_rules_are_recorded_and_a_worker_accepts_them(
    container: Container, sqlite_store: SQLStore, process: str, version: int
) -> None:
    for each in ("worker", "api"):
        record_start(container, each)
    configuration = accept_rules(container, process, {"own.cedar": _RULE})
    row, last = sqlite_store.accepted_limits(), sqlite_store.last_configuration(process)

    assert row is not None
    assert last is not None
    assert row.version == version
    assert last.fields["details"]["hash"] == configuration.hash
    assert configuration.document["policy"] == {"own.cedar": _RULE}
