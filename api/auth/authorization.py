"""
Decides which requests are allowed, and audits administrative requests that are not.

A token's roles and scopes say what it allows.  Administrative requests are also rate
limited, their tokens can change something once only, and refusals are audited before
they are answered.  If the database is down, administrative requests are refused.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

from api.auth.jwt_verifier import LEEWAY, TOKEN_EXPIRED, TOKEN_REPLAYED
from api.auth.rate_limits import RateLimits, RateLimitStatus
from api.principal import Principal, rate_limit_key
from signer.audit.actions import NOT_AUDITED, AuditAction
from signer.audit.log import AuditLog
from signer.config.tenants import TenantRegistry
from signer.errors import (
    AuthenticationError,
    PermissionDeniedError,
    RequestError,
    StoreError,
    StoreUnavailableError,
)
from signer.model.audit_record import Actor, Operation
from signer.ports.clock import Clock
from signer.ports.shared_state import SharedState


@dataclass(frozen=True, slots=True)
class Permission:
    """
    What a route requires of a token: one of *roles*, and *scope* unless it is None.

    With *allows_direct* a request need not come through a proxy.  With *for_tenants*
    the caller must belong to a tenant.
    """

    roles: frozenset[str]
    scope: str | None
    administrative: bool
    allows_direct: bool = False
    for_tenants: bool = False


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """
    The facts of a request that decide whether it is allowed.

    With *only_reads* it changes nothing, although its method may.
    """

    permission: Permission
    method: str
    route: str | None
    peer: str
    request_id: str
    only_reads: bool = False

    @property
    def is_change(self) -> bool:
        """Whether the request uses its token up."""
        return not self.only_reads and self.method not in {"GET", "HEAD"}


class AccessPolicy:
    """Finds tenants, applies rate limits, uses tokens up, and audits refusals."""

    def __init__(
        self,
        callers: SharedState,
        limits: RateLimits,
        audit: AuditLog,
        clock: Clock,
        tenants: TenantRegistry,
    ) -> None:
        self._tenants = tenants
        self._callers = callers
        self._limits = limits
        self._audit = audit
        self._clock = clock

    def check_peer(self, request: AccessRequest) -> None:
        """
        Refuse *request*, before its token is verified, if its peer is over the limit.

        Raises:
            RateLimitedError: Too many requests of this peer were refused.
        """
        # Not audited: the first refusal over the limit already was.
        if self._limits.refused.is_over(_counted_as(request)):
            raise self._limits.refused.exceeded()

    def find_tenant(self, caller: Principal, permission: Permission) -> str | None:
        """
        Return the tenant of *caller*; None if *permission* is not for tenants.

        Raises:
            UnknownTenantError: The caller has no tenant.
        """
        if not permission.for_tenants:
            return None
        return self._tenants.find(caller.sub, caller.client_id)

    def admit(
        self, caller: Principal, request: AccessRequest, tenant: str | None = None
    ) -> None:
        """
        Count *request* by *caller* of *tenant*, whose role and scope allow it.

        Raises:
            RateLimitedError: This subject or tenant has made too many requests.
            AuthenticationError: ``token-replayed``: the token was used before; or
                ``token-expired``, by the clock that all hosts share.
            StoreUnavailableError: The database does not answer an administrator.
        """
        if not request.permission.administrative:
            self.count(caller, tenant)
            return
        # Reads have a limit of their own.  A used token can still read, so a stolen one
        # must not exhaust the limit for changes.
        changes = request.is_change
        limit = self._limits.administration if changes else self._limits.reading
        if limit.is_over(caller.sub):
            raise limit.exceeded()
        # Before counting: a replayed token counts against its peer, not its subject.
        if changes:
            self._use_token(caller)
        status = limit.take(caller.sub, require_store=True)
        if status is RateLimitStatus.FIRST_OVER:
            self._audit_refusal(limit.exceeded(), request, caller)
        if status is not RateLimitStatus.WITHIN:
            raise limit.exceeded()

    def count(self, caller: Principal, tenant: str | None) -> None:
        """
        Count a request of *caller* of *tenant*, which is not administrative.

        Raises:
            RateLimitedError: This subject or tenant has made too many requests.
        """
        # No name of a tenant has a space, so the names cannot collide.
        name, limit = f"subject {caller.sub}", self._limits.client
        if tenant is not None:
            name, limit = tenant, self._limits.of_tenant(tenant)
        if limit and limit.take(name) is not RateLimitStatus.WITHIN:
            raise limit.exceeded()

    def count_signature(self, tenant: str) -> None:
        """
        Count a message that *tenant* has signed, if no limit counts its requests.

        Raises:
            RateLimitedError: It has had too many messages signed.
        """
        limit = self._limits.signatures
        if (
            self._limits.of_tenant(tenant) is None
            and limit.take(tenant) is not RateLimitStatus.WITHIN
        ):
            raise limit.exceeded()

    def refuse(
        self, error: RequestError, request: AccessRequest, caller: Principal | None
    ) -> NoReturn:
        """
        Count the refusal, audit it, and raise *error*.

        A missing permission counts against the subject, since many subjects may share
        an address.  Other refusals count against the peer: a thief of a token must not
        lock its owner out.

        Raises:
            RateLimitedError: There were too many refusals; raised instead of *error*.
            StoreUnavailableError: As ``admit``, or the refusal cannot be audited.
        """
        limit, administrative = self._limits.refused, request.permission.administrative
        is_forbidden = isinstance(error, PermissionDeniedError)
        name = _counted_as(request, caller if is_forbidden else None)
        status = limit.take(name, require_store=administrative)
        refusal = error if status is RateLimitStatus.WITHIN else limit.exceeded()
        if status is not RateLimitStatus.OVER:
            self._audit_refusal(refusal, request, caller)
        raise refusal

    def _use_token(self, caller: Principal) -> None:
        # Remember the token for as long as it is accepted.
        until = caller.expires_at + timedelta(seconds=LEEWAY)
        try:
            now = self._clock()
            # A host whose clock is slow accepted it.  Its use may be forgotten.
            if until <= now:
                raise AuthenticationError(TOKEN_EXPIRED)
            is_first_use = self._callers.use_token(caller.jti, until, now)
        except StoreError as e:
            raise StoreUnavailableError("the token cannot be used up") from e
        if not is_first_use:
            raise AuthenticationError(TOKEN_REPLAYED)

    def _audit_refusal(
        self, error: RequestError, request: AccessRequest, caller: Principal | None
    ) -> None:
        if not request.permission.administrative:
            return
        # The message of an AuthenticationError is a reason code.
        outcome = str(error) if isinstance(error, AuthenticationError) else error.code
        actor = Actor("anonymous", request.request_id)
        if caller is not None:
            actor = Actor.from_token(caller.sub, request.request_id, caller.jti)
        # No record can be deleted, so callers must not decide how many are written.
        status = self._limits.audited.take(actor.name, require_store=True)
        if status is RateLimitStatus.OVER:
            return
        if status is RateLimitStatus.FIRST_OVER:
            outcome = NOT_AUDITED
        record = self._audit.result(
            AuditAction.ADMIN_ACCESS,
            Operation.ADMINISTRATION,
            actor,
            outcome=outcome,
            route=request.route,
            method=request.method,
            peer=request.peer,
        )
        try:
            self._audit.write(record)
        except (StoreError, OSError) as e:
            raise StoreUnavailableError("the audit cannot be written") from e


def _counted_as(request: AccessRequest, caller: Principal | None = None) -> str:
    """
    Return the name under which a refusal is counted: of *caller*, or of the peer.

    Administrative refusals are counted apart, so that refusals elsewhere cannot keep
    them out of the audit.  Neither an address nor a ``sub`` has a space.
    """
    name = f"subject {caller.sub}" if caller else rate_limit_key(request.peer)
    return f"{name} administrative" if request.permission.administrative else name


def require_permission(caller: Principal, permission: Permission) -> None:
    """
    Require that *caller*'s token grants *permission*.

    A token without a ``scope`` claim has no scopes.  Its roles alone decide, except on
    administrative routes, which always require the scope.

    Raises:
        PermissionDeniedError: The token lacks the role or the scope.
    """
    if not caller.roles & permission.roles:
        raise PermissionDeniedError(
            f"this needs the role {' or '.join(sorted(permission.roles))}"
        )
    if permission.scope is None:
        return
    if caller.scopes is None and not permission.administrative:
        return
    if permission.scope not in (caller.scopes or ()):
        raise PermissionDeniedError(f"this needs the scope {permission.scope}")
