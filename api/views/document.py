"""
The documents that go over the wire, each declared once as a typed model.

The JSON, the schema of OpenAPI, the types of the clients and the reader of a request
follow from the model: its docstring and its fields are the descriptions.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from inspect import cleandoc
from types import ModuleType
from typing import Annotated, Any, Self

from pydantic import (
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from api.views.values import timestamp


Schema = dict[str, Any]

TIMESTAMP_PATTERN = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$"
)
REFUND_ID_PATTERN = "^rf_[0-9a-f]{32}$"
EVENT_ID_PATTERN = "^evt_[0-9a-f]{32}$"
ADDRESS_PATTERN = "^0x[0-9a-fA-F]{40}$"
AMOUNT_PATTERN = r"^[0-9]{1,78}(\.[0-9]{1,36})?$"
HASH_PATTERN = "^0x[0-9a-f]{64}$"


class Document(BaseModel):
    """
    A JSON object, whose members are the attributes of what it shows.

    A class with an underscore has no name in OpenAPI: it is a part of another one.
    Constraints of an answer only describe it.  An answer shows what there is, also a
    row that another program changed.
    """

    model_config = ConfigDict(from_attributes=True)

    @classmethod
    def derive(cls, source: Any) -> Mapping[str, Any]:
        """Return the members that are no attributes of *source*, by attribute."""
        return {}

    @classmethod
    def of(cls, source: object, **given: Any) -> Self:
        """Return the document of *source*; *given* are attributes that it lacks."""
        return cls.model_validate(Overlaid(source, given) if given else source)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, source: Any) -> Any:
        if isinstance(source, cls | dict):
            return source
        derived = cls.derive(source)
        return Overlaid(source, derived) if derived else source

    def dump(self) -> dict[str, Any]:
        """Return the JSON object, in the order of the members."""
        return self.model_dump(mode="json", exclude_unset=True)


class Overlaid:
    """An object with some attributes in front of those of another one."""

    def __init__(self, source: object, given: Mapping[str, Any]) -> None:
        self.__dict__.update(given)
        self.__dict__["_source"] = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def says(
    description: str | None = None,
    source: str | None = None,
    *,
    optional: bool = False,
) -> Any:
    """
    Return a member with its *description*; *source* is the path of its attribute.

    A part without a name needs no description: it has that of its class.  An *optional*
    member may be left out.
    """
    about = None if description is None else cleandoc(description)
    alias = None if source is None else AliasPath(*source.split("."))
    absent: dict[str, Any] = {"default_factory": lambda: None} if optional else {}
    return Field(description=about, validation_alias=alias, **absent)


def text(**keywords: Any) -> Any:
    """Return the description of a text, for ``Annotated``."""
    return WithJsonSchema({"type": "string", **keywords})


@dataclass(frozen=True)
class OneOf:
    """The description of a text that is one of some values, for ``Annotated``."""

    values: Callable[[], Iterable[str]]

    def __get_pydantic_json_schema__(
        self, schema: Any, handler: GetJsonSchemaHandler
    ) -> Schema:
        return {**handler(schema), "enum": [str(value) for value in self.values()]}


def format_time(moment: datetime | None) -> str:
    """Return *moment* in UTC, to the second; a dash for None."""
    if moment is None:
        return "-"
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


Timestamp = Annotated[
    datetime,
    PlainSerializer(timestamp),
    text(format="date-time", pattern=TIMESTAMP_PATTERN),
]
Address = Annotated[str, text(pattern=ADDRESS_PATTERN, format="eip55-address")]
Hash = Annotated[str, text(pattern=HASH_PATTERN)]
RefundId = Annotated[str, text(pattern=REFUND_ID_PATTERN)]
EventId = Annotated[str, text(pattern=EVENT_ID_PATTERN)]
Amount = Annotated[str, text(pattern=AMOUNT_PATTERN)]
"""Of whole tokens or coins."""
Wei = Annotated[int, PlainSerializer(str), text(pattern="^[0-9]{1,78}$")]
Count = Annotated[int, WithJsonSchema({"type": "integer", "minimum": 0})]
Name = Annotated[str, text(minLength=1, maxLength=128, pattern="^[!-~]+$")]


def schemas_of(*modules: ModuleType) -> dict[str, Schema]:
    """Return the schemas of the documents that *modules* define, by name."""
    return {
        _component(each.__name__): schema_of(each)
        for module in modules
        for each in vars(module).values()
        if isinstance(each, type)
        and issubclass(each, BaseModel)
        and each.__module__ == module.__name__
        and each.model_fields
        and not each.__name__.startswith("_")
    }


def schema_of(model: type[BaseModel]) -> Schema:
    """Return the schema of *model*, as OpenAPI has it."""
    found = model.model_json_schema(mode="serialization")
    return _convert(found, found.pop("$defs", {}))


def _component(name: str) -> str:
    return name.removesuffix("Document").removesuffix("Body")


def _convert(schema: Schema, parts: Mapping[str, Schema]) -> Schema:
    """
    Return *schema* without titles and defaults, and with its unnamed *parts* in place.

    A member that may be null has two types.
    """
    schema = {k: v for k, v in schema.items() if k not in {"title", "default"}}
    if "$ref" in schema:
        name = schema.pop("$ref").rpartition("/")[2]
        if name.startswith("_") or "enum" in parts.get(name, {}):
            return _convert({**parts[name], **schema}, parts)
        return {"$ref": f"#/components/schemas/{_component(name)}"}
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    if "properties" in schema:
        members = schema["properties"].items()
        schema["properties"] = {name: _convert(each, parts) for name, each in members}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = _convert(schema[key], parts)
    if "anyOf" in schema:
        choices = [_convert(each, parts) for each in schema.pop("anyOf")]
        return _choose(choices, schema)
    return schema


def _choose(choices: list[Schema], rest: Schema) -> Schema:
    null = {"type": "null"}
    if null not in choices:
        return {"oneOf": choices, **rest}
    (only,) = (each for each in choices if each != null)
    if "$ref" in only:
        return {"oneOf": [only, null]}
    changes: Schema = {"type": [only["type"], "null"]}
    if "enum" in only:
        changes["enum"] = [*only["enum"], None]
    return {**only, **changes, **rest}
