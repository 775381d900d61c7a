"""Attacks on every declared change: none of them changes anything, or is silent."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
from falcon.testing import Result

from api.actions.action import Action
from api.actions.catalogue import FORMS
from api.extras.console.sessions import SESSION_LIFETIME
from tests.api.actions.cases import prepared
from tests.api.browser import Browser, new_token
from tests.extras.console.worlds import World


Fields = Mapping[str, str]


@dataclass(frozen=True)
class Attempt:
    """What an attacker sends in place of the last form, and how it is answered."""

    send: Callable[[World, Action, Fields], Result]
    status: int
    code: str = ""
    is_recorded: bool = True


def _with(**changes: str) -> Callable[[World, Action, Fields], Result]:
    return lambda world, change, fields: world.submit(change, {**fields, **changes})


def _without(name: str) -> Callable[[World, Action, Fields], Result]:
    return lambda world, change, fields: world.submit(
        change, {each: text for each, text in fields.items() if each != name}
    )


def _with_token(**claims: object) -> Callable[[World, Action, Fields], Result]:
    return lambda world, change, fields: world.submit(
        change, {**fields, "token": world.token(change, **claims)}
    )


def _without_session(world: World, change: Action, fields: Fields) -> Result:
    stranger = Browser(world.client)
    return stranger.submit(f"/console/changes/{change.name}/make", fields)


def _with_another_session(world: World, change: Action, fields: Fields) -> Result:
    """Mallory's session, with the form and the token of alice."""
    mallory = Browser(world.client)
    mallory.log_in(sub="mallory", now=world.clock())
    return mallory.submit(f"/console/changes/{change.name}/make", fields)


def _with_his_own_form(world: World, change: Action, fields: Fields) -> Result:
    """Mallory's session and form, with a token of alice."""
    mallory = Browser(world.client)
    mallory.log_in(sub="mallory", now=world.clock())
    return mallory.submit(
        f"/console/changes/{change.name}/make", {**fields, "form": mallory.form_token()}
    )


def _from_another_site(world: World, change: Action, fields: Fields) -> Result:
    return world.browser.submit(
        f"/console/changes/{change.name}/make",
        fields,
        **{"Sec-Fetch-Site": "cross-site"},
    )


def _with_a_used_token(world: World, change: Action, fields: Fields) -> Result:
    used = world.token(change, scope=f"console:read {change.scope}")
    assert Browser(world.client).submit("/console/login", {"token": used})
    return world.submit(change, {**fields, "token": used})


def _with_a_link(world: World, change: Action, fields: Fields) -> Result:
    return world.browser.get(f"/console/changes/{change.name}/make")


ATTEMPTS: Mapping[str, Attempt] = {
    "no session": Attempt(_without_session, 303, is_recorded=False),
    "another session": Attempt(_with_another_session, 403, "forbidden"),
    "another subject": Attempt(_with_his_own_form, 403, "forbidden"),
    "another site": Attempt(_from_another_site, 403, "forbidden"),
    "no form token": Attempt(_without("form"), 400, is_recorded=False),
    "a wrong form token": Attempt(_with(form="x"), 403, "forbidden"),
    "an unknown field": Attempt(_with(more="x"), 400, is_recorded=False),
    "no confirmation": Attempt(_without("confirmed"), 400, is_recorded=False),
    "another confirmation": Attempt(_with(confirmed="0" * 64), 409, is_recorded=False),
    "no token": Attempt(_with(token=""), 401, "unauthenticated"),
    "no JWT": Attempt(_with(token="a.b.c"), 401, "unauthenticated"),
    "a used token": Attempt(_with_a_used_token, 401, "unauthenticated"),
    "an old token": Attempt(
        _with_token(exp=0, iat=-100, nbf=-100), 401, "unauthenticated"
    ),
    "the role of tenants": Attempt(_with_token(roles=["merchant"]), 403, "forbidden"),
    "no role": Attempt(_with_token(roles=[]), 403, "forbidden"),
    "no scope": Attempt(_with_token(scope=...), 403, "forbidden"),
    "the scope of reading": Attempt(
        _with_token(scope="console:read"), 403, "forbidden"
    ),
    "another scope": Attempt(_with_token(scope="metrics:read"), 403, "forbidden"),
    "a link": Attempt(_with_a_link, 405, is_recorded=False),
}


@pytest.mark.parametrize("change", FORMS, ids=lambda each: each.name)
def test_only_the_right_request_changes_something(world: World, change: Action) -> None:
    """
    After all attempts, and in a new session, the same form makes the change, once.

    The form of an expired session is of no use, also in a session that began later.
    """
    case, values = prepared(world, change)
    expired = world.confirm(change, values)
    before, known = case.state(world), len(world.records())
    world.clock.advance(SESSION_LIFETIME.total_seconds())
    late = world.submit(change, {**expired, "token": world.token(change)})
    world.browser.log_in(now=world.clock())
    later = world.submit(change, {**expired, "token": world.token(change)})
    assert (late.status_code, late.headers["location"]) == (303, "/console/login")
    assert later.status_code == 403
    assert case.state(world) == before

    fields = {**world.confirm(change, values), "token": world.token(change)}
    for name, attempt in ATTEMPTS.items():
        refused = world.refusals()
        answer = attempt.send(world, change, fields)
        assert answer.status_code == attempt.status, name
        assert attempt.code in answer.text, name
        assert case.state(world) == before, name
        assert world.refusals() - refused == attempt.is_recorded, name
    assert len(world.records()) == known

    assert world.submit(change, fields).status_code == 200
    made = case.state(world)
    again = world.submit(change, fields)
    assert again.status_code in {401, 404, 409}
    assert case.state(world) == made


def test_forms_and_confirmations_need_the_session_too(world: World) -> None:
    stranger = Browser(world.client)
    for change in FORMS:
        path = f"/console/changes/{change.name}"
        fields = {"form": "x", **{each.name: "x" for each in change.form}}

        assert stranger.get(path).status_code == 303
        assert stranger.submit(f"{path}/confirm", fields).status_code == 303
        assert world.browser.submit(f"{path}/confirm", fields).status_code == 403
        assert world.browser.submit(path, fields).status_code == 405


def test_a_repeated_post_says_what_to_do(world: World) -> None:
    """The answer to the second one is that the token was used."""
    change = next(each for each in FORMS if each.name == "stop")
    fields = world.confirm(
        change, {"network": "*", "asset": "*", "reason": "odd refunds"}
    )
    fields = {**fields, "token": world.token(change)}
    first, second = world.submit(change, fields), world.submit(change, fields)

    assert (first.status_code, second.status_code) == (200, 401)
    assert "one that was used before is refused" in second.text
    assert "Log in with another token" not in second.text
    assert world.browser.get("/console/keys").status_code == 200


def test_a_token_makes_one_change(world: World) -> None:
    """Not even another one, and not one in the API."""
    stop = next(each for each in FORMS if each.name == "stop")
    used = new_token(scope="signing:stop")
    fields = world.confirm(
        stop, {"network": "local", "asset": "*", "reason": "odd refunds"}
    )
    assert world.submit(stop, {**fields, "token": used}).status_code == 200
    fields = world.confirm(
        stop, {"network": "*", "asset": "*", "reason": "odd refunds"}
    )
    again = world.submit(stop, {**fields, "token": used})
    api = world.client.simulate_post(
        "/v1/admin/stop",
        json={"reason": "odd refunds"},
        headers={"Authorization": f"Bearer {used}"},
    )

    assert (again.status_code, api.status_code) == (401, 401)
    assert len(world.container.holds.stops()) == 1
