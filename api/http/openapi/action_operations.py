"""The operations of actions and the schemas of their bodies, from the declarations."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from api.actions.action import ADMINISTRATORS, Action, Field, FieldKind
from api.actions.catalogue import ACTIONS
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
from api.views.document import (
    ADDRESS_PATTERN,
    EVENT_ID_PATTERN,
    REFUND_ID_PATTERN,
)


_SEGMENT = r"^(?!\.{1,2}$)[A-Za-z0-9._~-]{1,128}$"
"""A segment of a path that no client encodes, and no proxy reads differently."""

_KEYWORDS: dict[FieldKind, Element] = {
    FieldKind.NAME: {"pattern": "^[!-~]{1,128}$"},
    FieldKind.ADDRESS: {"pattern": ADDRESS_PATTERN, "format": "address"},
    FieldKind.DIGEST: {"pattern": "^[0-9a-f]{16,64}$"},
    FieldKind.EVENT: {"pattern": EVENT_ID_PATTERN},
    FieldKind.REFUND: {"pattern": REFUND_ID_PATTERN},
}


def administration(
    operation_id: str,
    summary: str,
    description: str,
    /,
    *,
    scope: str,
    answers: dict[int, Element],
    problems: Iterable[str] = (),
    **members: Any,
) -> Element:
    """Return an operation of administrators."""
    has_body = "requestBody" in members
    return operation(
        operation_id,
        summary,
        description,
        tag="Administration",
        answers=answers,
        problems=problem_sets.ADMINISTRATOR
        | (problem_sets.BODY if has_body else set())
        | set(problems),
        security=[{"bearerToken": [scope]}],
        **{"x-roles": sorted(ADMINISTRATORS)},
        **members,
    )


def action_paths() -> dict[str, Element]:
    """Return the operations of all actions, by path."""
    return {each.path: {"post": _operation(each)} for each in ACTIONS}


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
    example = {
        each.json_name: each.example
        for each in action.in_body
        if each.example is not None
    }
    is_required = any(each.is_required for each in action.in_body)
    asks_device = problem_sets.DEVICE if action.rehearsal else frozenset[str]()
    approval = problem_sets.APPROVAL if action.proposed else frozenset[str]()
    parameters = [
        parameter(each.name, "path", _schema(each, _SEGMENT), required=True)
        for each in action.in_path
    ]
    return administration(
        action.operation,
        action.title,
        action.about,
        scope=action.scope,
        **({"parameters": parameters} if parameters else {}),
        requestBody=body(_body_name(action), example, required=is_required),
        answers={
            status: answer(words, schema(action.schema))
            for status, words in action.answers.items()
        },
        problems=action.problems | approval | asks_device,
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
    if field.kind in {FieldKind.KEY, FieldKind.REASON}:
        keywords = {"maxLength": field.max_length}
        if field.is_required:
            keywords["minLength"] = 1
    return text(field.about, **keywords)
