"""Reads pydantic models from environment variables, which their aliases name."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from signer.errors import ConfigurationError, Refusal


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
