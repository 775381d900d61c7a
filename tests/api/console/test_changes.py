"""Every change of the console: it is that of the API, with its checks and records."""

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from falcon.inspect import inspect_routes
from falcon.testing import Result

from api.cli import keys, nonces
from api.console.changes.catalogue import CHANGES
from api.console.changes.change import REASON, Change
from api.http.console import is_console
from api.http.console.resource import ADMINISTRATORS
from api.http.middleware import Resource
from api.http.openapi.document import complete_document
from backends.sql import SQLStore
from signer.model.audit_record import Actor
from tests.api.administrators import authorized
from tests.api.console.cases import CASES, Request, prepared
from tests.api.console.worlds import WHY, World
from tests.support.ledgers import open_ledger


every_change = pytest.mark.parametrize("change", CHANGES, ids=lambda each: each.name)


@pytest.fixture
def world(sqlite_store: SQLStore) -> World:
    """A service, and the browser of an administrator."""
    return World(sqlite_store)


@pytest.fixture
def other_world(_sqlite_template: Path, tmp_path: Path) -> Iterator[World]:
    """Another service in the same state, with a database of its own."""
    path = tmp_path / "other.db"
    shutil.copy(_sqlite_template, path)
    store = open_ledger(f"sqlite:///{path}")
    yield World(store)
    store.close()


def test_every_change_has_a_case() -> None:
    """A change that is added to the list must be tested like the others."""
    assert {each.name for each in CHANGES} == {*CASES}


def test_nothing_else_changes_anything(world: World) -> None:
    """A form of the console leads to a declared change, or to a login."""
    routes = inspect_routes(world.client.app)
    paths = [each.path for each in routes if is_console(each.path)]
    posts = {path for path in paths if "POST" in _resource(world, path).methods}
    declared = {
        f"/console/changes/{each.name}/{step}"
        for each in CHANGES
        for step in ("confirm", "make")
    }

    assert posts == {
        *declared,
        "/console/audit/export",
        "/console/login",
        "/console/logout",
    }


def _resource(world: World, path: str) -> Resource:
    found = world.client.app._router.find(re.sub("{[^}]*}", "x", path))
    assert found is not None
    assert isinstance(found[0], Resource)
    return found[0]


_COMMANDS = {
    "hotwallet keys revoke": keys._SCOPE,
    "hotwallet nonce abandon": nonces._SCOPE,
    "hotwallet nonce repair": nonces._SCOPE,
}


@every_change
def test_the_scope_is_that_of_the_api(world: World, change: Change) -> None:
    """The role as well, except that a tenant cancels its own refunds in the API."""
    method, path = change.api.split(" ", 1)
    if method == "hotwallet":
        assert change.scope == _COMMANDS[change.api]
        return
    permission = _resource(world, path).permission(method)

    assert permission is not None
    assert permission.scope == change.scope
    if not path.startswith("/v1/refunds"):
        assert (permission.roles, permission.administrative) == (ADMINISTRATORS, True)


@every_change
def test_it_changes_what_it_says(world: World, change: Change) -> None:
    case, values = prepared(world, change)
    before = case.state(world)
    answer = world.make(change, values)

    assert answer.status_code == 200, answer.text
    assert case.state(world) != before
    for text in values.values():
        assert text.replace("<", "&lt;").replace(">", "&gt;") in answer.text
    assert WHY not in answer.text


@every_change
def test_the_confirmation_repeats_everything(world: World, change: Change) -> None:
    case, values = prepared(world, change)
    before = case.state(world)
    path = f"/console/changes/{change.name}"
    given = {"form": world.browser.form_token(), **values}
    page = world.browser.submit(f"{path}/confirm", given).text

    for text in (change.title, change.scope, "alice", *values.values()):
        assert text.replace("<", "&lt;").replace(">", "&gt;") in page
    assert "<b>" not in page
    assert "<i>" not in page
    assert case.state(world) == before


@pytest.mark.parametrize(
    "change",
    [each for each in CHANGES if CASES[each.name].needs_approval],
    ids=lambda each: each.name,
)
def test_a_change_for_two_persons_waits(world: World, change: Change) -> None:
    """The page has the command and the page for the one who approves."""
    case = CASES[change.name]
    values = case.prepare(world)
    before = case.state(world)
    answer = world.make(change, values)
    (approval,) = world.container.approvals.list().approvals
    proposal = world.browser.get(f"/console/approvals/{approval.digest}")

    assert answer.status_code == 409
    assert case.state(world) == before
    for text in (
        "approval-required",
        "waits for a second person",
        f'href="/console/approvals/{approval.digest}"',
        f"hotwallet approvals approve {approval.digest[:16]}",
    ):
        assert text in answer.text
    assert "waits for a second person" in proposal.text
    assert "Make the change" not in proposal.text
    assert approval.requested_by == "token:alice"

    world.approve_all()
    approved = world.browser.get(f"/console/approvals/{approval.digest}").text
    assert f'href="/console/changes/{change.name}?' in approved
    assert world.make(change, values).status_code == 200
    assert case.state(world) != before


def _comparable(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what does not depend on the moment."""
    return {
        "event": record["event"],
        "outcome": record.get("outcome"),
        "actor": record["actor"],
        "token": record["token_id"],
        "details": {
            name: value
            for name, value in record.get("details", {}).items()
            if not re.search("at$|until|id$|request|events", name)
        },
    }


@every_change
def test_the_audit_is_that_of_the_api(
    world: World, other_world: World, change: Change
) -> None:
    """Two services in the same state; one is changed by the API."""
    recorded = []
    for each in (world, other_world):
        case, values = prepared(each, change)
        known = len(each.records())
        if each is world:
            assert each.make(change, values, jti="the-token").status_code == 200
        else:
            by = replace(_ALICE, reason=values.get(REASON.name, ""))
            _make_by_api(each, change, case.same(each, values, by))
        # The clock stands still, so the records have no order.
        found = map(_comparable, each.records()[known:])
        recorded.append(sorted(found, key=str))

    assert recorded[0] == recorded[1]
    assert recorded[0] != []
    assert {(each["actor"], each["token"]) for each in recorded[0]} == {
        ("token:alice", "the-token")
    }


_ALICE = Actor("token:alice", "req-alice", "the-token")


def _make_by_api(world: World, change: Change, made: object) -> None:
    if not isinstance(made, Request):
        return
    given = {} if made.body is None else {"json": made.body}
    headers = authorized(
        now=world.clock(), scope=change.scope, sub="alice", jti="the-token"
    )
    answer: Result = world.client.simulate_post(made.path, headers=headers, **given)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "change",
    [each for each in CHANGES if REASON in each.fields],
    ids=lambda each: each.name,
)
@pytest.mark.parametrize("by", ["console", "API"])
def test_the_reason_is_in_every_record(world: World, change: Change, by: str) -> None:
    """Of the request, and of what came of it, also if no second person is needed."""
    case, values = prepared(world, change)
    known = len(world.records())
    if by == "console":
        assert world.make(change, values).status_code == 200
    else:
        actor = replace(_ALICE, reason=WHY)
        _make_by_api(world, change, case.same(world, values, actor))
    found = [
        each
        for each in world.records()[known:]
        if not each["event"].startswith("digest-sign")
    ]

    assert found != []
    assert {each["details"].get("reason") for each in found} == {WHY}


def test_every_reason_of_the_api_is_that_of_a_change() -> None:
    """So the test above makes each request that has a reason."""
    document = complete_document()
    with_reason = {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if path.startswith("/v1/admin") and "reason" in _body(document, operation)
    }

    assert with_reason == {
        each.api
        for each in CHANGES
        if REASON in each.fields and each.api.startswith("POST")
    }


def _body(document: Mapping[str, Any], operation: Mapping[str, Any]) -> set[str]:
    """Return the names of what the body of *operation* may have."""
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    name = schema.get("$ref", "").rpartition("/")[2]
    found = document["components"]["schemas"].get(name, schema)
    return set(found.get("properties", ()))


def test_the_guide_lists_every_change() -> None:
    """With its scope, and what it is the same as."""
    guide = Path("docs/how-to/console.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| ([A-Z][^|]*) \| [^|]+ \| `([^`]+)` \| `([^`]+)` \|", guide, re.MULTILINE
    )

    assert rows == [(each.title, each.scope, each.api) for each in CHANGES]
