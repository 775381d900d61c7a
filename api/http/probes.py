"""The probes ``/healthz`` (liveness) and ``/readyz`` (readiness)."""

from collections.abc import Callable

import falcon
from falcon import Request, Response

from api.health.readiness import Readiness
from api.http.middleware import Resource


class Liveness(Resource):
    """``/healthz``: the process answers.  No dependency is checked."""

    required_role = None
    is_probe = True

    def on_get(self, req: Request, resp: Response) -> None:
        """Answer 200."""
        resp.media = {"status": "ok"}

    on_head = on_get


class ReadinessProbe(Resource):
    """``/readyz``: whether a load balancer should send requests to this process."""

    required_role = None
    is_probe = True

    def __init__(self, readiness: Callable[[], Readiness]) -> None:
        self._readiness = readiness

    def on_get(self, req: Request, resp: Response) -> None:
        """Report the state of each dependency, and the active key."""
        readiness = self._readiness()

        if not readiness.ready:
            resp.status = falcon.HTTP_SERVICE_UNAVAILABLE
        resp.media = {
            "status": _status(readiness),
            "checks": dict(readiness.checks),
            "address": readiness.address,
            "epoch": readiness.epoch,
        }

    on_head = on_get


def _status(readiness: Readiness) -> str:
    if not readiness.ready:
        return "unavailable"
    return "degraded" if readiness.degraded else "ready"
