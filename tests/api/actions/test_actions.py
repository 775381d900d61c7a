"""
Every action of administrators: the same by API, command and console.

Each surface makes the same change and the same audit records with the reason, needs the
same scope, and shows with a dry run what it would do.
"""

import json
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from falcon.inspect import inspect_routes

from api.actions.action import Action, FieldKind, Texts
from api.actions.catalogue import ACTIONS, FORMS
from api.cli.__main__ import cli
from api.extras.console import is_console
from api.http.middleware import Resource
from api.http.openapi.document import complete_document
from backends.sql import SQLStore
from signer.audit.actions import AuditAction
from tests.api.actions.cases import CASES, prepared
from tests.api.administrators import UNAUTHORIZED, authorized
from tests.api.commands import Finished, Run
from tests.extras.console.worlds import WHY, World
from tests.support.ledgers import open_ledger


every_action = pytest.mark.parametrize("action", ACTIONS, ids=lambda each: each.name)
every_form = pytest.mark.parametrize("action", FORMS, ids=lambda each: each.name)

_NEED_TWO = [each for each in ACTIONS if CASES[each.name].needs_approval]


@pytest.fixture
def world(sqlite_store: SQLStore) -> World:
    """A service, and the browser of an administrator."""
    return World(sqlite_store)


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


def _body(action: Action, texts: Texts) -> dict[str, Any]:
    values = action.values(texts)
    found = {each.json_name: values.get(each.name) for each in action.in_body}
    return {name: value for name, value in found.items() if value}


class Surfaces:
    """Takes actions in three ways, always as alice and with a new token."""

    def __init__(self, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._run = run
        self._folder = folder
        self._monkeypatch = monkeypatch

    def http(
        self,
        world: World,
        action: Action,
        texts: Texts,
        *,
        dry_run: bool = False,
        **claims: Any,
    ) -> int:
        """Request the action, and return the status."""
        body = _body(action, texts)
        given = {"scope": action.scope, "sub": "alice", "now": world.clock(), **claims}
        answer = world.client.simulate_post(
            action.path.format(**texts),
            json={**body, **({"dryRun": True} if dry_run else {})},
            headers=authorized(**given),
        )
        return answer.status_code

    def command(
        self,
        world: World,
        action: Action,
        texts: Texts,
        *options: str,
        scope: str | None = None,
    ) -> Finished:
        """Run the command over the parts of *world*."""
        for name in ("build_container", "build_admin_container"):
            self._monkeypatch.setattr(f"api.bootstrap.{name}", lambda: world.container)
        token = self._folder / f"token-{secrets.token_hex(4)}"
        token.write_text(world.token(action, scope=scope or action.scope))
        token.chmod(0o600)
        self._monkeypatch.setenv("OPERATOR_TOKEN_FILE", str(token))
        arguments = [texts[each.name] for each in action.fields if each.argument]
        for each in action.fields:
            option = each.option or f"--{each.name}"
            if not each.argument and texts[each.name]:
                arguments += [
                    option,
                    *([] if each.kind is FieldKind.FLAG else [texts[each.name]]),
                ]
        given = (*options, *(["--yes"] if action.asks else []))
        return self._run(
            *action.command.split(), *arguments, "--reason", texts["reason"], *given
        )

    def console(self, world: World, action: Action, texts: Texts) -> int:
        """Fill the forms in, and return the status of the last page."""
        return world.make(action, texts).status_code


@pytest.fixture
def surfaces(
    hotwallet: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Surfaces:
    """All ways to take an action."""
    monkeypatch.setenv("APP_ENV", "test")
    return Surfaces(hotwallet, tmp_path, monkeypatch)


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
    """Nor does the console's confirmation, which shows the plan."""
    case, texts = prepared(world, action)
    before, known = case.state(world), len(world.records())
    finished = surfaces.command(world, action, texts, "--dry-run", "--json")
    world.confirm(action, texts)

    assert json.loads(finished.out), finished.err
    assert case.state(world) == before
    if action.rehearsal is None:
        assert len(world.records()) == known
    else:  # The device signs a test, which is on record.
        assert surfaces.http(world, action, texts, dry_run=True) == 200
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
    done = surfaces.http(world, action, texts, **once)
    assert (done in {200, 202}, case.state(world) != before) == (True, True)
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
