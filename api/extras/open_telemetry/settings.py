"""The variables of traces."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from signer.config.settings import require_page_url


def _secret_url(value: SecretStr) -> SecretStr:
    require_page_url(value.get_secret_value())
    return value


class TraceSettings(BaseModel):
    """Where traces are sent, which may have a token, and the share of refunds."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    url: Annotated[SecretStr, AfterValidator(_secret_url)] | None = Field(
        None, alias="TRACES_URL"
    )
    share: float = Field(1.0, ge=0, le=1, alias="TRACES_SHARE")
