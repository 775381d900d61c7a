"""``POST /v1/admin/kms/rotate`` and ``GET /v1/admin/keys``, to the letter."""

from collections.abc import Sequence
from typing import Any

import pytest
import structlog
from falcon.testing import Result, TestClient
from structlog.testing import LogCapture

from api.auth.authorization import AccessPolicy
from api.auth.rate_limits import RateLimits
from api.http.app import create_app
from backends.sql import SQLStore
from signer.audit.log import AuditLog
from signer.errors import KeyUnusableError
from signer.keys.balances import AddressBalance
from signer.model.key import KeyState
from tests.api.administrators import REFUSED, asked, authorized
from tests.api.service import build_container, replaced
from tests.api.support import SettableClock
from tests.support.keys import key_at
from tests.support.ring import NEW, OLD, OTHER, POOR, RICH, System


_SILENCE = structlog.wrap_logger(structlog.PrintLogger(), processors=[LogCapture()])


@pytest.fixture
def system(sqlite_store: SQLStore, clock: SettableClock) -> System:
    """A system with an active key, and two more in its directory."""
    return System(sqlite_store)


def _client(system: System, clock: SettableClock, *, needs_funds: bool) -> TestClient:
    store = system.store
    audit = AuditLog(_SILENCE, journal=store)
    container = replaced(
        build_container(store, clock),
        rotation=system.rotation(needs_funds=needs_funds),
        access=AccessPolicy(store, RateLimits.shared(store, clock=clock), audit, clock),
    )
    return TestClient(create_app(container))


@pytest.fixture
def client(system: System, clock: SettableClock) -> TestClient:
    """A client of the application over that system."""
    return _client(system, clock, needs_funds=False)


def _rotate(client: TestClient, body: Any, **claims: Any) -> Result:
    return asked(client, "/v1/admin/kms/rotate", body, **claims)


def _keys(client: TestClient, **claims: Any) -> Result:
    return client.simulate_get("/v1/admin/keys", headers=authorized(**claims))


def _held(holding: AddressBalance) -> dict[str, Any]:
    return {
        "network": "local",
        "gas": holding.gas,
        "tokens": dict(holding.tokens),
        "nonce": 0,
        "error": None,
    }


def _require_unchanged(system: System) -> None:
    assert system.store.active_key() == system.old


def test_rotates(client: TestClient, system: System) -> None:
    """200: the answer names both keys by eight characters, and both addresses."""
    answer = _rotate(client, {"newKeyId": NEW})

    assert answer.status_code == 200
    assert answer.json == {
        "status": "rotated",
        "keyId": "22222222...",
        "address": system.address(NEW),
        "epoch": 2,
        "previousKeyId": "11111111...",
        "previousAddress": system.address(OLD),
        "holdings": [_held(RICH)],
        "strandedRefunds": [],
        "warnings": [
            "the address has changed: inform everyone who funds or monitors the wallet"
        ],
    }
    assert NEW not in answer.text
    active = system.store.active_key()
    assert active is not None
    assert (active.key_id, active.requested_by) == (NEW, "alice")


def test_is_on_record_with_its_token(client: TestClient, system: System) -> None:
    """Every record of a rotation has the caller, the request and the token's id."""
    answer = _rotate(client, {"newKeyId": NEW}, jti="the-token")
    records = system.records

    assert system.outcomes == [
        ("digest-sign-requested", None),
        ("digest-sign-succeeded", "success"),
        ("key-rotate-requested", "success"),
        ("key-rotate-succeeded", "success"),
    ]
    assert {
        (each["actor"], each["token_id"], each["request_id"]) for each in records
    } == {("alice", "the-token", answer.headers["x-request-id"])}


def test_asking_again_is_200(client: TestClient, system: System) -> None:
    """O2: the same request again, with a new token, has the same key and epoch."""
    first = _rotate(client, {"newKeyId": NEW}).json
    again = _rotate(client, {"newKeyId": NEW})
    told = again.json

    assert again.status_code == 200
    for name in ("status", "keyId", "address", "epoch", "previousKeyId"):
        assert told[name] == first[name]


def test_a_dry_run(client: TestClient, system: System) -> None:
    """200 and ``would-rotate``: the new key has signed, and nothing else happened."""
    answer = _rotate(client, {"newKeyId": NEW, "dryRun": True})

    assert (answer.status_code, answer.json["status"]) == (200, "would-rotate")
    assert (answer.json["keyId"], answer.json["epoch"]) == ("22222222...", None)
    assert list(system.store.keys()) == [system.old]


def test_a_dry_run_of_the_active_key(client: TestClient, system: System) -> None:
    """200 and ``would-rotate`` behind a proof, and a warning that it is active."""
    answer = _rotate(client, {"newKeyId": OLD, "dryRun": True})

    assert (answer.status_code, answer.json["status"]) == (200, "would-rotate")
    assert answer.json["warnings"] == ["the key was already active"]
    assert system.directory.devices[OLD].calls == 1


def test_from_another_key_than_the_active_one(
    client: TestClient, system: System
) -> None:
    """O2: 409 names the active key, and nothing is changed; 200 from the right one."""
    body = {"newKeyId": NEW, "compromised": True}
    wrong = _rotate(client, {**body, "activeAddress": system.address(OTHER)})
    unchanged = system.states
    right = {**body, "activeAddress": system.address(OLD).lower()}
    answers = [_rotate(client, right) for _ in range(2)]

    assert (wrong.status_code, wrong.json["code"]) == (409, "conflict")
    assert system.address(OLD) in wrong.json["detail"]
    assert "retry-after" not in wrong.headers
    assert unchanged == {OLD: "active"}
    assert [answer.status_code for answer in answers] == [200, 200]
    assert system.states == {NEW: "active", OLD: "blocked"}


def test_waits_for_funds(system: System, clock: SettableClock) -> None:
    """O3: 202 while the policy wants funds and there are none; 200 with them."""
    client = _client(system, clock, needs_funds=True)
    system.holdings = (POOR,)
    waiting = _rotate(client, {"newKeyId": NEW})
    listed = _keys(client).json["keys"][-1]
    _require_unchanged(system)
    system.holdings = (RICH,)
    rotated = _rotate(client, {"newKeyId": NEW})

    assert (waiting.status_code, waiting.json["status"]) == (202, "awaiting-funds")
    assert waiting.json["holdings"] == [_held(POOR)]
    assert waiting.json["epoch"] is None
    assert len(waiting.json["warnings"]) == 3
    assert (listed["state"], listed["blockedBy"]) == ("pending", "awaiting-funds")
    assert (rotated.status_code, rotated.json["epoch"]) == (200, 2)


def test_a_dry_run_without_funds(system: System, clock: SettableClock) -> None:
    """O3: 200, and the status that tells that the rotation would be a 202."""
    client = _client(system, clock, needs_funds=True)
    system.holdings = (POOR,)
    answer = _rotate(client, {"newKeyId": NEW, "dryRun": True})

    assert (answer.status_code, answer.json["status"]) == (200, "would-await-funds")
    _require_unchanged(system)


MALFORMED: dict[str, tuple[Any, str | None]] = {
    "missing": ({}, "newKeyId"),
    "empty": ({"newKeyId": ""}, "newKeyId"),
    "malformed": ({"newKeyId": "  "}, "newKeyId"),
    "too long": ({"newKeyId": "a" * 513}, "newKeyId"),
    "a number": ({"newKeyId": 5}, "newKeyId"),
    "null": ({"newKeyId": None}, "newKeyId"),
    "a list": ({"newKeyId": [NEW]}, "newKeyId"),
    "unknown field": ({"newKeyId": NEW, "force": True}, "body"),
    "a text for a boolean": ({"newKeyId": NEW, "dryRun": "true"}, "dryRun"),
    "a number for a boolean": ({"newKeyId": NEW, "compromised": 1}, "compromised"),
    "a number for an address": ({"newKeyId": NEW, "activeAddress": 1}, "activeAddress"),
    "no address": ({"newKeyId": NEW, "activeAddress": "0x12"}, "activeAddress"),
    "no object": ([NEW], None),
    "no JSON": ("newKeyId", None),
    "twice": (f'{{"newKeyId": "{NEW}", "newKeyId": "{OTHER}"}}', None),
}


@pytest.mark.parametrize(("body", "field"), MALFORMED.values(), ids=MALFORMED)
def test_malformed(
    client: TestClient, system: System, body: Any, field: str | None
) -> None:
    """400 for whatever is no rotation; the answer says where, and quotes nothing."""
    answer = _rotate(client, body)

    assert answer.status_code == 400
    if field is not None:
        assert (answer.json["code"], answer.json["field"]) == ("invalid-input", field)
    assert NEW not in answer.text
    _require_unchanged(system)


def test_an_unknown_field_is_told_what_there_is(client: TestClient) -> None:
    """The fields of the request are told, and the name that was sent is not."""
    answer = _rotate(client, {"newKeyId": NEW, NEW: True})

    assert answer.json["detail"] == (
        "has an unknown field; this request takes"
        " newKeyId, dryRun, compromised, activeAddress"
    )
    assert NEW not in answer.text


def test_a_query_is_refused(client: TestClient, system: System) -> None:
    """Parameters that nobody reads are a mistake of the caller's: 400."""
    for method, path in (("POST", "/v1/admin/kms/rotate"), ("GET", "/v1/admin/keys")):
        answer = client.simulate_request(
            method, path, headers=authorized(), query_string="a=b"
        )

        assert answer.status_code == 400
        assert answer.json["detail"].endswith("; this path takes none")
    _require_unchanged(system)


@pytest.mark.parametrize("path", ["/v1/admin/kms/rotate", "/v1/admin/keys"])
def test_no_token(client: TestClient, system: System, path: str) -> None:
    """401 without a token, and nothing is looked at."""
    method = "GET" if path.endswith("keys") else "POST"
    answer = client.simulate_request(method, path, json={"newKeyId": NEW})

    assert (answer.status_code, answer.json["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    _require_unchanged(system)


@pytest.mark.parametrize("claims", REFUSED.values(), ids=REFUSED)
def test_without_the_right(
    client: TestClient, system: System, claims: dict[str, Any]
) -> None:
    """403 for a merchant, and for an administrator without scope; both on record."""
    answers = [_rotate(client, {"newKeyId": NEW}, **claims), _keys(client, **claims)]

    assert [answer.status_code for answer in answers] == [403, 403]
    assert {answer.json["code"] for answer in answers} == {"forbidden"}
    _require_unchanged(system)
    records = system.records
    assert [each["operation"] for each in records] == ["administration"] * 2
    assert [each["outcome"] for each in records] == ["forbidden"] * 2


@pytest.mark.parametrize("role", ["admin", "devops"])
def test_both_roles_may(client: TestClient, role: str) -> None:
    """Administrators and operators rotate and look, each with the scope for it."""
    assert _rotate(client, {"newKeyId": NEW}, roles=[role]).status_code == 200
    assert _keys(client, roles=[role]).status_code == 200


def test_a_token_works_once(client: TestClient, system: System) -> None:
    """H7: the second use of a token is 401, whatever it asks for."""
    answers = [
        _rotate(client, {"newKeyId": NEW, "dryRun": True}, jti="once"),
        _rotate(client, {"newKeyId": NEW}, jti="once"),
    ]

    assert [answer.status_code for answer in answers] == [200, 401]
    _require_unchanged(system)


def test_another_rotation_runs(client: TestClient, system: System) -> None:
    """O2: 409 while the ledger says that somebody else is at it, and when to retry."""
    other = key_at(system.address(OTHER), key_id=OTHER)
    system.store.begin_rotation(other, system.clock())
    answer = _rotate(client, {"newKeyId": NEW})

    assert answer.status_code == 409
    assert answer.json["code"] == "rotation-in-progress"
    assert answer.headers["retry-after"] == "5"
    _require_unchanged(system)
    assert ("key-rotate-refused", "rotation-in-progress") in system.outcomes


def test_a_key_that_was_given_up(client: TestClient, system: System) -> None:
    """O8: 409 for ever for a key that was compromised."""
    given_up = _rotate(client, {"newKeyId": NEW, "compromised": True})
    answer = _rotate(client, {"newKeyId": OLD})

    assert given_up.status_code == 200
    assert system.states[OLD] == KeyState.BLOCKED
    assert (answer.status_code, answer.json["code"]) == (409, "conflict")


def test_an_unhealthy_key(client: TestClient, system: System) -> None:
    """503, in these words; the old key serves, an alert fires, and it is on record."""
    system.directory.failure = KeyUnusableError("DisabledException")
    answer = _rotate(client, {"newKeyId": NEW})

    assert answer.status_code == 503
    assert answer.json == {
        "type": "/problems/new-key-unhealthy",
        "title": "New key unhealthy",
        "status": 503,
        "code": "new-key-unhealthy",
        "detail": "The old key goes on serving.",
        "request_id": answer.headers["x-request-id"],
        "error": "new key unhealthy",
        "message": "DisabledException",
        "reason": "key-unusable",
    }
    _require_unchanged(system)
    assert [alert["alert"] for alert in system.told] == ["rotation-refused"]
    assert ("key-rotate-refused", "key-unusable") in system.outcomes


def test_a_key_that_is_missing(client: TestClient, system: System) -> None:
    """A well-formed id that no key has is most likely a typo: it raises no alert."""
    answer = _rotate(client, {"newKeyId": "nowhere-to-be-found"})

    assert (answer.status_code, answer.json["code"]) == (503, "new-key-unhealthy")
    assert answer.json["reason"] == "key-not-found"
    assert system.told == []
    assert ("key-rotate-refused", "key-not-found") in system.outcomes
    assert "nowhere-to-be-found" not in answer.text
    _require_unchanged(system)


def test_lists_the_ring(client: TestClient, system: System) -> None:
    """The keys, the active one first, each with eight characters of its id."""
    _rotate(client, {"newKeyId": NEW})
    answer = _keys(client)
    shown: Sequence[dict[str, Any]] = answer.json["keys"]

    assert answer.status_code == 200
    assert [(k["keyId"], k["state"], k["epoch"]) for k in shown] == [
        ("22222222...", "active", 2),
        ("11111111...", "draining", 1),
    ]
    assert shown[0].keys() == {
        "keyId",
        "backend",
        "address",
        "state",
        "epoch",
        "requestedBy",
        "blockedBy",
        "createdAt",
        "updatedAt",
    }
    assert (shown[0]["backend"], shown[0]["address"]) == ("device", system.address(NEW))
    assert (shown[0]["requestedBy"], shown[0]["blockedBy"]) == ("alice", None)
    assert shown[1]["createdAt"] == "2026-01-01T00:00:00.000000Z"
    assert OLD not in answer.text
