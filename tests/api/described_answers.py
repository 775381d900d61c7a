"""Compares answers, and what was accepted, with the OpenAPI document (H21)."""

import json
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from functools import cache
from typing import TYPE_CHECKING, Any

from eth_utils.address import is_checksum_address
from falcon import App
from falcon.testing import Result

from api.extras.console import is_console
from api.http.openapi import examples
from api.http.openapi.document import complete_document
from api.http.problems import code_statuses


if TYPE_CHECKING:
    from jsonschema import Draft202012Validator


PROBLEM = "application/problem+json"

_ONE_MEMBER = examples.BATCH_REQUEST
"""A valid batch, in place of one of which no member was accepted."""

Json = dict[str, Any]


def check_answer(
    app: App[Any, Any], method: str, path: str, sent: object, answer: Result
) -> None:
    """
    Require that the document describes *answer* to the request.

    *sent* is the body: one that was accepted must be what the document asks for.
    """
    route = find_route(app, path)
    if is_console(route):  # Pages for people: the document leaves them out.
        return
    if route is None:
        check_problem(answer, {"not-found", "bad-request", "internal-error"})
        return
    operation = complete_document()["paths"].get(route, {}).get(method.lower())
    if operation is None:
        # The method is not allowed; or the route is one of the test itself.
        is_documented = route in complete_document()["paths"]
        codes = {"method-not-allowed", "bad-request", "internal-error"}
        check_problem(answer, codes if is_documented else code_statuses())
        return
    described = operation["responses"].get(str(answer.status_code))
    assert described is not None, (method, route, answer.status_code, answer.text)
    _check_headers(_resolved(described), answer)
    media_type = answer.headers.get("content-type", "").partition(";")[0]
    if media_type == PROBLEM:
        check_problem(answer, operation["x-problems"])
    elif "content" in described:
        schema = described["content"][media_type]["schema"]
        if media_type == "application/json":
            validate(answer.json, schema)
    else:
        assert answer.content == b""
    body = operation.get("requestBody")
    if answer.status_code < 400 and body and (body["required"] or sent is not None):
        content = body["content"]["application/json"]
        validate(_accepted(sent, answer), content["schema"])


def find_route(app: App[Any, Any], path: str) -> str | None:
    """Return the template of the route that serves *path*, or None."""
    found = app._router.find(path.partition("?")[0])
    return None if found is None else found[3]


def check_problem(answer: Result, codes: Iterable[str]) -> None:
    if answer.content:  # The answer to HEAD has none.
        assert answer.headers["content-type"] == PROBLEM
        validate(answer.json, {"$ref": "#/components/schemas/Problem"})
        assert answer.json["code"] in codes, (answer.json, codes)
        assert answer.json["status"] == answer.status_code


def validate(value: object, schema: Mapping[str, Any]) -> None:
    """Require that *value* is what *schema* describes, without other members."""
    errors = _validator(json.dumps(schema)).iter_errors(value)
    assert [f"{each.json_path}: {each.message}" for each in errors] == []


@cache
def _validator(schema: str) -> "Draft202012Validator":
    # Importing it takes a second in each process that collects tests.
    from jsonschema import Draft202012Validator, FormatChecker  # noqa: PLC0415

    formats = FormatChecker(formats=())
    formats.checks("eip55-address")(_is_address)
    whole = {**_close(json.loads(schema)), "components": _components()}
    return Draft202012Validator(whole, format_checker=formats)


@cache
def _components() -> Json:
    closed: Json = _close(deepcopy(complete_document()["components"]))
    return closed


def _close(part: Any) -> Any:
    """Forbid members that *part*, a schema or several, does not name."""
    if isinstance(part, list):
        return [_close(each) for each in part]
    if not isinstance(part, dict):
        return part
    closed = {name: _close(each) for name, each in part.items()}
    if isinstance(part.get("properties"), dict) and "type" in part:
        closed.setdefault("additionalProperties", False)
    return closed


def _check_headers(described: Json, answer: Result) -> None:
    headers = complete_document()["components"]["headers"]
    for name in described["headers"]:
        value = answer.headers.get(name.lower())
        if value is None:
            assert not headers[name].get("required"), (name, answer.headers)
        elif "pattern" in headers[name]["schema"]:
            assert re.search(headers[name]["schema"]["pattern"], value)


def _accepted(sent: Any, answer: Result) -> object:
    """Return *sent*, a batch without the members that were refused."""
    if isinstance(sent, dict) and "results" in (answer.json or {}):
        results = zip(sent["refunds"], answer.json["results"], strict=True)
        accepted = [each for each, result in results if "refund" in result]
        return sent | {"refunds": accepted} if accepted else _ONE_MEMBER
    return sent


def _resolved(described: Json) -> Json:
    if "$ref" not in described:
        return described
    name = described["$ref"].rpartition("/")[2]
    response: Json = complete_document()["components"]["responses"][name]
    return response


def _is_address(text: object) -> bool:
    return not isinstance(text, str) or is_checksum_address(text)
