"""The variables of top-ups."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class TreasurySettings(BaseModel):
    """Where the treasury is, and the file of the token for it."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    url: SecretStr | None = Field(None, alias="TREASURY_URL")
    token_file: Path | None = Field(None, alias="TREASURY_TOKEN_FILE")
