"""
The real authorization in front of routes that do nothing.

``get_app`` is for server processes, ``build`` for the test's own process.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import falcon
import structlog

from api.auth.authorization import AccessPolicy, RateLimits
from api.auth.jwt_verifier import JWTVerifier
from api.auth.verification_keys import KeySet, KeySource, bind
from api.http import problems as errors
from api.http.app import App
from api.http.middleware import AuthorizationMiddleware, RequestLog, Resource
from api.principal import Network
from api.request_context import principal
from backends.sql.database import Database
from backends.sql.shared_state import SharedTables
from signer.audit.log import AuditLog
from signer.config.settings import Settings
from signer.config.tenants import TenantRegistry
from signer.errors import StoreUnavailableError
from signer.model.audit_record import Record
from signer.model.key import SigningCondition
from signer.ports import audit_journal
from signer.ports.clock import Clock, utc_now
from signer.ports.ledger import SharedState
from tests.api.support import (
    AUDIENCE,
    ES256_KEY,
    ISSUER,
    SettableClock,
    make_verifier,
)


ONE_KEY = KeySet(only=bind(ES256_KEY.public_key(), "ES256"))


class Refunds(Resource):
    required_role = "merchant"
    required_scope = "refunds:write"

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.media = {"sub": principal(req).sub}

    on_post = on_get


class Rotation(Resource):
    required_role = frozenset({"admin", "devops"})
    required_scope = "keys:rotate"
    is_administrative = True

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.media = {"sub": principal(req).sub}

    on_head = on_get
    on_post = on_get


class Probe(Resource):
    required_role = None

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.media = {}


class Numbers(Resource):
    """``/numbers``, which is also served to clients that bypass the proxy."""

    required_role = "devops"
    allows_direct = True

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.media = {}


@dataclass
class Journal:
    """An audit journal in memory, which can fail."""

    records: list[Record] = field(default_factory=list)
    fails: bool = False

    def authenticate(self, record: Record) -> Record:
        """Return *record*, which needs no MAC here."""
        return record

    def append(
        self, records: Sequence[Record], *, condition: SigningCondition | None = None
    ) -> None:
        if self.fails:
            raise StoreUnavailableError("no room")
        self.records += records


def audit_into(journal: Journal, clock: Clock) -> AuditLog:
    kept = cast("audit_journal.Journal", journal)
    return AuditLog(structlog.get_logger("audit"), clock, journal=kept)


class UnavailableCallers(SharedTables):
    """Counters of callers whose database does not answer."""

    def __init__(self) -> None:
        """Open nothing."""

    def use_token(self, *args: object) -> bool:
        raise StoreUnavailableError("no answer")

    def count(self, *args: object) -> int:
        raise StoreUnavailableError("no answer")


def build(
    callers: SharedState,
    clock: Clock,
    *,
    audit: AuditLog | None = None,
    keys: KeySource = ONE_KEY,
    limits: RateLimits | None = None,
    proxies: Sequence[Network] = (),
    ledger_clock: Clock | None = None,
) -> App:
    """Return the application over *callers*, on a host with *clock*."""
    access = AccessPolicy(
        callers,
        limits or RateLimits.shared(callers, clock=clock),
        audit or AuditLog(structlog.get_logger("audit"), clock),
        ledger_clock or clock,
        TenantRegistry(),
    )
    authenticator = JWTVerifier(keys, issuer=ISSUER, audience=AUDIENCE, clock=clock)
    return with_routes(AuthorizationMiddleware(authenticator, access, proxies=proxies))


def get_app() -> App:
    """
    Return the application over the ledger of ``DATABASE_URL``.

    Its rate limits have a clock that stands still: all requests are in one minute.
    """
    settings = Settings.from_env(os.environ)
    callers = SharedTables(
        Database(settings.effective_database_url, pool_size=4, timeout=5.0)
    )
    access = AccessPolicy(
        callers,
        RateLimits.shared(callers, clock=SettableClock()),
        AuditLog(structlog.get_logger("audit")),
        utc_now,
        TenantRegistry(),
    )
    return with_routes(
        AuthorizationMiddleware(make_verifier(settings, utc_now), access)
    )


def with_routes(authorization: AuthorizationMiddleware) -> App:
    app = App(TenantRegistry())
    app.add_middleware([RequestLog(), authorization])
    errors.install(app)
    app.add_route("/refunds", Refunds())
    app.add_route("/rotation", Rotation())
    app.add_route("/probe", Probe())
    app.add_route("/numbers", Numbers())
    return app
