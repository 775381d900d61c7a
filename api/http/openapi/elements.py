"""The elements of an OpenAPI document: schemas, parameters and operations."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import cleandoc
from types import ModuleType
from typing import Any


Element = dict[str, Any]
"""A part of the document: a JSON object."""


@dataclass(frozen=True, slots=True)
class Operations:
    """
    The operations of an extra, under one tag.

    *documents* is the module whose models are schemas, beside *schemas*.
    """

    tag: str
    about: str
    paths: Mapping[str, Element]
    schemas: Mapping[str, Element]
    documents: ModuleType


def text(description: str, **keywords: Any) -> Element:
    """Return the schema of a string."""
    return {"type": "string", "description": cleandoc(description), **keywords}


def integer(description: str, **keywords: Any) -> Element:
    """Return the schema of an integer."""
    return {"type": "integer", "description": cleandoc(description), **keywords}


def flag(description: str) -> Element:
    """Return the schema of a boolean."""
    return {"type": "boolean", "description": cleandoc(description)}


def one_of(values: Iterable[str], description: str) -> Element:
    """Return the schema of a string that is one of *values*."""
    return text(description, enum=[str(value) for value in values])


def record(
    description: str, optional: Sequence[str] = (), /, **members: Element
) -> Element:
    """Return the schema of an object whose members are required, except *optional*."""
    return {
        "type": "object",
        "description": cleandoc(description),
        "required": [name for name in members if name not in optional],
        "properties": members,
    }


def closed(schema: Element) -> Element:
    """Return the schema of an object of a request: other members are refused."""
    return schema | {"additionalProperties": False}


def schema(name: str) -> Element:
    """Return a reference to the schema *name*."""
    return {"$ref": f"#/components/schemas/{name}"}


def parameter(name: str, place: str, content: Element, *, required: bool) -> Element:
    """Return a parameter of a request; its description is that of *content*."""
    about = {key: value for key, value in content.items() if key == "description"}
    rest = {key: value for key, value in content.items() if key != "description"}
    return {"name": name, "in": place, "required": required, **about, "schema": rest}


def body(
    name: str,
    example: Mapping[str, Any],
    *,
    required: bool = True,
    others: Mapping[str, Mapping[str, Any]] | None = None,
) -> Element:
    """Return a body of JSON with the schema *name*; *others* are more examples."""
    media: Element = {"schema": schema(name), "example": example}
    if others:
        all_ = {"Usual": example, **others}
        media = {
            "schema": schema(name),
            "examples": {words: {"value": each} for words, each in all_.items()},
        }
    return {"required": required, "content": {"application/json": media}}


def answer(
    description: str,
    content: Element | None,
    example: Any = None,
    *,
    media_type: str = "application/json",
    headers: Sequence[str] = (),
) -> Element:
    """Return a successful answer; *headers* are names of components."""
    media: Element = {} if content is None else {"schema": content}
    if example is not None:
        media["example"] = example
    return {
        "description": cleandoc(description),
        "headers": {
            name: {"$ref": f"#/components/headers/{name}"}
            for name in ("X-Request-Id", *headers)
        },
        **({} if content is None else {"content": {media_type: media}}),
    }


def operation(
    operation_id: str,
    summary: str,
    description: str,
    /,
    *,
    tag: str,
    answers: Mapping[int, Element],
    problems: Iterable[str],
    **members: Any,
) -> Element:
    """Return an operation; *problems* are the codes of its errors."""
    return {
        "operationId": operation_id,
        "tags": [tag],
        "summary": summary,
        "description": cleandoc(description),
        **members,
        "responses": {str(status): each for status, each in answers.items()},
        "x-problems": sorted(problems),
    }
