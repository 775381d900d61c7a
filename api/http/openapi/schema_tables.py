"""Renders JSON Schemas as HTML tables."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from api.http.openapi.markdown import paragraphs


_MOST_VALUES = 12
"""How many values of an enumeration are shown."""

_OPTIONAL = ' <span class="soft">optional</span>'


def schema_link(schema: Mapping[str, Any]) -> str:
    """Return a link to the schema that *schema* refers to, or its type."""
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    return (
        f'<a href="#schema-{escape(name)}">{escape(name)}</a>'
        if name
        else (render_type(schema))
    )


def render_members(schema: Mapping[str, Any]) -> str:
    """Return a table of the members of an object."""
    required = schema.get("required", ())
    rows = [
        f"<tr><td><code>{escape(name)}</code>"
        f"{'' if name in required else _OPTIONAL}</td>"
        f"<td>{render_type(each)}</td><td>{_about(each)}</td></tr>"
        for name, each in schema.get("properties", {}).items()
    ]
    head = "<tr><th>Member</th><th>Type</th><th>Meaning</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>" if rows else ""


def render_type(schema: Mapping[str, Any]) -> str:
    """Return the type of *schema* in words."""
    if "$ref" in schema:
        return schema_link(schema)
    if "oneOf" in schema:
        return " or ".join(map(render_type, schema["oneOf"]))
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    named = " or ".join(map(escape, kinds))
    items = schema.get("items") or schema.get("additionalProperties")
    if isinstance(items, Mapping) and ("$ref" in items or "oneOf" in items):
        return f"{named} of {render_type(items)}"
    return named


def constraints(schema: Mapping[str, Any]) -> str:
    """Return what limits the values of *schema*, as paragraphs."""
    return "".join(f'<p class="soft">{each}</p>' for each in _constraints(schema))


def _about(schema: Mapping[str, Any]) -> str:
    parts = [paragraphs(schema.get("description", ""))]
    parts.append(constraints(schema))
    nested = [schema, schema.get("items"), schema.get("additionalProperties")]
    nested += schema.get("oneOf", [])
    parts += [render_members(each) for each in nested if isinstance(each, Mapping)]
    return "".join(parts)


def _constraints(schema: Mapping[str, Any]) -> Iterator[str]:
    values = [value for value in schema.get("enum", ()) if value is not None]
    if 0 < len(values) <= _MOST_VALUES:
        yield "One of " + ", ".join(f"<code>{escape(v)}</code>" for v in values)
    items = schema.get("items")
    if isinstance(items, Mapping):
        yield from (f"Each: {words}" for words in _constraints(items))
    for name, words in (
        ("minLength", "at least {} characters"),
        ("maxLength", "at most {} characters"),
        ("minimum", "at least {}"),
        ("maximum", "at most {}"),
        ("minItems", "at least {} items"),
        ("maxItems", "at most {} items"),
        ("default", "default {}"),
        ("format", "format <code>{}</code>"),
    ):
        if name in schema:
            yield words.format(escape(str(schema[name])))
    if "pattern" in schema and schema.get("format") != "date-time":
        yield f"pattern <code>{escape(schema['pattern'])}</code>"
