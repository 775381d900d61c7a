"""
The route of an action of administrators, made from its declaration.

So are its operation in the OpenAPI document, and the schema of its body.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import falcon
from falcon import Request, Response

from api.actions.action import ADMINISTRATORS, Action, Field, FieldKind, Values
from api.actions.catalogue import ACTIONS
from api.auth.authorization import Permission
from api.container import Container
from api.extension import load
from api.http import query
from api.http.body import read_object, read_optional_object
from api.http.middleware import Resource
from api.http.openapi import problem_sets
from api.http.openapi.elements import (
    Element,
    answer,
    body,
    closed,
    flag,
    operation,
    parameter,
    record,
    schema,
    text,
)
from api.request_context import actor
from api.views.document import (
    ADDRESS_PATTERN,
    EVENT_ID_PATTERN,
    REFUND_ID_PATTERN,
    schema_of,
)
from signer.errors import InvalidInputError


ADMINISTRATION = Permission(ADMINISTRATORS, None, administrative=True)
"""Of administrators, with the scope of the route."""

_NAME = re.compile("[!-~]+")

_SEGMENT = r"^(?!\.{1,2}$)[A-Za-z0-9._~-]{1,128}$"
"""A segment of a path that no client encodes, and no proxy reads differently."""

_KEYWORDS: dict[FieldKind, Element] = {
    FieldKind.NAME: {"pattern": "^[!-~]{1,128}$"},
    FieldKind.ADDRESS: {"pattern": ADDRESS_PATTERN, "format": "address"},
    FieldKind.DIGEST: {"pattern": "^[0-9a-f]{16,64}$"},
    FieldKind.EVENT: {"pattern": EVENT_ID_PATTERN},
    FieldKind.REFUND: {"pattern": REFUND_ID_PATTERN},
}


class ActionRoute(Resource):
    """Takes an action for an administrator, with the reason in the body."""

    required_role = ADMINISTRATORS

    def __init__(self, action: Action, container: Container) -> None:
        self._action = action
        self._container = container

    def permission(self, method: str) -> Permission:  # type: ignore[override]
        """Return what a token must grant: the scope of the action."""
        return replace(ADMINISTRATION, scope=self._action.scope)

    def on_post(self, req: Request, resp: Response, **path: str) -> None:
        """Take the action, or answer what it would do."""
        action = self._action
        query.parameters(req)
        values = {**path, **_read_body(action, req)}
        act = action.make
        if values.pop("dry_run", None) is True:
            act = action.rehearse
        try:
            answer = act(self._container, values, actor(req, values["reason"] or ""))
        except InvalidInputError as e:
            names = {each.name: each.json_name for each in action.in_body}
            field = e.field and names.get(e.field, e.field)
            raise InvalidInputError(str(e), field=field) from None

        if answer.is_pending:
            resp.status = falcon.HTTP_ACCEPTED
        document = answer.document
        if isinstance(document, list):
            document = {action.collection: document}
        resp.media = document


def _read_body(action: Action, req: Request) -> Values:
    """Return the values of the fields in the body of *req*; None for absent ones."""
    fields = {each.json_name: each for each in action.in_body}
    needs_body = any(each.is_required for each in fields.values())
    body = read_object(req) if needs_body else read_optional_object(req)
    for name, value in body.items():
        if name not in fields:
            # Do not repeat the name: a misplaced key id may be in it.
            raise InvalidInputError(
                f"has an unknown field; this request takes {', '.join(fields)}",
                field="body",
            )
        _check(fields[name], name, value)
    for name, field in fields.items():
        if field.is_required and name not in body:
            raise InvalidInputError("is required", field=name)
    return {field.name: body.get(name) for name, field in fields.items()}


def _check(field: Field, name: str, value: Any) -> None:
    kind, words = (bool, "boolean") if field.kind is FieldKind.FLAG else (str, "string")
    if type(value) is not kind:
        raise InvalidInputError(f"must be a {words}", field=name)
    if isinstance(value, str):
        field.check(value, name)
        if field.kind is FieldKind.NAME and not _NAME.fullmatch(value):
            raise InvalidInputError("must be visible ASCII characters", field=name)


def action_paths() -> dict[str, Element]:
    """Return the operations of all actions, by path."""
    return {each.path: {"post": _operation(each)} for each in ACTIONS}


def answer_schemas() -> dict[str, Element]:
    """Return the schemas of the answers of all actions, by name."""
    return {each.schema: schema_of(load(each.document)) for each in ACTIONS}


def body_schemas() -> dict[str, Element]:
    """Return the schemas of the bodies of all actions, by name."""
    by_name: dict[str, list[Action]] = defaultdict(list)
    for action in ACTIONS:
        by_name[_body_name(action)].append(action)
    return {name: _body_schema(actions) for name, actions in by_name.items()}


def _body_schema(actions: Sequence[Action]) -> Element:
    """Return the schema of *actions*, which have the same fields."""
    first = actions[0]
    about = ", ".join(f"`{each.operation}`" for each in actions)
    optional = [each.json_name for each in first.in_body if not each.is_required]
    members = {each.json_name: _schema(each) for each in first.in_body}
    content = closed(record(f"The body of {about}.", optional, **members))
    return content | dict(first.rules or {})


def _operation(action: Action) -> Element:
    fields = action.in_body
    example = {
        each.json_name: each.example for each in fields if each.example is not None
    }
    is_required = any(each.is_required for each in fields)
    asks_device = problem_sets.DEVICE if action.rehearsal else frozenset[str]()
    approval = problem_sets.APPROVAL if action.proposed else frozenset[str]()
    parameters = [
        parameter(each.name, "path", _schema(each, _SEGMENT), required=True)
        for each in action.in_path
    ]
    return operation(
        action.operation,
        action.title,
        action.about,
        tag="Administration",
        **({"parameters": parameters} if parameters else {}),
        requestBody=body(_body_name(action), example, required=is_required),
        answers={
            status: answer(words, schema(action.schema))
            for status, words in action.answers.items()
        },
        problems=problem_sets.ADMINISTRATOR
        | problem_sets.BODY
        | action.problems
        | approval
        | asks_device,
        security=[{"bearerToken": [action.scope]}],
        **{"x-roles": sorted(ADMINISTRATORS)},
    )


def _body_name(action: Action) -> str:
    if action.body:
        return action.body
    return "Reason" if action.reason.is_required else "OptionalReason"


def _schema(field: Field, name_pattern: str = "") -> Element:
    if field.kind is FieldKind.FLAG:
        return flag(field.about)
    keywords = dict(_KEYWORDS.get(field.kind, {}))
    if field.kind is FieldKind.NAME and name_pattern:
        keywords = {"pattern": name_pattern}
    if field.kind in {FieldKind.KEY, FieldKind.REASON, FieldKind.SIGNATURE}:
        keywords = {"maxLength": field.max_length}
        if field.is_required or field.kind is not FieldKind.REASON:
            keywords["minLength"] = 1
    return text(field.about, **keywords)
