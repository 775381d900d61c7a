"""The variables of the Google Cloud KMS backend."""

import re
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from backends.google_cloud_kms.key_names import (
    AllowedVersions,
    default_patterns,
    parse_patterns,
)


ENDPOINT = "https://cloudkms.googleapis.com"


def _endpoint(value: str) -> str:
    """Require a URL to which an access token may be sent."""
    parts = urlsplit(value)
    host = parts.hostname or ""
    is_plain = re.fullmatch(r"https?://[\w.:\[\]-]+/?", value) is not None
    if not is_plain or not (parts.scheme == "https" or _is_loopback(host)):
        raise ValueError(
            "must be https://HOST, or http:// with a loopback address: access tokens"
            " are sent there"
        )
    return value.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class GoogleCloudKMSOptions(BaseModel):
    """The backend's variables; ``docs/reference/configuration.md`` explains each."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    key: str | None = Field(None, alias="GOOGLE_CLOUD_KMS_KEY", repr=False)
    allowed_keys: Annotated[tuple[str, ...], BeforeValidator(parse_patterns)] = Field(
        (), alias="GOOGLE_CLOUD_KMS_ALLOWED_KEYS", repr=False
    )
    max_attempts: int = Field(3, ge=1, le=3, alias="GOOGLE_CLOUD_KMS_MAX_ATTEMPTS")
    timeout_ms: int = Field(
        9_000, ge=500, le=120_000, alias="GOOGLE_CLOUD_KMS_TIMEOUT_MS"
    )
    max_concurrency: int = Field(
        64, ge=1, le=256, alias="GOOGLE_CLOUD_KMS_MAX_CONCURRENCY"
    )
    # Since 2026-02-16, Google refuses hardware keys above the quota only if it is
    # overloaded (https://cloud.google.com/kms/quotas).
    signatures_per_second: int = Field(
        0, ge=0, le=100_000, alias="GOOGLE_CLOUD_KMS_SIGNATURES_PER_SECOND"
    )
    endpoint: Annotated[str, AfterValidator(_endpoint)] | None = Field(
        None, alias="GOOGLE_CLOUD_KMS_ENDPOINT", repr=False
    )

    @property
    def allowed(self) -> AllowedVersions:
        """The key versions that this service may use."""
        return AllowedVersions(self.allowed_keys or default_patterns(self.key or ""))
