"""
Every action of administrators: the same by API, command and console.

Each surface makes the same change and the same audit records with the reason, needs the
same scope, and shows with a dry run what it would do.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from falcon.inspect import inspect_routes

from api.actions.action import Action
from api.actions.catalogue import ACTIONS, FORMS
from api.cli.__main__ import cli
from api.extras.console import is_console
from api.http.middleware import Resource
from api.http.openapi.document import complete_document
from backends.sql import SQLStore
from signer.audit.actions import AuditAction
from tests.api.actions.cases import CASES, prepared
from tests.api.actions.surfaces import Surfaces
from tests.api.administrators import UNAUTHORIZED, authorized
from tests.extras.console.worlds import CAROL, WHY, World
from tests.support.ledgers import open_ledger


every_action = pytest.mark.parametrize("action", ACTIONS, ids=lambda each: each.name)
every_form = pytest.mark.parametrize("action", FORMS, ids=lambda each: each.name)

_NEED_TWO = [each for each in ACTIONS if CASES[each.name].needs_approval]


@pytest.fixture
def other_worlds(
    _sqlite_template: Path, tmp_path: Path
) -> Iterator[Callable[[], World]]:
    """Make services in the same state as ``world``, each with its own database."""
    stores: list[SQLStore] = []

    def make() -> World:
        path = tmp_path / f"other-{len(stores)}.db"
        shutil.copy(_sqlite_template, path)
        stores.append(open_ledger(f"sqlite:///{path}"))
        return World(stores[-1])

    yield make
    for store in stores:
        store.close()


def _comparable(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what depends neither on the moment nor on who asked."""
    return {
        "event": record["event"],
        "outcome": record.get("outcome"),
        "details": {
            name: value
            for name, value in record.get("details", {}).items()
            if not re.search("at$|until|id$|request|events|^reference$", name)
        },
    }


@every_action
def test_every_surface_makes_the_same_change_and_records(
    world: World,
    other_worlds: Callable[[], World],
    surfaces: Surfaces,
    action: Action,
) -> None:
    """Three services in the same state; the reason is in every record."""
    recorded, changed = [], []
    for by in ("http", "command", "console"):
        each = world if by == "http" else other_worlds()
        case, texts = prepared(each, action)
        known, before = len(each.records()), case.state(each)
        result = getattr(surfaces, by)(each, action, texts)
        if by == "command":
            assert result.status == case.exits_with, result
        else:
            assert result in {200, 202}
        changed.append(case.state(each) != before)
        # The clock stands still, so the records have no order.
        found = each.records()[known:]
        recorded.append(sorted(map(_comparable, found), key=str))
        reasons = {
            record["details"].get("reason")
            for record in found
            if not record["event"].startswith(("digest-sign", "refund-accept"))
        }
        assert reasons == {WHY}
        needs_token = by != "command" or action.needs_token(action.values(texts))
        assert {record["actor"] for record in found} == {
            "token:alice" if needs_token else found[0]["actor"]
        }

    assert changed == [True] * 3
    assert recorded[0] == recorded[1] == recorded[2]
    assert {each["event"].removesuffix("-requested") for each in recorded[0]} & {
        str(action.audit),
        f"{action.audit}-succeeded",
    }


@every_action
def test_a_dry_run_changes_nothing(
    world: World, surfaces: Surfaces, action: Action
) -> None:
    """A command prints what it would do; the console's confirmation shows the plan."""
    case, texts = prepared(world, action)
    before, known = case.state(world), len(world.records())
    answer = action.rehearse(world.container, action.values(texts), CAROL)
    as_json = surfaces.command(world, action, texts, "--dry-run", "--json")
    as_text = surfaces.command(world, action, texts, "--dry-run")
    world.confirm(action, texts)

    assert json.loads(as_json.out) == answer.document, as_json.err
    assert as_text.out.splitlines() == list(answer.lines)
    assert case.state(world) == before
    if action.rehearsal is None:
        assert len(world.records()) == known
    else:  # The device signs a test, which is on record.
        shown = surfaces.answer(world, action, texts, dry_run=True)
        assert (shown.status_code, shown.json) == (200, answer.document)
        assert case.state(world) == before


@every_action
def test_only_a_new_token_with_role_and_scope_is_accepted(
    world: World, surfaces: Surfaces, action: Action
) -> None:
    """Refusals are on record; ``test_change_attacks`` has what the console refuses."""
    case, texts = prepared(world, action)
    before, recorded = case.state(world), world.refusals()
    refused = [
        surfaces.http(world, action, texts, **claims)
        for claims in UNAUTHORIZED.values()
    ]
    path = action.path.format(**texts)
    without = world.client.simulate_post(path, json={"reason": WHY})

    assert refused == [403] * len(UNAUTHORIZED)
    assert world.refusals() - recorded == len(UNAUTHORIZED) + 1
    assert (without.status_code, without.json["code"]) == (401, "unauthenticated")
    assert without.headers["www-authenticate"].startswith("Bearer")
    if action.needs_token(action.values(texts)):
        finished = surfaces.command(world, action, texts, scope="console:read")
        assert f"needs the scope {action.scope}" in finished.err
    assert case.state(world) == before

    once: dict[str, Any] = {"roles": ["devops"], "jti": "once"}
    known = len(world.records())
    done = surfaces.answer(world, action, texts, **once)
    named = {(each["token_id"], each["request_id"]) for each in world.records()[known:]}
    assert done.status_code in {200, 202}
    assert case.state(world) != before
    assert named == {("once", done.headers["x-request-id"])}
    assert surfaces.http(world, action, texts, **once) == 401


@every_action
def test_a_malformed_request_changes_nothing(world: World, action: Action) -> None:
    """Of the reason, of other members, and of the query."""
    case, texts = prepared(world, action)
    before, path = case.state(world), action.path.format(**texts)
    values = action.values(texts)
    good = {
        each.json_name: values[each.name]
        for each in action.in_body
        if values.get(each.name)
    }
    wrong: list[tuple[Any, str, str | None]] = [
        ({**good, "reason": reason}, "", "reason")
        for reason in (7, None, "x" * 201, "two\nlines", " ")
    ]
    wrong += [({**good, "force": True}, "", "body"), (good, "a=b", "a")]
    if action.reason.is_required:
        wrong += [({**good, "reason": ""}, "", "reason"), ({}, "", None)]
    for body, query, field in wrong:
        headers = authorized(scope=action.scope, sub="alice", now=world.clock())
        answer = world.client.simulate_post(
            path, json=body, headers=headers, query_string=query
        )
        assert (answer.status_code, answer.json["code"]) == (400, "invalid-input"), body
        assert field in {None, answer.json["field"]}, body

    assert case.state(world) == before


@every_form
def test_the_pages_repeat_everything(world: World, action: Action) -> None:
    case, texts = prepared(world, action)
    before = case.state(world)
    path = f"/console/changes/{action.name}"
    given = {"form": world.browser.form_token(), **texts}
    page = world.browser.submit(f"{path}/confirm", given).text
    answer = world.make(action, texts)

    assert answer.status_code == 200, answer.text
    assert case.state(world) != before
    for shown in (page, answer.text):
        for text in (action.title, "alice", *texts.values()):
            assert text.replace("<", "&lt;").replace(">", "&gt;") in shown
        assert "<b>" not in shown
        assert "<i>" not in shown


@pytest.mark.parametrize("action", _NEED_TWO, ids=lambda each: each.name)
def test_an_action_for_two_persons_waits(world: World, action: Action) -> None:
    """The page has the command and the page for the one who approves."""
    case = CASES[action.name]
    texts = {**case.prepare(world), "reason": WHY}
    before = case.state(world)
    answer = world.make(action, texts)
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
    assert (approval.requested_by, approval.reason) == ("token:alice", WHY)

    world.approve_all()
    approved = world.browser.get(f"/console/approvals/{approval.digest}").text
    assert f'href="/console/changes/{action.name}?' in approved
    assert world.make(action, texts).status_code == 200
    assert case.state(world) != before


def test_every_form_has_a_case() -> None:
    """An action that is added to the list must be tested like the others."""
    assert {each.name for each in FORMS} == {*CASES}


def test_nothing_else_changes_anything(world: World) -> None:
    """A ``POST`` for administrators is a declared action, a search or a login."""
    routes = [each.path for each in inspect_routes(world.client.app)]
    posts = {path for path in routes if "POST" in _resource(world, path).methods}
    forms = {
        f"/console/changes/{each.name}/{step}"
        for each in FORMS
        for step in ("confirm", "make")
    }

    assert {each for each in posts if is_console(each)} == {
        *forms,
        "/console/audit/export",
        "/console/login",
        "/console/logout",
    }
    assert {each for each in posts if each.startswith("/v1/admin")} == {
        each.path for each in ACTIONS
    }


def _resource(world: World, path: str) -> Resource:
    found = world.client.app._router.find(re.sub("{[^}]*}", "x", path))
    assert found is not None
    assert isinstance(found[0], Resource)
    return found[0]


@every_action
def test_every_action_is_described(action: Action) -> None:
    """Its command, its operation and its schema exist."""
    command: click.Command = cli
    for name in action.command.split():
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    document = complete_document()
    operation = document["paths"][action.path]["post"]
    options = {each.name for each in command.params}

    assert {"reason", "dry_run", "as_json"} <= options
    assert action.schema in document["components"]["schemas"]
    assert operation["security"] == [{"bearerToken": [action.scope]}]
    assert action.audit in set(AuditAction)
