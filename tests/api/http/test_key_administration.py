"""What rotation and failover over HTTP have in common: refusals and audit."""

from dataclasses import dataclass
from typing import Any

import pytest
from falcon.testing import Result, TestClient

from signer.errors import KeyUnusableError
from tests.api.administrators import UNAUTHORIZED, authorized, post_as_admin
from tests.support.keys import key_at, made_active
from tests.support.ring import ELSEWHERE, NEW, OLD, OTHER, System


@dataclass(frozen=True)
class Action:
    """One action: a key that it accepts, and one that was compromised before."""

    name: str
    key_id: str
    compromised: str

    @property
    def path(self) -> str:
        """The path of the route."""
        return f"/v1/admin/kms/{self.name}"

    def post(self, client: TestClient, body: Any = None, **claims: Any) -> Result:
        """Post *body*, or the name of the key, with a new token."""
        body = {"newKeyId": self.key_id} if body is None else body
        return post_as_admin(client, self.path, body, **claims)


ROTATE = Action("rotate", NEW, OLD)
FAILOVER = Action("failover", ELSEWHERE, ELSEWHERE)

both = pytest.mark.parametrize("action", [ROTATE, FAILOVER], ids=lambda each: each.name)


def _assert_refused(answer: Result, status: int, code: str, system: System) -> None:
    assert (answer.status_code, answer.json["code"]) == (status, code)
    assert system.store.active_key() == system.old


@both
def test_audit_records_name_the_administrator_and_the_token(
    admin_client: TestClient, system: System, action: Action
) -> None:
    answer = action.post(admin_client, jti="the-token")

    assert answer.status_code == 200
    assert system.outcomes == [
        ("digest-sign-requested", None),
        ("digest-sign-succeeded", "success"),
        (f"key-{action.name}-requested", "success"),
        (f"key-{action.name}-succeeded", "success"),
    ]
    assert {
        (each["actor"], each["token_id"], each["request_id"]) for each in system.records
    } == {("token:alice", "the-token", answer.headers["x-request-id"])}


MALFORMED: dict[str, tuple[Any, str | None]] = {
    "missing": ({}, "newKeyId"),
    "empty": ({"newKeyId": ""}, "newKeyId"),
    "blank": ({"newKeyId": "  "}, "newKeyId"),
    "too long": ({"newKeyId": "a" * 513}, "newKeyId"),
    "number": ({"newKeyId": 5}, "newKeyId"),
    "null": ({"newKeyId": None}, "newKeyId"),
    "list": ({"newKeyId": [NEW]}, "newKeyId"),
    "unknown field": ({"newKeyId": NEW, "force": True}, "body"),
    "text for a boolean": ({"newKeyId": NEW, "dryRun": "true"}, "dryRun"),
    "no object": ([NEW], None),
    "no JSON": ("newKeyId", None),
    "twice": (f'{{"newKeyId": "{NEW}", "newKeyId": "{OTHER}"}}', None),
}
MALFORMED_ROTATION: dict[str, tuple[Any, str]] = {
    "number for a boolean": ({"newKeyId": NEW, "compromised": 1}, "compromised"),
    "number for an address": ({"newKeyId": NEW, "activeAddress": 1}, "activeAddress"),
    "no address": ({"newKeyId": NEW, "activeAddress": "0x12"}, "activeAddress"),
}


@pytest.mark.parametrize(
    ("action", "body", "field"),
    [
        *((each, *case) for each in (ROTATE, FAILOVER) for case in MALFORMED.values()),
        *((ROTATE, *case) for case in MALFORMED_ROTATION.values()),
        (FAILOVER, {"newKeyId": NEW, "compromised": True}, "body"),
    ],
)
def test_a_malformed_body_is_refused(
    admin_client: TestClient,
    system: System,
    action: Action,
    body: Any,
    field: str | None,
) -> None:
    """400 with the name of the field; the answer does not quote the body."""
    answer = action.post(admin_client, body)

    assert answer.status_code == 400
    if field is not None:
        assert (answer.json["code"], answer.json["field"]) == ("invalid-input", field)
    assert NEW not in answer.text
    assert system.store.active_key() == system.old


LISTS = pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/v1/admin/keys", "keys:read"),
        ("/v1/admin/stops", "signing:stop"),
        ("/v1/admin/approvals", "approvals:read"),
        ("/v1/admin/webhooks/deliveries", "webhooks:read"),
    ],
)


@LISTS
@pytest.mark.parametrize("role", ["admin", "devops"])
def test_lists_need_a_token_with_role_and_scope(
    admin_client: TestClient, system: System, path: str, scope: str, role: str
) -> None:
    """Refusals are on record; ``tests/api/actions`` has the routes that change."""
    refused = [
        admin_client.simulate_get(
            path, headers=authorized(**{"scope": scope, **claims})
        )
        for claims in UNAUTHORIZED.values()
    ]
    recorded, without = system.outcomes, admin_client.simulate_get(path)
    headers = authorized(roles=[role], scope=scope)

    assert {each.status_code for each in refused} == {403}
    assert recorded == [("admin-access-refused", "forbidden")] * len(UNAUTHORIZED)
    assert system.records[0]["operation"] == "administration"
    assert without.status_code == 401
    assert without.headers["www-authenticate"].startswith("Bearer")
    assert admin_client.simulate_get(path, headers=headers).status_code == 200


@both
def test_a_rotation_in_progress_is_a_conflict(
    admin_client: TestClient, system: System, action: Action
) -> None:
    """O2: 409 while another rotation runs, with the time to retry."""
    other = key_at(system.address(OTHER), key_id=OTHER)
    system.store.begin_rotation(other, system.clock())
    answer = action.post(admin_client)

    _assert_refused(answer, 409, "rotation-in-progress", system)
    assert answer.headers["retry-after"] == "5"
    event = f"key-{action.name}-refused"
    assert (event, "rotation-in-progress") in system.outcomes


@both
def test_a_compromised_key_stays_blocked(
    admin_client: TestClient, system: System, action: Action
) -> None:
    """O8: 409 for a compromised key, also under its replica's id."""
    made_active(system.store, key_at(system.address(NEW), key_id=NEW), block=True)
    answer = action.post(admin_client, {"newKeyId": action.compromised})

    assert (answer.status_code, answer.json["code"]) == (409, "conflict")
    assert system.states[OLD] == "blocked"


@both
def test_a_key_that_cannot_sign_is_unhealthy(
    admin_client: TestClient, system: System, action: Action
) -> None:
    """503; the old key stays active, an alert is raised, the refusal is audited."""
    system.directory.failure = KeyUnusableError("DisabledException")
    answer = action.post(admin_client)

    _assert_refused(answer, 503, "new-key-unhealthy", system)
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
    assert [alert["alert"] for alert in system.alerts] == ["rotation-refused"]
    assert (f"key-{action.name}-refused", "key-unusable") in system.outcomes
