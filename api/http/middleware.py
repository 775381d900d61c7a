"""What happens around every request: its id, its log line, and the gate."""

import time
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, ClassVar

import falcon
import structlog

from api.auth.authorization import (
    AccessControl,
    Attempt,
    RequiredRights,
    require_rights,
)
from api.auth.jwt_verifier import JWTVerifier
from api.request_context import (
    Network,
    Principal,
    came_through,
    peer_address,
    request_id,
)
from signer.errors import (
    AuthenticationError,
    NotThroughProxyError,
    PermissionDeniedError,
)


# HSTS binds browsers only, and is harmless elsewhere; the rest keeps answers
# out of caches and out of any browser's hands (OWASP REST security cheat sheet).
SECURITY_HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Strict-Transport-Security": "max-age=63072000; includeSubDomains",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}

# What is counted against whoever caused it.
_REFUSALS = (AuthenticationError, PermissionDeniedError, NotThroughProxyError)

_log = structlog.get_logger("api.requests")


class Resource:
    """
    What a route leads to.

    Each kind declares ``required_role``: the role that may call it, or several of
    which one suffices; ``None`` opens it to anyone.  One that forgets to say so
    answers 500, and lets nobody in.  ``required_scope`` narrows that for tokens with
    scopes, and may differ by method.  What is administrative is counted, audited and
    done by a token once, and has a scope that every token needs.  What needs a token
    is reached through the proxy alone, where one is named, unless ``past_proxy``.
    """

    required_role: ClassVar[str | frozenset[str] | None]
    required_scope: ClassVar[str | Mapping[str, str] | None] = None
    is_administrative: ClassVar[bool] = False
    past_proxy: ClassVar[bool] = False
    methods: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls) -> None:
        """Read from the ``on_`` methods what the header ``Allow`` will say."""
        super().__init_subclass__()
        cls.methods = tuple(
            name.removeprefix("on_").upper()
            for name in sorted(dir(cls))
            if name.startswith("on_")
        )
        role = getattr(cls, "required_role", None)
        if cls.is_administrative and not (role and cls.required_scope):
            raise TypeError(f"{cls.__name__} needs a role and a scope")

    @classmethod
    def needs(cls, method: str) -> RequiredRights | None:
        """Return what a token must allow here; ``None`` where nobody needs one."""
        role = cls.required_role
        if role is None:
            return None
        roles = frozenset({role}) if isinstance(role, str) else role
        scope = cls.required_scope
        if isinstance(scope, Mapping):
            scope = scope[method]
        return RequiredRights(roles, scope, cls.is_administrative, cls.past_proxy)


class RequestLog:
    """
    Names each request, and writes one canonical line when it is answered.

    The line has neither query strings nor bodies nor tokens, and of the path only
    the route's template: what the caller chose is not ours to repeat.
    """

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Start the clock, and bind the id to everything that is logged."""
        req.context.started = time.perf_counter()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id(req))

    def process_response(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        resource: object,
        req_succeeded: bool,
    ) -> None:
        """Set the headers that every answer has, and write the line."""
        resp.set_headers(SECURITY_HEADERS)
        resp.set_header("X-Request-Id", request_id(req))
        _log.info("request", **_canonical(req, resp))
        structlog.contextvars.clear_contextvars()


class AuthorizationMiddleware:
    """Lets a request through to its resource: method, token, rights, and how often."""

    def __init__(
        self,
        authenticator: JWTVerifier,
        access: AccessControl | None = None,
        *,
        proxies: Sequence[Network] = (),
    ) -> None:
        """
        Take tokens to *authenticator*, and count, audit and limit with *access*.

        Without *access* nothing is limited, and nothing administrative is served.
        *proxies* are those whose word is taken for where a request came from; if any
        are given, requests must come from them.
        """
        self._authenticator = authenticator
        self._access = access
        self._proxies = proxies
        self._untold = Lock()  # Taken by whoever tells of an unreadable proxy first.

    def process_resource(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        resource: object,
        params: dict[str, Any],
    ) -> None:
        """
        Refuse *req* here, before its body is read.

        Raises:
            falcon.HTTPMethodNotAllowed: OPTIONS too, as nobody needs CORS here.
            AuthenticationError: No token, not one of ours, or used up.
            PermissionDeniedError: A good token without the role or the scope.
            NotThroughProxyError: It came past the proxy; its token was not looked at.
            RateLimitedError: Too many requests, or refused ones.
            StoreUnavailableError: It could not be made sure that none of this holds.
        """
        if not isinstance(resource, Resource):
            raise TypeError("a route leads to something that is no Resource")
        if req.method not in resource.methods:
            raise falcon.HTTPMethodNotAllowed(resource.methods)
        needs = resource.needs(req.method)
        if needs is None:
            return
        if self._access is not None:
            self._judge(req, needs, self._access)
        elif needs.administrative:
            raise TypeError("an administrative route needs a gate with access")
        else:
            self._identify(req, needs)

    def _judge(
        self, req: falcon.Request, needs: RequiredRights, access: AccessControl
    ) -> None:
        attempt = Attempt(
            needs=needs,
            method=req.method,
            route=req.uri_template,
            peer=peer_address(req, self._proxies, at_a_loss=self._tell),
            request_id=request_id(req),
        )
        access.turn_away(attempt)
        try:
            access.admit(self._identify(req, needs), attempt)
        except _REFUSALS as e:
            access.refuse(e, attempt, req.context.get("principal"))

    def _identify(self, req: falcon.Request, needs: RequiredRights) -> Principal:
        if not (needs.past_proxy or came_through(req, self._proxies)):
            _log.warning("proxy-bypassed", peer=peer_address(req, self._proxies))
            raise NotThroughProxyError("requests are taken from the proxy only")
        caller = self._authenticator.authenticate(req.get_header("Authorization"))
        req.context.principal = caller
        require_rights(caller, needs)
        return caller

    def _tell(self, proxy: str) -> None:
        """Log, once in the life of this process, that *proxy* names nobody."""
        if self._untold.acquire(blocking=False):
            _log.warning("forwarded-address-unreadable", proxy=proxy)


def _canonical(req: falcon.Request, resp: falcon.Response) -> dict[str, object]:
    # Falcon answers the pseudo-method WEBSOCKET before anything was started.
    now = time.perf_counter()
    started: float = req.context.get("started") or now
    caller = req.context.get("principal")
    line: dict[str, object] = {
        # Bound as well; repeated for the requests that never got that far.
        "request_id": request_id(req),
        "method": req.method,
        "route": req.uri_template,
        "status": resp.status_code,
        "duration_ms": round((now - started) * 1000, 3),
        "client": caller.sub if caller else None,
    }
    refusal = req.context.get("refusal")
    return line | ({"refusal": refusal} if refusal else {})
