"""The middleware around every request: request id, access log and authorization."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any, ClassVar, NoReturn

import falcon
import structlog
from falcon import Request, Response

from api.auth.authorization import (
    AccessPolicy,
    AccessRequest,
    Permission,
    require_permission,
)
from api.auth.jwt_verifier import JWTVerifier
from api.http.body import require_no_body
from api.principal import Network, Principal
from api.request_context import TENANT, is_from_proxy, peer_address, request_id
from signer.errors import (
    AuthenticationError,
    NotThroughProxyError,
    PermissionDeniedError,
)


# OWASP REST security cheat sheet: no caching, and no use of an answer by a browser.
SECURITY_HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Strict-Transport-Security": "max-age=63072000; includeSubDomains",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

# Counted against the peer.
_REFUSALS = (AuthenticationError, PermissionDeniedError, NotThroughProxyError)

_FIRST_ERROR = 400

_log = structlog.get_logger("api.requests")


class Resource:
    """
    The handler of a route; subclasses declare who may call it.

    ``required_role`` is one role, or several of which one suffices.  None makes the
    route public.  A class without the attribute answers 500 to every request.
    ``required_scope`` applies to tokens with scopes, and may differ by method.

    Requests for an ``is_administrative`` route are rate limited and audited, a token
    can change something once, and every token needs the scope.

    Where ``TRUSTED_PROXIES`` is set, requests that need a token must come through a
    proxy, unless ``allows_direct``.

    The caller of a route that ``is_for_tenants`` must belong to a tenant.

    The requests of a route that ``only_reads`` use no token up, also with POST.

    A body is refused if the method is not POST, or the route not one that
    ``takes_body``: nothing would read it.  Probes may have one.

    A route that ``is_probe`` is asked every few seconds: the log has its failures, and
    the first success after one.

    ``content_policy`` replaces the ``Content-Security-Policy``, for pages.
    """

    required_role: ClassVar[str | frozenset[str] | None]
    required_scope: ClassVar[str | Mapping[str, str] | None] = None
    is_administrative: ClassVar[bool] = False
    allows_direct: ClassVar[bool] = False
    is_for_tenants: ClassVar[bool] = False
    only_reads: ClassVar[bool] = False
    is_probe: ClassVar[bool] = False
    takes_body: ClassVar[bool] = True
    content_policy: ClassVar[str | None] = None
    methods: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls) -> None:
        """Collect the methods for the header ``Allow`` from the ``on_`` methods."""
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
    def permission(cls, method: str) -> Permission | None:
        """Return what a token must grant for *method*; None if the route is public."""
        role = cls.required_role
        if role is None:
            return None
        roles = frozenset({role}) if isinstance(role, str) else role
        scope = cls.required_scope
        if isinstance(scope, Mapping):
            scope = scope[method]
        return Permission(
            roles,
            scope,
            administrative=cls.is_administrative,
            allows_direct=cls.allows_direct,
            for_tenants=cls.is_for_tenants,
        )

    def authenticate(self, req: Request, verifier: JWTVerifier) -> Principal:
        """
        Return the caller: here the subject of the bearer token.

        Raises:
            AuthenticationError: The credentials are missing or invalid.
        """
        return verifier.authenticate(req.get_header("Authorization"))


class RequestLog:
    """
    Gives each request an id, and logs one line when it is answered.

    The line has no query string, body or token, and the route's template instead of
    the path: they may hold secrets of the caller.  Only at the level ``debug``, a probe
    that succeeds again is logged too.
    """

    def __init__(
        self, answered: Callable[[str, str | None, int, float], None] | None = None
    ) -> None:
        """Call *answered* with method, route, status and seconds; not for probes."""
        self._answered = answered
        self._succeeding = set[str]()  # Probes whose last answer was no error.

    def process_request(self, req: Request, resp: Response) -> None:
        """Start the timer, and bind the request id to all log events."""
        req.context.started = time.perf_counter()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id(req))

    def process_response(
        self, req: Request, resp: Response, resource: object, req_succeeded: bool
    ) -> None:
        """Set the headers of every answer, and log the request."""
        resp.set_headers(SECURITY_HEADERS)
        policy = getattr(resource, "content_policy", None)
        if policy is not None:
            resp.set_header("Content-Security-Policy", policy)
        resp.set_header("X-Request-Id", request_id(req))
        # Falcon answers the pseudo-method WEBSOCKET without calling process_request.
        now = time.perf_counter()
        started: float = req.context.get("started") or now
        caller = req.context.get("principal")
        tenant = req.context.get("tenant")
        refusal = req.context.get("refusal")
        if self._answered is not None and not getattr(resource, "is_probe", False):
            self._answered(
                req.method, req.uri_template, resp.status_code, now - started
            )
        _log.log(
            self._level(req, resp, resource),
            "request",
            # Bound as well, except for requests that skipped process_request.
            request_id=request_id(req),
            method=req.method,
            route=req.uri_template,
            status=resp.status_code,
            duration_ms=round((now - started) * 1000, 3),
            client=caller.sub if caller else None,
            **({"tenant": tenant} if tenant else {}),
            **({"refusal": refusal} if refusal else {}),
        )
        structlog.contextvars.clear_contextvars()

    def _level(self, req: Request, resp: Response, resource: object) -> int:
        if not getattr(resource, "is_probe", False):
            return logging.INFO
        route = str(req.uri_template)
        if resp.status_code >= _FIRST_ERROR:
            self._succeeding.discard(route)
        elif route in self._succeeding:
            return logging.DEBUG
        else:
            self._succeeding.add(route)
        return logging.INFO


class AuthorizationMiddleware:
    """Checks method, token, permission and rate limits before each request."""

    def __init__(
        self,
        authenticator: JWTVerifier,
        access: AccessPolicy,
        *,
        proxies: Sequence[Network] = (),
    ) -> None:
        """
        Verify tokens with *authenticator*, and limit and audit requests with *access*.

        If there are *proxies*, requests must come through them, and their
        ``X-Forwarded-For`` is trusted.
        """
        self._authenticator = authenticator
        self._access = access
        self._proxies = proxies
        self._unreadable_proxy = Lock()  # Acquired once, by the first to log it.

    def process_resource(
        self, req: Request, resp: Response, resource: object, params: dict[str, Any]
    ) -> None:
        """
        Authorize *req*, before its body is read.

        Raises:
            falcon.HTTPMethodNotAllowed: The route does not have this method.  OPTIONS
                is not answered: there are no browser clients, so no CORS.
            InvalidInputError: It has a body that nothing reads.
            RequestError, StoreUnavailableError: As ``authorize``.
        """
        if not isinstance(resource, Resource):
            raise TypeError("the route's resource is not a Resource")
        if req.method not in resource.methods:
            raise falcon.HTTPMethodNotAllowed(resource.methods)
        permission = resource.permission(req.method)
        if permission is not None:
            self.authorize(
                req,
                permission,
                lambda verifier: resource.authenticate(req, verifier),
                only_reads=resource.only_reads,
            )
        if not (resource.is_probe or (resource.takes_body and req.method == "POST")):
            require_no_body(req)

    def authorize(
        self,
        req: Request,
        permission: Permission,
        authenticate: Callable[[JWTVerifier], Principal],
        *,
        only_reads: bool = False,
    ) -> None:
        """
        Require that the caller whom *authenticate* returns has *permission*.

        Raises:
            NotThroughProxyError: The request did not come through a proxy; its token
                was not verified.
            RequestError, StoreUnavailableError: As *authenticate*,
                ``require_permission`` and ``AccessPolicy``.
        """
        request = self._describe(req, permission, only_reads=only_reads)
        self._access.check_peer(request)
        try:
            caller = self._authenticate(req, permission, authenticate)
            tenant = self._access.find_tenant(caller, permission)
            req.context.tenant = req.env[TENANT] = tenant
            self._access.admit(caller, request, tenant)
        except _REFUSALS as e:
            self._access.refuse(e, request, req.context.get("principal"))

    def refuse(
        self, req: Request, permission: Permission, error: PermissionDeniedError
    ) -> NoReturn:
        """Count and audit a refusal to the caller of *req*; raise *error*."""
        request = self._describe(req, permission, only_reads=False)
        self._access.refuse(error, request, req.context.get("principal"))

    def _describe(
        self, req: Request, permission: Permission, *, only_reads: bool
    ) -> AccessRequest:
        return AccessRequest(
            permission=permission,
            method=req.method,
            route=req.uri_template,
            peer=peer_address(
                req, self._proxies, on_unreadable=self._log_unreadable_proxy
            ),
            request_id=request_id(req),
            only_reads=only_reads,
        )

    def _authenticate(
        self,
        req: Request,
        permission: Permission,
        authenticate: Callable[[JWTVerifier], Principal],
    ) -> Principal:
        if not (permission.allows_direct or is_from_proxy(req, self._proxies)):
            _log.warning("proxy-bypassed", peer=peer_address(req, self._proxies))
            raise NotThroughProxyError("requests must come through the proxy")
        caller = authenticate(self._authenticator)
        req.context.principal = caller
        require_permission(caller, permission)
        return caller

    def _log_unreadable_proxy(self, proxy: str) -> None:
        """Log, once per process, that *proxy* sends no readable client address."""
        if self._unreadable_proxy.acquire(blocking=False):
            _log.warning("forwarded-address-unreadable", proxy=proxy)
