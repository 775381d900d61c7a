"""
Who may come in, and what is written down of those who may not.

Roles and scopes say what a token allows.  An administrative call is counted, its token
works once, and its refusal is audited before it is answered.  Whatever of this cannot
be made sure of, because the database does not answer, refuses the call.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

from api.auth.jwt_verifier import LEEWAY, TOKEN_REPLAYED
from api.auth.rate_limits import RateLimits, RateLimitStatus
from api.request_context import Principal, neighbourhood
from signer.audit.log import AuditAction, AuditLog
from signer.errors import (
    AuthenticationError,
    PermissionDeniedError,
    RequestError,
    StoreError,
    StoreUnavailableError,
)
from signer.model.audit_record import Actor, Operation
from signer.ports import Callers, Clock, utc_now


_HARMLESS = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class RequiredRights:
    """
    What a route asks of a token: one of *roles*, and *scope* if it says so.

    ``past_proxy`` says that it need not have come through a proxy.
    """

    roles: frozenset[str]
    scope: str | None
    administrative: bool
    past_proxy: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request, as far as it matters who may make it."""

    needs: RequiredRights
    method: str
    route: str | None
    peer: str
    request_id: str


class AccessControl:
    """Counts attempts, uses tokens up, and audits refusals."""

    def __init__(
        self,
        callers: Callers,
        limits: RateLimits,
        audit: AuditLog,
        clock: Clock = utc_now,
    ) -> None:
        self._callers = callers
        self._limits = limits
        self._audit = audit
        self._clock = clock

    def turn_away(self, attempt: Attempt) -> None:
        """
        Refuse *attempt* before its token is looked at, if its peer had too many.

        Raises:
            RateLimitedError: It had.  No word of it: the flood is on record already.
        """
        if self._limits.refused.is_over(neighbourhood(attempt.peer)):
            raise self._limits.refused.exceeded()

    def admit(self, caller: Principal, attempt: Attempt) -> None:
        """
        Let *caller* in, who may do this by role and scope.

        Raises:
            RateLimitedError: Too many calls of this subject.
            AuthenticationError: ``token-replayed``.
            StoreUnavailableError: An administrative call cannot be counted, or its
                token not be used up.
        """
        if not attempt.needs.administrative:
            self._count_client(caller)
            return
        # Looks are counted apart, since a token that is used up still looks: whoever
        # found one must not keep its subject from changing anything.
        changes = attempt.method not in _HARMLESS
        who = caller.sub if changes else f"{caller.sub} looking"  # No sub has spaces.
        if self._limits.administration.is_over(who):
            raise self._limits.administration.exceeded()
        # Before it is counted: one that is replayed costs its peer, not its subject.
        if changes:
            self._use_token(caller)
        self._count_administrator(who, caller, attempt)

    def refuse(
        self, error: RequestError, attempt: Attempt, caller: Principal | None
    ) -> NoReturn:
        """
        Count the refusal of *attempt* by its peer, and raise *error*, or another one.

        Raises:
            RateLimitedError: It was one too many.
            StoreUnavailableError: The refusal of an administrative call cannot be
                counted or audited.
        """
        limit, firm = self._limits.refused, attempt.needs.administrative
        standing = limit.take(neighbourhood(attempt.peer), firm=firm)
        refusal = error if standing is RateLimitStatus.WITHIN else limit.exceeded()
        if standing is not RateLimitStatus.OVER:
            self._write_down(refusal, attempt, caller)
        raise refusal

    def _count_client(self, caller: Principal) -> None:
        limit = self._limits.client
        if limit is not None and limit.take(caller.sub) is not RateLimitStatus.WITHIN:
            raise limit.exceeded()

    def _count_administrator(
        self, who: str, caller: Principal, attempt: Attempt
    ) -> None:
        limit = self._limits.administration
        standing = limit.take(who, firm=True)
        if standing is RateLimitStatus.WITHIN:
            return
        refusal = limit.exceeded()
        if standing is RateLimitStatus.FIRST_OVER:
            self._write_down(refusal, attempt, caller)
        raise refusal

    def _use_token(self, caller: Principal) -> None:
        # It is believed for as long, and must not be forgotten before.
        until = caller.expires_at + timedelta(seconds=LEEWAY)
        try:
            first = self._callers.use_token(caller.jti, until, self._clock())
        except StoreError as e:
            raise StoreUnavailableError("the token cannot be used up") from e
        if not first:
            raise AuthenticationError(TOKEN_REPLAYED)

    def _write_down(
        self, error: RequestError, attempt: Attempt, caller: Principal | None
    ) -> None:
        if not attempt.needs.administrative:
            return
        # The message of this class is a reason code of ours.
        told = str(error) if isinstance(error, AuthenticationError) else error.code
        actor = Actor(
            caller.sub if caller else "anonymous",
            attempt.request_id,
            caller.jti if caller else None,
        )
        record = self._audit.result(
            AuditAction.ADMIN_ACCESS,
            Operation.ADMINISTRATION,
            actor,
            outcome=told,
            route=attempt.route,
            method=attempt.method,
            peer=attempt.peer,
        )
        try:
            self._audit.write(record)
        except (StoreError, OSError) as e:
            raise StoreUnavailableError("the audit cannot be written") from e


def require_rights(caller: Principal, needs: RequiredRights) -> None:
    """
    Require that *caller*'s token allows what it *needs*.

    A token without a claim ``scope`` has no scopes, and its roles alone decide; but
    for administrative routes, which need the scope as well.

    Raises:
        PermissionDeniedError: It does not.
    """
    if not caller.roles & needs.roles:
        raise PermissionDeniedError(
            f"this needs the role {' or '.join(sorted(needs.roles))}"
        )
    if needs.scope is None:
        return
    if caller.scopes is None and not needs.administrative:
        return
    if needs.scope not in (caller.scopes or ()):
        raise PermissionDeniedError(f"this needs the scope {needs.scope}")
