"""
The settings from environment variables, read once and then immutable.

A setting is one field: its variable, type, default, bounds and what production demands
of it (``RefusedInProduction``).  Secrets do not appear in ``repr``.
``docs/reference/configuration.md`` and ``.env.example`` list every variable.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
)

from signer.addresses import parse_address
from signer.config.allowed_keys import AllowedKeys, default_patterns, parse_patterns
from signer.config.models import read_model
from signer.errors import InvalidInputError, Refusal
from signer.redact import sanitize


RAW_KEY = "MERCHANT_WALLET_PRIVATE_KEY"

AWS_KMS = "aws-kms"
"""The key backend that ``USE_KMS=true`` selects."""

PKCS11 = "pkcs11"
"""The key backend without any setting."""


class Environment(StrEnum):
    """Where the process runs; an unknown value means production."""

    PRODUCTION = "production"
    DEVELOPMENT = "development"
    TEST = "test"


class Role(StrEnum):
    """What ``hotwallet serve`` serves; a worker serves nothing and ignores it."""

    ALL = "all"
    REFUNDS = "refunds"
    ADMIN = "admin"
    SIGN = "sign"

    @property
    def has_key(self) -> bool:
        return self is not Role.REFUNDS

    @property
    def seals_audit(self) -> bool:
        """Whether the process numbers audit records, and signs checkpoints of them."""
        return self in {Role.ALL, Role.ADMIN}


CREDENTIALS = (
    RAW_KEY,
    "AUDIT_SIGNING_KEY_FILE",
    "AWS_ACCESS_KEY_ID",
    "AWS_CONFIG_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CREDENTIAL_FILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_LOGIN_CACHE_DIRECTORY",
    "AWS_PROFILE",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SECURITY_TOKEN",
    "AWS_SESSION_TOKEN",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "BOTO_CONFIG",
    "CLOUDSDK_CONFIG",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "PKCS11_PIN",
    "PKCS11_PIN_FILE",
    "TREASURY_TOKEN_FILE",
    "WEBHOOK_SIGNING_KEY_FILE",
)
"""The variables that let a process sign payments, the audit log or events, or ask a
treasury for money.

A file that is the null device counts as unset: it keeps botocore from other files."""


def _environment(value: str) -> str:
    name = value.lower()
    return name if name in set(Environment) else Environment.PRODUCTION


def _boolean(value: object) -> object:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower(), value)
    return value


def _networks(value: str) -> tuple[str, ...]:
    """Read addresses and networks, separated by commas (RFC 4632)."""
    try:
        return tuple(str(ip_network(part.strip())) for part in value.split(","))
    except ValueError:  # Its message quotes the value, which may be a secret.
        raise ValueError("must be comma-separated addresses and networks") from None


# As gunicorn reads it.  A port is required; gunicorn's default would be 8000.
_LISTEN_ADDRESS = re.compile(
    r"unix:.+|fd://[0-9]+"
    r"|(?:tcp://)?(?:\[[^\[\]]+\]|[^\[\]:/,\s]*):(?P<port>[0-9]{1,5})"
)


def _listen_address(value: str) -> str:
    found = _LISTEN_ADDRESS.fullmatch(value)
    if found is None or int(found["port"] or 0) > 65535:  # noqa: PLR2004
        raise ValueError(
            "must be HOST:PORT, with a port up to 65535, unix:PATH or fd://NUMBER"
        )
    return value


def _address(value: str) -> str:
    try:
        return parse_address(value, field="WALLET_ADDRESS")
    except InvalidInputError as e:
        raise ValueError(str(e)) from None


_ORIGIN = re.compile(r"[A-Za-z0-9._/-]{1,100}")


def _require_unredacted(value: str) -> str:
    """Require a name that the log's redaction keeps: checkpoints must contain it."""
    if not _ORIGIN.fullmatch(value):
        raise ValueError("must be up to 100 letters, digits and any of . _ / -")
    if sanitize(f"hotwallet/{value}") != f"hotwallet/{value}":
        raise ValueError(
            "must not contain an AWS region, account or host: the log redacts those,"
            " and its checkpoints could not be verified"
        )
    return value


def _agree_with_use_kms(value: str, info: ValidationInfo) -> str:
    """Require that ``KEY_BACKEND`` does not contradict ``USE_KMS``, read before it."""
    use_kms = info.data.get("use_kms")
    if use_kms is not None and use_kms != (value == AWS_KMS):
        raise ValueError(
            f"contradicts USE_KMS={str(use_kms).lower()}, which is short for"
            f" KEY_BACKEND={AWS_KMS}; unset USE_KMS"
        )
    return value


def require_page_url(value: str) -> str:
    """Return *value*; ``ValueError`` unless it is the http(s) URL of a page."""
    if re.fullmatch(r"https?://[^\s#\"'<>]+", value) is None:
        raise ValueError("must be the http(s) URL of a page, without #")
    return value


@dataclass(frozen=True, slots=True)
class RefusedInProduction:
    """Why production refuses a setting: *when* is true of its value, or it is set."""

    code: str
    message: str
    when: Callable[[object], bool] = lambda value: value is not None


def _if_unset(value: object) -> bool:
    return value is None


def _if_not_https(value: object) -> bool:
    """Return whether *value* is a URL, perhaps a secret one, that is not https."""
    url = value.get_secret_value() if isinstance(value, SecretStr) else value
    return url is not None and not is_https(str(url))


def is_https(url: str) -> bool:
    return url.lower().startswith("https://")


_FORGEABLE = "every verifier of HS256 tokens can forge them; use JWT_ALGORITHM=ES256"

Boolean = Annotated[Literal[True, False], BeforeValidator(_boolean)]


class Settings(BaseModel):
    """Every setting of the process; ``from_env`` builds it."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        alias_generator=str.upper,  # The variable of a field.
    )

    app_env: Annotated[Environment, BeforeValidator(_environment)] = (
        Environment.PRODUCTION
    )
    serve_role: Role = Role.ALL
    debug: Annotated[
        Boolean, RefusedInProduction("debug-forbidden", "DEBUG is on; unset it", bool)
    ] = False
    home: Path = Field(Path(".hotwallet"), alias="HOTWALLET_HOME")
    node_count: int = Field(1, ge=1)
    wallet_address: Annotated[str, AfterValidator(_address)] | None = None

    use_kms: Boolean | None = None  # Before key_backend.
    key_backend: Annotated[str, AfterValidator(_agree_with_use_kms)] | None = Field(
        None, pattern=r"^[a-z0-9][a-z0-9-]{0,62}$"
    )
    kms_key_id: str | None = Field(None, repr=False)
    kms_allowed_keys: Annotated[tuple[str, ...], BeforeValidator(parse_patterns)] = (
        Field((), repr=False)
    )
    aws_region: str | None = Field(None, repr=False)
    kms_endpoint: str | None = Field(None, alias="AWS_ENDPOINT_URL_KMS", repr=False)
    aws_endpoint: str | None = Field(None, alias="AWS_ENDPOINT_URL", repr=False)
    # Read by its plugin; production refuses it also beside another backend.
    google_endpoint: str | None = Field(
        None, alias="GOOGLE_CLOUD_KMS_ENDPOINT", repr=False
    )
    kms_max_retries: int = Field(10, ge=0, le=10)
    kms_timeout_ms: int = Field(9_000, ge=500, le=120_000)
    kms_max_concurrency: int = Field(64, ge=1, le=256)
    # AWS's quota is 1,000 a second for all ECC keys of an account in a region.
    kms_signatures_per_second: int = Field(950, ge=0, le=100_000)

    pkcs11_module: Path | None = None
    pkcs11_token_label: str = "hotwallet"  # noqa: S105  No password.
    pkcs11_pin: SecretStr | None = None
    pkcs11_pin_file: Path | None = None
    pkcs11_key_id: str = Field("01", pattern=r"^([0-9a-f]{2}){1,32}$", repr=False)
    softhsm2_conf: Annotated[
        Path | None,
        RefusedInProduction(
            "softhsm-config-forbidden",
            "SOFTHSM2_CONF is set; production does not sign with SoftHSM",
        ),
    ] = None

    database_url: SecretStr | None = None
    # libpq reads these two by itself.
    pg_hostaddr: str | None = Field(None, alias="PGHOSTADDR", repr=False)
    pg_service: str | None = Field(None, alias="PGSERVICE", repr=False)
    networks_file: Path = Path("networks.toml")
    tenants_file: Annotated[
        Path | None,
        RefusedInProduction(
            "tenants-missing",
            "set TENANTS_FILE; without it, each subject would be a tenant of its own",
            _if_unset,
        ),
    ] = None
    policy_dir: Path | None = None
    deny_list_file: Path | None = None

    jwt_algorithm: Annotated[
        Literal["RS256", "PS256", "ES256", "EdDSA", "HS256"],
        RefusedInProduction(
            "jwt-shared-secret", _FORGEABLE, lambda value: value == "HS256"
        ),
    ] = "ES256"
    jwt_public_key_file: Path | None = None
    jwt_jwks_file: Path | None = None
    jwt_jwks_url: Annotated[
        str | None,
        RefusedInProduction(
            "jwks-insecure",
            "JWT_JWKS_URL must be https; over http, an attacker could replace the keys",
            _if_not_https,
        ),
    ] = Field(None, repr=False)
    jwt_secret: Annotated[
        SecretStr | None,
        RefusedInProduction("jwt-shared-secret", _FORGEABLE),
    ] = None
    jwt_signing_key_file: Annotated[
        Path | None,
        RefusedInProduction(
            "jwt-signing-key-forbidden",
            "JWT_SIGNING_KEY_FILE is for development only; unset it",
        ),
    ] = None
    jwt_issuer: str = "hotwallet"
    jwt_audience: str = "hotwallet"

    audit_signing_key_file: Path | None = None
    audit_origin: Annotated[str, AfterValidator(_require_unredacted)] = "hotwallet"
    mac_key_file: Annotated[
        Path | None,
        RefusedInProduction(
            "mac-key-missing",
            "set MAC_KEY_FILE; without it, a writer of the database can make refunds",
            _if_unset,
        ),
    ] = None
    audit_ship_max_lag: int | None = Field(None, ge=15, le=86_400)
    audit_unsealed_seconds: int = Field(900, ge=60, le=86_400)
    alert_webhook_url: Annotated[
        SecretStr | None,
        RefusedInProduction(
            "webhook-insecure", "ALERT_WEBHOOK_URL must be https", _if_not_https
        ),
    ] = None
    alert_webhook_format: Literal["json", "pagerduty", "opsgenie", "slack"] = "json"
    runbook_url: Annotated[str, AfterValidator(require_page_url)] | None = None
    webhook_signing_key_file: Path | None = None
    webhook_public_keys_file: Path | None = None
    webhook_allowed_networks: Annotated[
        tuple[str, ...], BeforeValidator(_networks)
    ] = ()
    event_retention_days: int = Field(90, ge=7, le=3650)
    metrics_open: Boolean = False
    rotation_needs_funds: Boolean = False
    require_approvals: Annotated[
        Annotated[Literal[True, False, "keys"], BeforeValidator(_boolean)] | None,
        RefusedInProduction(
            "approvals-required",
            "one administrator could do what cannot be undone; unset REQUIRE_APPROVALS",
            lambda value: value is False,
        ),
    ] = None
    approvers_file: Path | None = None

    trusted_proxies: Annotated[tuple[str, ...], BeforeValidator(_networks)] = ()
    rate_limit_refused: int = Field(60, ge=1)
    rate_limit_admin: int = Field(30, ge=1)
    rate_limit_client: int = Field(0, ge=0)

    bind: Annotated[str, AfterValidator(_listen_address)] = "127.0.0.1:8080"
    workers: int = Field(2, ge=1, le=64, alias="WEB_CONCURRENCY")
    threads: int = Field(16, ge=1, le=64, alias="WEB_THREADS")

    # No variables, but what ``from_env`` found.
    raw_key_present: bool = Field(False, alias="raw_key_present")
    credentials: tuple[str, ...] = Field((), alias="credentials")

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """
        Read the settings from *environ*.  An empty variable counts as unset.

        Each invalid variable is a refusal (``settings-invalid``), without the value.
        """
        raw_key_present = any(
            name.upper() == RAW_KEY and value.strip() for name, value in environ.items()
        )
        credentials = tuple(
            name
            for name in CREDENTIALS
            if environ.get(name, "").strip() not in {"", os.devnull}
            or (name == RAW_KEY and raw_key_present)
        )
        return read_model(
            cls, environ, raw_key_present=raw_key_present, credentials=credentials
        )

    def production_refusals(self) -> Iterator[Refusal]:
        """Yield why production refuses the value of a single setting."""
        for name, field in type(self).model_fields.items():
            for rule in field.metadata:
                if isinstance(rule, RefusedInProduction) and rule.when(
                    getattr(self, name)
                ):
                    yield Refusal(rule.code, rule.message)

    @property
    def is_production(self) -> bool:
        return self.app_env is Environment.PRODUCTION

    @property
    def backend_name(self) -> str:
        return self.key_backend or (AWS_KMS if self.use_kms else PKCS11)

    @property
    def has_pin_source(self) -> bool:
        """Whether the URI of the token says where the PIN is (RFC 7512)."""
        scheme, _, rest = self.pkcs11_token_label.partition(":")
        return scheme == "pkcs11" and "pin-source=" in rest.partition("?")[2]

    @property
    def emulators(self) -> tuple[str, ...]:
        """The variables that are set and redirect a KMS, of any backend."""
        endpoints = {
            "AWS_ENDPOINT_URL_KMS": self.kms_endpoint,
            "AWS_ENDPOINT_URL": self.aws_endpoint,
            "GOOGLE_CLOUD_KMS_ENDPOINT": self.google_endpoint,
        }
        return tuple(name for name, url in endpoints.items() if url is not None)

    @property
    def needs_approvals(self) -> bool:
        """Whether two administrators must agree on what cannot be undone."""
        return self.is_production or bool(self.require_approvals)

    @property
    def event_retention(self) -> timedelta:
        return timedelta(days=self.event_retention_days)

    @property
    def allowed_keys(self) -> AllowedKeys:
        default = default_patterns(self.kms_key_id or "", self.aws_region or "")
        return AllowedKeys(self.kms_allowed_keys or default)

    @property
    def effective_database_url(self) -> str:
        """The configured database URL, or SQLite under ``home``."""
        if self.database_url is None:
            return f"sqlite:///{self.home / 'hotwallet.db'}"
        return self.database_url.get_secret_value()
