"""Variables become the fields of a model, and errors do not contain values."""

import pytest
from pydantic import BaseModel, Field, model_validator

from signer.config.models import read_model
from signer.config.settings import Settings
from signer.errors import ConfigurationError
from signer.ports.backend_plugin import BackendConfig


class _Options(BaseModel):
    size: int = Field(1, alias="OPTIONS_SIZE")
    limit: int = Field(9, alias="OPTIONS_LIMIT")

    @model_validator(mode="after")
    def _fits(self) -> "_Options":
        if self.size > self.limit:
            raise ValueError("OPTIONS_SIZE is above OPTIONS_LIMIT")
        return self


def test_variables_are_stripped_and_others_ignored() -> None:
    """Also those of a plugin that adds a backend."""
    environ = {"OPTIONS_SIZE": " 2 ", "OPTIONS_LIMIT": " ", "OTHER": "x"}
    options = BackendConfig(Settings.from_env({}), environ).read(_Options)

    assert (options.size, options.limit) == (2, 9)


@pytest.mark.parametrize(
    ("size", "problem"),
    [
        ("secret", "OPTIONS_SIZE: Input should be a valid integer"),
        ("10", "the settings: OPTIONS_SIZE is above OPTIONS_LIMIT"),
    ],
)
def test_an_invalid_variable_is_named_without_its_value(
    size: str, problem: str
) -> None:
    """A validator of the whole model names no variable."""
    with pytest.raises(ConfigurationError) as caught:
        read_model(_Options, {"OPTIONS_SIZE": size})

    (refusal,) = caught.value.refusals
    assert refusal.code == "settings-invalid"
    assert refusal.message.startswith(problem)
    assert "secret" not in refusal.message
