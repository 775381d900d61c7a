"""Reads pydantic models from TOML files and from environment variables."""

import tomllib
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from signer.errors import ConfigurationError, Refusal


class StrictModel(BaseModel):
    """A table of the file: unknown keys and other types are refused."""

    # Inputs stay out of error messages: a URL often holds a password.
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, hide_input_in_errors=True
    )


class LimitComparison(Enum):
    """
    When a changed value of a field of the files allows more than before.

    A field declares it in its type: ``Annotated[int, MOST]``.
    """

    MOST = auto()
    """A maximum: if it is higher, or absent."""
    LEAST = auto()
    """A minimum: if it is lower, or absent."""
    GRANT = auto()
    """A caller, or a key of a person who approves: if it is added or changed."""
    FIXED = auto()
    """Neither more nor less: if it is another value.  It need not be declared."""
    SIGNER = auto()
    """A key of a tenant that signs: if it is added or changed, or was the last one."""
    NOT_LIMITING = auto()
    """It bounds no payment."""


MOST, LEAST = LimitComparison.MOST, LimitComparison.LEAST
GRANT, SIGNER = LimitComparison.GRANT, LimitComparison.SIGNER
NOT_LIMITING = LimitComparison.NOT_LIMITING

M = TypeVar("M", bound=StrictModel)


def as_tuple(value: object) -> object:
    """Return a list as a tuple: TOML has only lists, and strict mode only tuples."""
    return tuple(value) if isinstance(value, list) else value


def read_toml(path: Path, model: type[M], *, variable: str, code: str) -> M:
    """
    Return the file at *path*, which the environment's *variable* names.

    Raises:
        ConfigurationError: *code*; the file is missing, not TOML, or not a *model*.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        return model.model_validate(document)
    except FileNotFoundError:
        example = variable.removesuffix("_FILE").lower()
        problem = (
            f"the file does not exist; see docker/{example}.example.toml for an example"
        )
    except (OSError, UnicodeDecodeError) as e:
        problem = f"the file cannot be read ({type(e).__name__})"
    except tomllib.TOMLDecodeError as e:
        problem = f"the file is not TOML: {e}"
    except ValidationError as e:
        problem = "; ".join(
            f"{'.'.join(map(str, error['loc']))}: {error['msg']}".removeprefix(": ")
            for error in e.errors(include_input=False, include_url=False)
        )
    # Do not show the path: it may be a secret in the wrong variable.
    raise ConfigurationError(Refusal(code, f"{variable}: {problem}"))


Model = TypeVar("Model", bound=BaseModel)


def read_model(
    model: type[Model], environ: Mapping[str, str], **found: object
) -> Model:
    """
    Return a *model* of the variables in *environ* that are aliases of its fields.

    Spaces around a value are dropped, and an empty variable counts as unset.  *found*
    has values of other fields.  Each field of a variable needs an ``alias``.

    Raises:
        ConfigurationError: ``settings-invalid``, one refusal per invalid variable,
            without the value.
    """
    names = {field.alias for field in model.model_fields.values()}
    values = {
        name: value.strip()
        for name, value in environ.items()
        if name in names and value.strip()
    }
    try:
        return model.model_validate({**values, **found})
    except ValidationError as e:
        refusals = [
            Refusal(
                "settings-invalid",
                f"{_name(error['loc'])}: {error['msg'].removeprefix('Value error, ')}",
            )
            for error in e.errors(include_input=False, include_url=False)
        ]
    raise ConfigurationError(*refusals)


def _name(place: Sequence[int | str]) -> str:
    """Return the variable at *place*; a validator of the whole model names none."""
    return str(place[0]) if place else "the settings"
