"""The variables of the Google Cloud KMS backend."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from signer.addresses import is_loopback_address
from signer.config.allowed_keys import AllowedKeys, split_patterns


_PROJECT = r"projects/[a-z0-9][a-z0-9.:-]{1,99}"
_ID = r"[a-zA-Z0-9_-]{1,63}"
_ANY = r"[a-zA-Z0-9_*-]{1,63}"

_NAME = re.compile(
    rf"({_PROJECT}/locations/{_ID}/keyRings/{_ID}/)"
    rf"cryptoKeys/{_ID}/cryptoKeyVersions/[1-9][0-9]{{0,18}}"
)
_PATTERN = re.compile(
    rf"{_PROJECT}/locations/{_ANY}/keyRings/{_ANY}/cryptoKeys/{_ANY}"
    r"/cryptoKeyVersions/[0-9*]{1,19}"
)

FORMAT = (
    "must be projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY/"
    "cryptoKeyVersions/VERSION"
)


def is_version_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def parse_patterns(value: str) -> tuple[str, ...]:
    """Return the patterns of a comma-separated list; raises ``ValueError``."""
    expected = (
        "must be comma-separated names of key versions; all but the project may have *"
    )
    return split_patterns(value, _PATTERN, expected)


def default_patterns(name: str) -> tuple[str, ...]:
    """Return what is allowed without a list: all versions in the ring of *name*."""
    found = _NAME.fullmatch(name)
    return (f"{found[1]}cryptoKeys/*/cryptoKeyVersions/*",) if found else ()


ENDPOINT = "https://cloudkms.googleapis.com"


def _endpoint(value: str) -> str:
    """Require a URL to which an access token may be sent."""
    parts = urlsplit(value)
    host = parts.hostname or ""
    is_plain = re.fullmatch(r"https?://[\w.:\[\]-]+/?", value) is not None
    if not is_plain or not (parts.scheme == "https" or is_loopback_address(host)):
        raise ValueError(
            "must be https://HOST, or http:// with a loopback address: access tokens"
            " are sent there"
        )
    return value.rstrip("/")


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
    def allowed(self) -> AllowedKeys:
        return AllowedKeys(self.allowed_keys or default_patterns(self.key or ""))
