"""The route of an action of administrators, made from its declaration."""

import re
from typing import Any

import falcon
from falcon import Request, Response

from api.actions.action import ADMINISTRATORS, Action, Field, FieldKind, Values
from api.auth.authorization import Permission
from api.container import Container
from api.http import query
from api.http.body import read_object, read_optional_object
from api.http.middleware import Resource
from api.request_context import actor
from signer.errors import InvalidInputError


_NAME = re.compile("[!-~]+")


class ActionRoute(Resource):
    """Takes an action for an administrator, with the reason in the body."""

    required_role = ADMINISTRATORS

    def __init__(self, action: Action, container: Container) -> None:
        self._action = action
        self._container = container

    def permission(self, method: str) -> Permission:  # type: ignore[override]
        """Return what a token must grant: the scope of the action."""
        return Permission(ADMINISTRATORS, self._action.scope, administrative=True)

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
