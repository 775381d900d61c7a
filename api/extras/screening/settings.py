"""The variables of screening."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class ScreeningSettings(BaseModel):
    """Which service screens recipients, and for how long a permission counts."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    url: SecretStr | None = Field(None, alias="SCREENING_URL")
    secret_file: Path | None = Field(None, alias="SCREENING_SECRET_FILE")
    kept_seconds: int = Field(3600, ge=0, le=604_800, alias="SCREENING_KEPT_SECONDS")
