"""The variables of shipping."""

from pydantic import BaseModel, ConfigDict, Field


class ShippingSettings(BaseModel):
    """Where the log is shipped to, and how S3 is reached."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    to: str | None = Field(None, alias="AUDIT_SHIP_TO")
    endpoint: str | None = Field(None, alias="AWS_ENDPOINT_URL_S3")
    region: str | None = Field(None, alias="AWS_REGION")
