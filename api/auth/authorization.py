"""
Decides which requests are allowed, and audits administrative requests that are not.

A token's roles and scopes say what it allows.  Administrative requests are also rate
limited, their tokens can change something once only, and refusals are audited before
they are answered.  If the database is down, administrative requests are refused.
"""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from enum import Enum, auto
from functools import partial
from threading import Lock
from types import MappingProxyType
from typing import NoReturn, Self

from api.auth.jwt_verifier import LEEWAY, TOKEN_EXPIRED, TOKEN_REPLAYED
from api.principal import Principal, rate_limit_key
from signer.audit.actions import NOT_AUDITED, AuditAction
from signer.audit.log import AuditLog
from signer.config.tenants import TenantRegistry
from signer.errors import (
    AuthenticationError,
    PermissionDeniedError,
    RateLimitedError,
    RequestError,
    StoreError,
    StoreUnavailableError,
)
from signer.model.audit_record import Actor, Operation
from signer.ports.clock import Clock, utc_now
from signer.ports.ledger import SharedState


WINDOW = 60  # Seconds.

READS_PER_CHANGE = 10
"""An administrator may read so many times more often than change something."""

SIGNATURES_PER_MINUTE = 600
"""Of messages, for each tenant without a limit of requests."""

NO_TENANTS: Mapping[str, int] = MappingProxyType({})

_LOCAL_COUNT_SECONDS = 5.0  # Of counting in memory alone after the database failed.


class RateLimitStatus(Enum):
    """Whether a request is within the limit, the first over it, or a later one."""

    WITHIN = auto()
    FIRST_OVER = auto()
    OVER = auto()


@dataclass(eq=False, repr=False)
class RateLimit:
    """
    At most *limit* requests per minute for each name, counted by all processes.

    Windows begin with the minute.  A caller over the limit stays over it until the
    window ends.  The process, whose threads share the instance, remembers that, so that
    a flood of requests costs it no queries.

    With a *batch* above 1, a process takes that many permits from the shared count at
    once and uses them up in memory.  Permits left over at the end of a minute are lost,
    so fewer than *limit* requests may be allowed.
    """

    kind: str
    limit: int
    callers: SharedState
    _: KW_ONLY
    batch: int = 1
    clock: Clock = utc_now
    timer: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._lock = Lock()
        self._local_until = float("-inf")
        self._begin_window(0)

    def is_over(self, name: str) -> bool:
        """Whether this process knows that *name* is over the limit; sends no query."""
        with self._lock:
            is_current = self._current_window() == self._window
            return is_current and self._bucket(name) in self._over

    def take(self, name: str, *, require_store: bool = False) -> RateLimitStatus:
        """
        Count one request of *name*.

        While the database does not answer, each process counts for itself; or, with
        *require_store*, StoreUnavailableError is raised.
        """
        bucket, window = self._bucket(name), self._current_window()
        with self._lock:
            if window != self._window:
                self._begin_window(window)
            if bucket in self._over:
                return RateLimitStatus.OVER
            if self._permits.get(bucket, 0) > 0:
                self._permits[bucket] -= 1
                return RateLimitStatus.WITHIN
        count = self._count_batch(bucket, window, require_store=require_store)
        before = count - self.batch
        granted = min(self.batch, self.limit - before)
        with self._lock:
            if window == self._window and granted > 0:
                self._permits[bucket] += granted - 1
            elif window == self._window:
                self._over.add(bucket)
        if granted > 0:
            return RateLimitStatus.WITHIN
        is_first = before == self.limit
        return RateLimitStatus.FIRST_OVER if is_first else RateLimitStatus.OVER

    def exceeded(self) -> RateLimitedError:
        left = WINDOW - int(self.clock().timestamp()) % WINDOW
        return RateLimitedError(
            "There are too many of these requests; wait.", retry_after=left
        )

    def _count_batch(self, bucket: str, window: int, *, require_store: bool) -> int:
        if require_store or self.timer() >= self._local_until:
            try:
                return self.callers.count(bucket, window, self.batch)
            except StoreError as e:
                if require_store:
                    raise StoreUnavailableError("the request cannot be counted") from e
                self._local_until = self.timer() + _LOCAL_COUNT_SECONDS
        with self._lock:
            self._local_counts[bucket] += self.batch
            return self._local_counts[bucket]

    def _current_window(self) -> int:
        return int(self.clock().timestamp()) // WINDOW

    def _begin_window(self, window: int) -> None:
        """Forget everything of the last window, which bounds the memory."""
        self._window = window
        self._over: set[str] = set()
        self._permits: dict[str, int] = defaultdict(int)
        self._local_counts: dict[str, int] = defaultdict(int)

    def _bucket(self, name: str) -> str:
        # Hashed: a fixed length, and characters that every database can hold.
        return f"{self.kind}:{hashlib.sha256(name.encode()).hexdigest()[:32]}"


@dataclass(frozen=True, slots=True)
class RateLimits:
    """
    The limits of the API.

    ``refused`` counts answers 401 and 421 per peer, and 403 per subject.  ``audited``
    counts the audit records of refusals per subject.  ``administration`` counts the
    changes of each administrator, and ``reading`` what the administrator reads, for
    which many tabs of the console may be open.  ``client`` counts
    all other requests of each tenant, or of each subject that needs none, if they are
    limited; ``tenants`` has the tenants with a limit of their own.  ``signatures``
    counts the messages that a tenant without either has signed.
    """

    refused: RateLimit
    audited: RateLimit
    administration: RateLimit
    reading: RateLimit
    signatures: RateLimit
    client: RateLimit | None = None
    tenants: Mapping[str, RateLimit] = field(default_factory=dict)

    def of_tenant(self, name: str) -> RateLimit | None:
        """Return the limit of all requests of the tenant *name*, if there is one."""
        return self.tenants.get(name, self.client)

    @classmethod
    def shared(
        cls,
        callers: SharedState,
        *,
        refused: int = 60,
        administration: int = 30,
        signatures: int = SIGNATURES_PER_MINUTE,
        client: int = 0,
        tenants: Mapping[str, int] = NO_TENANTS,
        clock: Clock = utc_now,
    ) -> Self:
        """
        Return limits per minute that *callers* counts; *client* may be 0: none.

        *tenants* are the limits of tenants by name.
        """
        limit = partial(RateLimit, callers=callers, clock=clock)

        def of_tenants(kind: str, most: int) -> RateLimit:
            return limit(kind, most, batch=max(1, most // 10))

        return cls(
            limit("refused", refused),
            limit("audited", 2 * refused),
            limit("administration", administration),
            limit("reading", READS_PER_CHANGE * administration),
            of_tenants("signatures", signatures),
            of_tenants("client", client) if client else None,
            {name: of_tenants("client", most) for name, most in tenants.items()},
        )


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


@dataclass(eq=False, repr=False)
class AccessPolicy:
    """Finds tenants, applies rate limits, uses tokens up, and audits refusals."""

    callers: SharedState
    limits: RateLimits
    audit: AuditLog
    clock: Clock
    tenants: TenantRegistry

    def check_peer(self, request: AccessRequest) -> None:
        """
        Refuse *request*, before its token is verified, if its peer is over the limit.

        Raises:
            RateLimitedError: Too many requests of this peer were refused.
        """
        # Not audited: the first refusal over the limit already was.
        if self.limits.refused.is_over(_counted_as(request)):
            raise self.limits.refused.exceeded()

    def find_tenant(self, caller: Principal, permission: Permission) -> str | None:
        """
        Return the tenant of *caller*; None if *permission* is not for tenants.

        Raises:
            UnknownTenantError: The caller has no tenant.
        """
        if not permission.for_tenants:
            return None
        return self.tenants.find(caller.sub, caller.client_id)

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
        limit = self.limits.administration if changes else self.limits.reading
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
        name, limit = f"subject {caller.sub}", self.limits.client
        if tenant is not None:
            name, limit = tenant, self.limits.of_tenant(tenant)
        if limit and limit.take(name) is not RateLimitStatus.WITHIN:
            raise limit.exceeded()

    def count_signature(self, tenant: str) -> None:
        """
        Count a message that *tenant* has signed, if no limit counts its requests.

        Raises:
            RateLimitedError: It has had too many messages signed.
        """
        limit = self.limits.signatures
        if (
            self.limits.of_tenant(tenant) is None
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
        limit, administrative = self.limits.refused, request.permission.administrative
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
            now = self.clock()
            # A host whose clock is slow accepted it.  Its use may be forgotten.
            if until <= now:
                raise AuthenticationError(TOKEN_EXPIRED)
            is_first_use = self.callers.use_token(caller.jti, until, now)
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
        status = self.limits.audited.take(actor.name, require_store=True)
        if status is RateLimitStatus.OVER:
            return
        if status is RateLimitStatus.FIRST_OVER:
            outcome = NOT_AUDITED
        record = self.audit.result(
            AuditAction.ADMIN_ACCESS,
            Operation.ADMINISTRATION,
            actor,
            outcome=outcome,
            route=request.route,
            method=request.method,
            peer=request.peer,
        )
        try:
            self.audit.write(record)
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
