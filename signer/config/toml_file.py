"""Reads a configuration file in TOML into a strict model, and reports its errors."""

import tomllib
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
