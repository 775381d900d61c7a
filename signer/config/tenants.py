'''
The tenants that may request refunds, and their limits, from one TOML file.

::

    [tenants.shop]
    subjects = ["shop-1", "shop-2"]
    client_ids = ["shop-gateway"]
    max_open_refunds = 1000
    requests_per_minute = 600

    [tenants.shop.request_keys]
    gateway-2026 = """
    -----BEGIN PUBLIC KEY-----
    MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=
    -----END PUBLIC KEY-----"""

    [tenants.shop.networks.local]
    gas_per_hour = 20_000_000

    [tenants.shop.webhook]
    url = "https://shop.example/hotwallet"
    events = ["refund.confirmed", "refund.failed"]

    [tenants.shop.networks.local.tokens.TUSD]
    min_amount = "0.10"
    max_amount = "200"

A token belongs to the tenant that lists its ``sub`` or its ``client_id`` (RFC 9068).
'''

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    model_validator,
)

from signer.amounts import parse_units
from signer.config.models import (
    GRANT,
    LEAST,
    MOST,
    NOT_LIMITING,
    SIGNER,
    StrictModel,
    as_tuple,
    read_toml,
)
from signer.config.networks import Network, Token
from signer.crypto.request_keys import normalize_public_key
from signer.errors import (
    ConfigurationError,
    InvalidInputError,
    Refusal,
    UnknownTenantError,
)


class EventType(StrEnum):
    """What happened to a refund; ``docs/how-to/webhooks.md`` explains each."""

    ACCEPTED = "refund.accepted"
    AWAITING_APPROVAL = "refund.awaiting_approval"
    BROADCAST = "refund.broadcast"
    CONFIRMED = "refund.confirmed"
    FAILED = "refund.failed"
    REFUSED = "refund.refused"
    CANCELLED = "refund.cancelled"


_LIMITS = ("hourly_limit", "daily_limit", "daily_limit_per_recipient")


class TokenLimits(StrictModel):
    """
    A tenant's limits for one token, in whole tokens; None means no limit.

    ``min_amount`` and ``max_amount`` bound one refund.  A refund of more than
    ``approve_above`` needs an approval.  The others bound all refunds of the tenant in
    an hour or a day.  The token's own limits apply as well.
    """

    min_amount: Annotated[str | None, LEAST] = None
    max_amount: Annotated[str | None, MOST] = None
    approve_above: Annotated[str | None, MOST] = None
    hourly_limit: Annotated[str | None, MOST] = None
    daily_limit: Annotated[str | None, MOST] = None
    daily_limit_per_recipient: Annotated[str | None, MOST] = None

    def units(self, name: str, token: Token) -> int | None:
        """Return the limit *name* in base units of *token*; None if there is none."""
        amount = getattr(self, name)
        return None if amount is None else parse_units(amount, token.decimals)

    def problems(self, token: Token) -> Iterator[str]:
        """Yield why these cannot be the limits of *token*."""
        values: dict[str, int] = {}
        for name in type(self).model_fields:
            try:
                units = self.units(name, token)
            except InvalidInputError as e:
                yield f"{name} {e}"
            else:
                values |= {} if units is None else {name: units}
        largest = parse_units(token.max_amount, token.decimals)
        largest = min(largest, values.get("max_amount", largest))
        if values.get("min_amount", 0) > largest:
            yield "min_amount must not be more than max_amount"
        if values.get("approve_above", 0) >= largest:
            yield "approve_above must be less than max_amount, the token's included"
        for name in _LIMITS:
            # An accepted refund must not wait without end.
            if values.get(name, largest) < largest:
                yield f"{name} must not be less than max_amount, the token's included"


_NO_TOKEN_LIMITS = TokenLimits()


class NetworkLimits(StrictModel):
    """A tenant's limits on one network; ``gas_per_hour`` bounds its gas limits."""

    gas_per_hour: Annotated[int | None, MOST] = Field(default=None, ge=21_000)
    tokens: dict[str, TokenLimits] = Field(default_factory=dict)


_VISIBLE_ASCII = re.compile(r"[!-~]{1,2000}")


def _url(value: str) -> str:
    """Return *value*; a ``ValueError``, which does not quote it, if it is no URL."""
    try:
        parts = urlsplit(value)
        is_usable = (
            parts.scheme in {"http", "https"}
            and bool(parts.hostname)
            and parts.port != 0
            and not (parts.username or parts.password or parts.fragment)
            and _VISIBLE_ASCII.fullmatch(value)
        )
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ValueError(
            "must be an https URL with a host, without user name, password and fragment"
        )
    return value


def _event_type(value: object) -> object:
    if isinstance(value, str) and value in set(EventType):
        return EventType(value)
    raise ValueError(f"must be one of {', '.join(EventType)}")


def _path(value: object) -> object:
    return Path(value) if isinstance(value, str) and value else value


class Webhook(StrictModel):
    """
    Where the events of a tenant are sent.

    ``url`` is recorded in the audit log with the rest of the configuration, so it must
    hold no secret.  ``events`` are the types to send; empty means all.  Each line of
    ``secret_file`` is a secret of Standard Webhooks (``whsec_...``), with which events
    are signed in addition to the key of the service.
    """

    url: Annotated[str, AfterValidator(_url)]
    secret_file: Annotated[Path, BeforeValidator(_path)] | None = None
    events: Annotated[
        tuple[Annotated[EventType, BeforeValidator(_event_type)], ...],
        BeforeValidator(as_tuple),
    ] = ()

    @property
    def is_https(self) -> bool:
        return urlsplit(self.url).scheme == "https"

    def wants(self, type_: EventType) -> bool:
        return not self.events or type_ in self.events


# As a ``sub``: visible ASCII.  ``OPERATOR`` has a space, so it is not a name.
_NAME = "[!-~]{1,128}"
Name = Annotated[str, StringConstraints(pattern=f"^{_NAME}$")]
ClientId = Annotated[str, StringConstraints(pattern="^[ -~]{1,256}$")]
"""A ``client_id``: RFC 6749, appendix A.1."""

PublicKey = Annotated[str, AfterValidator(normalize_public_key)]
"""The PEM of an Ed25519 or a P-256 public key."""


def is_tenant_name(name: str) -> bool:
    return re.fullmatch(_NAME, name) is not None


class Tenant(StrictModel):
    """
    Who owns refunds, idempotency keys and references; None means no limit.

    ``max_open_refunds`` counts refunds that are not final; a queue without end would
    take the worker's time from other tenants.  ``gas_per_hour`` bounds the gas on each
    network that sets no other limit: refunds of one unit cost the same gas as others.
    ``requests_per_minute`` counts all requests, ``max_concurrent_requests`` those being
    answered, and ``max_waiting_requests`` those that wait for their refund.

    If there are ``request_keys``, public keys by their id, one of them must sign each
    request for a refund.  The tenant's events are sent to its ``webhook``.
    """

    subjects: Annotated[tuple[Name, ...], BeforeValidator(as_tuple), GRANT] = ()
    client_ids: Annotated[tuple[ClientId, ...], BeforeValidator(as_tuple), GRANT] = ()
    max_open_refunds: Annotated[int | None, MOST] = Field(default=10_000, ge=1)
    # About 800 transfers of USDC, and not less than the gas of any transaction.
    gas_per_hour: Annotated[int | None, MOST] = Field(default=50_000_000, ge=21_000)
    requests_per_minute: Annotated[int | None, MOST] = Field(default=None, ge=1)
    max_concurrent_requests: Annotated[int | None, MOST] = Field(default=None, ge=1)
    max_waiting_requests: Annotated[int | None, MOST] = Field(default=None, ge=1)
    request_keys: Annotated[dict[Name, PublicKey], SIGNER] = Field(default_factory=dict)
    webhook: Annotated[Webhook | None, NOT_LIMITING] = None
    networks: dict[str, NetworkLimits] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_a_caller(self) -> Self:
        if not (self.subjects or self.client_ids):
            raise ValueError("needs subjects or client_ids")
        return self

    def gas_limit(self, network: str) -> int | None:
        """Return the gas of an hour on *network*: its own limit, or the tenant's."""
        of_network = self.networks.get(network)
        own = None if of_network is None else of_network.gas_per_hour
        return self.gas_per_hour if own is None else own

    def token_limits(self, network: str, token: str) -> TokenLimits:
        of_network = self.networks.get(network)
        found = None if of_network is None else of_network.tokens.get(token)
        return found or _NO_TOKEN_LIMITS

    def problems(self, networks: Mapping[str, Network]) -> Iterator[str]:
        """Yield each limit that *networks* cannot have."""
        for name, each in networks.items():
            # An accepted refund must not wait without end.
            gas = self.gas_limit(name) or each.largest_gas
            if gas < each.largest_gas:
                yield (
                    f"networks.{name}: gas_per_hour must not be less than the max_gas"
                    f" of a token, which is {each.largest_gas}"
                )
        for name, limits in self.networks.items():
            network = networks.get(name)
            if network is None:
                yield f"networks.{name}: NETWORKS_FILE has no such network"
                continue
            for symbol, of_token in limits.tokens.items():
                place = f"networks.{name}.tokens.{symbol}"
                token = network.tokens.get(symbol)
                if token is None:
                    yield f"{place}: NETWORKS_FILE has no such token"
                    continue
                for problem in of_token.problems(token):
                    yield f"{place}: {problem}"


NO_LIMITS = Tenant.model_construct(max_open_refunds=None, gas_per_hour=None)
"""The limits of a tenant without any."""


class Tenants(StrictModel):
    """The tenants file: tenants by name."""

    tenants: dict[Name, Tenant] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_one_tenant_per_caller(self) -> Self:
        for kind in ("subjects", "client_ids"):
            owners: dict[str, str] = {}
            for name, tenant in self.tenants.items():
                for caller in getattr(tenant, kind):
                    if caller in owners:
                        raise ValueError(
                            f"{kind}: {caller} is listed twice, in tenants.{name}"
                            f" and tenants.{owners[caller]}"
                        )
                    owners[caller] = name
        for name, tenant in self.tenants.items():
            # Refunds from before this file belong to the tenant of the subject's name.
            for subject in tenant.subjects:
                if subject != name and subject in self.tenants:
                    raise ValueError(
                        f"subjects: {subject} is in tenants.{name}, and must be in"
                        f" tenants.{subject}, which owns its earlier refunds"
                    )
        return self

    @model_validator(mode="after")
    def _has_one_tenant_per_request_key(self) -> Self:
        owners: dict[str, str] = {}
        for name, tenant in self.tenants.items():
            for key_id, key in tenant.request_keys.items():
                # A request that one tenant signed must not count for another one.
                if owners.setdefault(key, name) != name:
                    raise ValueError(
                        f"request_keys: {key_id} of tenants.{name} is also a key of"
                        f" tenants.{owners[key]}"
                    )
        return self


SERVICE = "hotwallet"
"""The default of ``JWT_AUDIENCE``."""


class TenantRegistry:
    """
    Finds the tenant of a token, and the limits of a tenant.

    Without a tenants file, which only production requires, each subject is a tenant of
    its own, without limits.
    """

    def __init__(
        self, tenants: Mapping[str, Tenant] | None = None, service: str = SERVICE
    ) -> None:
        """
        Make a registry of *tenants*; None means that there is no file.

        Requests that are signed must name *service*: others may have the same tenants.
        """
        self.tenants = tenants
        self.service = service
        self._of: dict[tuple[str, str], str] = {}
        for name, tenant in (tenants or {}).items():
            self._of |= {("sub", subject): name for subject in tenant.subjects}
            self._of |= {("client_id", each): name for each in tenant.client_ids}

    @property
    def has_several(self) -> bool:
        """Whether several tenants share the limits of the networks file."""
        return self.tenants is None or len(self.tenants) > 1

    def find(self, subject: str, client_id: str | None = None) -> str:
        """
        Return the name of the tenant of a token with these claims.

        Raises:
            UnknownTenantError: No tenant lists either claim, or two tenants do.
        """
        if self.tenants is None:
            return subject
        claims = (("sub", subject), ("client_id", client_id or ""))
        found = {self._of[claim] for claim in claims if claim in self._of}
        if len(found) == 1:
            return found.pop()
        if found:
            raise UnknownTenantError("the token's sub and client_id have two tenants")
        raise UnknownTenantError("the token's sub and client_id have no tenant")

    def owners(self, name: str) -> frozenset[str]:
        """
        Return the names that the refunds of the tenant *name* may have in the ledger.

        A subject that joined a tenant owned its earlier refunds itself.
        """
        return frozenset({name, *self.limits(name).subjects})

    def all_token_limits(self) -> Iterator[TokenLimits]:
        for tenant in (self.tenants or {}).values():
            for network in tenant.networks.values():
                yield from network.tokens.values()

    def requests_per_minute(self) -> Mapping[str, int]:
        return {
            name: tenant.requests_per_minute
            for name, tenant in (self.tenants or {}).items()
            if tenant.requests_per_minute is not None
        }

    def request_keys(self, name: str) -> Mapping[str, str]:
        """
        Return the keys of which one must sign each request of the tenant *name*.

        They are public keys in PEM, by id; none if the tenant does not sign.

        Raises:
            UnknownTenantError: Some tenant signs, and there is none of this name, which
                must not be a way around signatures.  Also not the name of a subject
                that joined a tenant: one request would be paid under both names.
        """
        tenants = self.tenants or {}
        if name in tenants:
            return tenants[name].request_keys
        if any(tenant.request_keys for tenant in tenants.values()):
            raise UnknownTenantError("TENANTS_FILE has no tenant of this name")
        return {}

    def webhooks(self) -> Mapping[str, Webhook]:
        """
        Return the webhooks by the tenant of the refunds whose events they receive.

        As ``owners``, a tenant has several names if subjects joined it.
        """
        return {
            owner: tenant.webhook
            for name, tenant in (self.tenants or {}).items()
            if tenant.webhook is not None
            for owner in sorted(self.owners(name))
        }

    def limits(self, name: str) -> Tenant:
        """Return the limits of the tenant *name*; no limits if it is not listed."""
        return (self.tenants or {}).get(name, NO_LIMITS)


_CODE = "tenants-misconfigured"


def load_tenants(path: Path | None, service: str = SERVICE) -> TenantRegistry:
    """
    Read the TOML file at *path*, or refuse it (``tenants-misconfigured``).

    None means that there is no file.  *service* is as in ``TenantRegistry``.
    """
    if path is None:
        return TenantRegistry(service=service)
    file = read_toml(path, Tenants, variable="TENANTS_FILE", code=_CODE)
    return TenantRegistry(file.tenants, service)


def check_tenants(registry: TenantRegistry, networks: Mapping[str, Network]) -> None:
    """Refuse limits that do not fit *networks* (``tenants-misconfigured``)."""
    refusals = [
        Refusal(_CODE, f"TENANTS_FILE: tenants.{name}.{problem}")
        for name, tenant in (registry.tenants or {}).items()
        for problem in tenant.problems(networks)
    ]
    if refusals:
        raise ConfigurationError(*refusals)
