"""``POST /v1/admin/kms/failover`` and ``hotwallet keys failover``, to the letter."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from falcon.testing import Result, TestClient
from structlog.testing import LogCapture

from api.auth.authorization import AccessPolicy
from api.auth.rate_limits import RateLimits
from api.http.app import create_app
from backends.sql import SQLStore
from dev import kms_faults as faults
from dev.kms_emulator import KMSEmulator
from dev.kms_wire import Faults
from signer.audit.log import AuditLog
from signer.errors import KeyUnusableError
from signer.model.key import Key
from tests.api.administrators import REFUSED, asked
from tests.api.commands import Run
from tests.api.service import build_container, replaced
from tests.api.support import SettableClock
from tests.support.keys import key_at, made_active
from tests.support.networks import write_networks
from tests.support.ring import ELSEWHERE, NEW, OLD, OTHER, System


_SILENCE = structlog.wrap_logger(structlog.PrintLogger(), processors=[LogCapture()])

PATH = "/v1/admin/kms/failover"


@pytest.fixture
def system(sqlite_store: SQLStore) -> System:
    """A system whose active key is in another place as well."""
    system = System(sqlite_store)
    system.replicate(OLD, ELSEWHERE)
    return system


@pytest.fixture
def client(system: System, clock: SettableClock) -> TestClient:
    """A client of the application over that system."""
    store = system.store
    audit = AuditLog(_SILENCE, journal=store)
    container = replaced(
        build_container(store, clock),
        failover=system.failover(),
        access=AccessPolicy(store, RateLimits.shared(store, clock=clock), audit, clock),
    )
    return TestClient(create_app(container))


def _failover(client: TestClient, body: Any, **claims: Any) -> Result:
    return asked(client, PATH, body, **claims)


def _require_unchanged(system: System) -> None:
    assert system.store.active_key() == system.old


def test_fails_over(client: TestClient, system: System) -> None:
    """200: both places by eight characters, and the address that stays."""
    answer = _failover(client, {"newKeyId": ELSEWHERE}, jti="the-token")

    assert answer.status_code == 200
    assert answer.json == {
        "status": "relocated",
        "keyId": "44444444...",
        "previousKeyId": "11111111...",
        "address": system.old.address,
        "state": "active",
        "warnings": ["roles with permission for the old key id can still sign with it"],
    }
    active = system.store.active_key()
    assert active is not None
    assert (active.key_id, active.epoch) == (ELSEWHERE, 1)
    assert {
        (each["actor"], each["token_id"], each["request_id"]) for each in system.records
    } == {("alice", "the-token", answer.headers["x-request-id"])}


def test_asking_again_is_200(client: TestClient, system: System) -> None:
    """Who did not hear the answer asks again, and is told the same key."""
    _failover(client, {"newKeyId": ELSEWHERE})
    again = _failover(client, {"newKeyId": ELSEWHERE})

    assert (again.status_code, again.json["status"]) == (200, "relocated")
    assert again.json["keyId"] == again.json["previousKeyId"] == "44444444..."
    assert again.json["warnings"] == ["the ring already has the key under this id"]


def test_a_dry_run(client: TestClient, system: System) -> None:
    """200 and ``would-relocate``: the key has signed there, and that is all."""
    answer = _failover(client, {"newKeyId": ELSEWHERE, "dryRun": True})

    assert (answer.status_code, answer.json["status"]) == (200, "would-relocate")
    assert system.directory.devices[ELSEWHERE].calls == 1
    _require_unchanged(system)


MALFORMED: dict[str, tuple[Any, str | None]] = {
    "missing": ({}, "newKeyId"),
    "empty": ({"newKeyId": ""}, "newKeyId"),
    "malformed": ({"newKeyId": "  "}, "newKeyId"),
    "too long": ({"newKeyId": "a" * 513}, "newKeyId"),
    "a number": ({"newKeyId": 5}, "newKeyId"),
    "a rotation's": ({"newKeyId": ELSEWHERE, "compromised": True}, "body"),
    "a text for a boolean": ({"newKeyId": ELSEWHERE, "dryRun": "true"}, "dryRun"),
    "no object": ([ELSEWHERE], None),
}


@pytest.mark.parametrize(("body", "field"), MALFORMED.values(), ids=MALFORMED)
def test_malformed(
    client: TestClient, system: System, body: Any, field: str | None
) -> None:
    """400 for whatever is not a failover; the answer says where, and quotes nothing."""
    answer = _failover(client, body)

    assert answer.status_code == 400
    if field is not None:
        assert (answer.json["code"], answer.json["field"]) == ("invalid-input", field)
    assert ELSEWHERE not in answer.text
    _require_unchanged(system)


def test_no_token(client: TestClient, system: System) -> None:
    """401 without a token, and nothing is looked at."""
    answer = client.simulate_post(PATH, json={"newKeyId": ELSEWHERE})

    assert (answer.status_code, answer.json["code"]) == (401, "unauthenticated")
    _require_unchanged(system)


@pytest.mark.parametrize("claims", REFUSED.values(), ids=REFUSED)
def test_without_the_right(
    client: TestClient, system: System, claims: dict[str, Any]
) -> None:
    """403 for a merchant, and for an administrator without scope; on record."""
    answer = _failover(client, {"newKeyId": ELSEWHERE}, **claims)

    assert (answer.status_code, answer.json["code"]) == (403, "forbidden")
    _require_unchanged(system)
    assert system.outcomes == [("admin-access-refused", "forbidden")]


def test_a_token_works_once(client: TestClient, system: System) -> None:
    """H7: the second use of a token is 401, whatever it asks for."""
    answers = [
        _failover(client, {"newKeyId": ELSEWHERE, "dryRun": True}, jti="once"),
        _failover(client, {"newKeyId": ELSEWHERE}, jti="once"),
    ]

    assert [answer.status_code for answer in answers] == [200, 401]
    _require_unchanged(system)


def test_another_key(client: TestClient, system: System) -> None:
    """404 with advice for a key that the ring does not have."""
    answer = _failover(client, {"newKeyId": OTHER})

    assert (answer.status_code, answer.json["code"]) == (404, "not-found")
    assert "use rotate" in answer.json["detail"]
    _require_unchanged(system)


def test_while_somebody_rotates(client: TestClient, system: System) -> None:
    """409 while a rotation is under way, and when to retry."""
    other = key_at(system.address(OTHER), key_id=OTHER)
    system.store.begin_rotation(other, system.clock())
    answer = _failover(client, {"newKeyId": ELSEWHERE})

    assert answer.status_code == 409
    assert answer.json["code"] == "rotation-in-progress"
    assert answer.headers["retry-after"] == "5"
    _require_unchanged(system)


def test_a_key_that_was_given_up(client: TestClient, system: System) -> None:
    """O8: 409 for a key that was compromised, wherever it is."""
    made_active(system.store, key_at(system.address(NEW), key_id=NEW), block=True)
    answer = _failover(client, {"newKeyId": ELSEWHERE})

    assert (answer.status_code, answer.json["code"]) == (409, "conflict")
    assert system.states[OLD] == "blocked"


def test_an_unhealthy_place(client: TestClient, system: System) -> None:
    """503 in the words of a rotation; the old place is in use, and an alert fires."""
    system.directory.failure = KeyUnusableError("DisabledException")
    answer = _failover(client, {"newKeyId": ELSEWHERE})

    assert answer.status_code == 503
    assert answer.json["code"] == "new-key-unhealthy"
    assert answer.json["error"] == "new key unhealthy"
    assert answer.json["message"] == "DisabledException"
    assert answer.json["reason"] == "key-unusable"
    _require_unchanged(system)
    assert [alert["alert"] for alert in system.told] == ["rotation-refused"]
    assert ("key-failover-refused", "key-unusable") in system.outcomes


THERE = "eu-west-1"


@pytest.fixture
def replica(
    kms_emulator: KMSEmulator, sqlite_store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A replica of the ring's active key, which is one of KMS's in another region."""
    primary = kms_emulator.create_key(multi_region=True)
    sqlite_store.enrol(key_at_kms(kms_emulator.address(primary), primary))
    for name, value in {
        "USE_KMS": "true",
        "KMS_KEY_ID": primary,
        "AWS_ENDPOINT_URL_KMS": kms_emulator.endpoint,
        "AWS_REGION": kms_emulator.region,
    }.items():
        monkeypatch.setenv(name, value)
    return kms_emulator.replicate(primary, THERE)


def key_at_kms(address: str, arn: str) -> Key:
    """Return the row of a key of KMS."""
    return replace(key_at(address, key_id=arn), backend="aws-kms")


@pytest.fixture
def run(
    hotwallet: Run, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Return ``hotwallet`` with the test's ledger and no working node."""
    networks = write_networks(tmp_path / "networks.toml")
    monkeypatch.setenv("APP_ENV", "test")
    monkeypatch.setenv("NETWORKS_FILE", str(networks))
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    return hotwallet


def test_the_command(
    run: Run,
    replica: str,
    sqlite_store: SQLStore,
    kms_emulator: KMSEmulator,
) -> None:
    """The region of the ARN is asked, though AWS_REGION is down; no id is shown."""
    kms_emulator.down.add(kms_emulator.region)
    try:
        rehearsed = run("keys", "failover", replica, "--dry-run", "--json")
        between = sqlite_store.active_key()
        told = run("keys", "failover", replica, "--yes")
    finally:
        kms_emulator.down.clear()
    active = sqlite_store.active_key()

    assert (rehearsed.status, told.status) == (0, 0), told.err
    assert rehearsed.json["status"] == "would-relocate"
    assert between is not None
    assert between.key_id != replica
    assert active is not None
    assert (active.key_id, active.epoch) == (replica, 1)
    first, before, warning = told.out.splitlines()
    assert first == f"relocated: {replica.rpartition('/')[2][:8]}... {active.address}"
    assert before.endswith("...; the key is active")
    assert warning.startswith("  warning: roles with permission for the old key id")
    shown = told.out + told.err + rehearsed.out + rehearsed.err
    assert replica.rpartition("/")[2] not in shown
    assert THERE not in shown


def test_the_command_refuses(
    run: Run,
    replica: str,
    sqlite_store: SQLStore,
    kms_emulator: KMSEmulator,
    kms_faults: Faults,
) -> None:
    """Status 1 for a replica that is disabled, or denied; the key stays put."""
    before = sqlite_store.active_key()
    kms_emulator.set_state(replica, "Disabled")
    disabled = run("keys", "failover", replica, "--yes")
    kms_emulator.set_state(replica, "Enabled")
    kms_faults.always("Sign", faults.only_in(THERE, faults.access_denied()))
    denied = run("keys", "failover", replica, "--yes")

    assert [(each.status, each.out) for each in (disabled, denied)] == [(1, "")] * 2
    assert "new-key-unhealthy" in disabled.err
    assert "new-key-unhealthy" in denied.err
    assert sqlite_store.active_key() == before
