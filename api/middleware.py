"""What happens around every request: its id, its log line, and the gate."""

import time
from collections.abc import Mapping
from typing import Any, ClassVar

import falcon
import structlog

from api.auth import Authenticator
from api.context import request_id
from signer.errors import PermissionDeniedError


# HSTS binds browsers only, and is harmless elsewhere; the rest keeps answers
# out of caches and out of any browser's hands (OWASP REST security cheat sheet).
SECURITY_HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Strict-Transport-Security": "max-age=63072000; includeSubDomains",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}

_log = structlog.get_logger("api.requests")


class Resource:
    """
    What a route leads to.

    Each kind declares ``required_role``, the role that may call it; ``None`` opens
    it to anyone.  One that forgets to say so answers 500, and lets nobody in.
    """

    required_role: ClassVar[str | None]
    methods: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls) -> None:
        """Read from the ``on_`` methods what the header ``Allow`` will say."""
        super().__init_subclass__()
        cls.methods = tuple(
            name.removeprefix("on_").upper()
            for name in sorted(dir(cls))
            if name.startswith("on_")
        )


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


class Gate:
    """Lets a request through to its resource: method, then token, then role."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

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
            AuthenticationError: No token, or not one of ours.
            PermissionDeniedError: A good token without the role.
        """
        if not isinstance(resource, Resource):
            raise TypeError("a route leads to something that is no Resource")
        if req.method not in resource.methods:
            raise falcon.HTTPMethodNotAllowed(resource.methods)
        role = resource.required_role
        if role is None:
            return
        caller = self._authenticator.authenticate(req.get_header("Authorization"))
        req.context.principal = caller
        if role not in caller.roles:
            raise PermissionDeniedError(f"this needs the role {role}")


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
