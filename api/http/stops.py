"""The kill switch: stop signing, resume it, and list the stops in force."""

from typing import Any

from falcon import Request, Response

from api.http import query
from api.http.body import read_object
from api.http.middleware import Resource
from api.request_context import actor
from api.views.stops import stop_documents
from signer.errors import InvalidInputError
from signer.refunds.kill_switch import KillSwitch, SwitchResult


_FIELDS = ("network", "reason")


class _StopResource(Resource):
    required_role = frozenset({"admin", "devops"})
    required_scope = "signing:stop"
    is_administrative = True

    def __init__(self, kill_switch: KillSwitch) -> None:
        self._kill_switch = kill_switch


class SigningStop(_StopResource):
    """``/v1/admin/stop``: stops signatures on every host."""

    def on_post(self, req: Request, resp: Response) -> None:
        """Stop one network, or everything; repeating it is safe."""
        network, reason = _read_body(req)
        result = self._kill_switch.stop(network, reason, actor(req))

        resp.media = self._document(network, result, "stopped", "already-stopped")

    def _document(
        self, network: str | None, result: SwitchResult, done: str, unchanged: str
    ) -> dict[str, Any]:
        return {
            "status": done if result.changed else unchanged,
            "network": network,
            "stops": stop_documents(result.stops, self._kill_switch.names()),
        }


class SigningResume(SigningStop):
    """``/v1/admin/resume``: ends a stop."""

    def on_post(self, req: Request, resp: Response) -> None:
        """End the stop of one network, or of everything; repeating it is safe."""
        network, reason = _read_body(req)
        result = self._kill_switch.resume(network, reason, actor(req))

        resp.media = self._document(network, result, "resumed", "not-stopped")


class Stops(_StopResource):
    """``/v1/admin/stops``: lists the stops in force."""

    def on_get(self, req: Request, resp: Response) -> None:
        """List the stops, a stop of everything first."""
        query.parameters(req)
        stops = self._kill_switch.stops()

        resp.media = {"stops": stop_documents(stops, self._kill_switch.names())}


def _read_body(req: Request) -> tuple[str | None, str]:
    """Return the network, None for everything, and the reason."""
    query.parameters(req)
    body = read_object(req)
    for name, value in body.items():
        if name not in _FIELDS:
            raise InvalidInputError(
                f"has an unknown field; this request takes {', '.join(_FIELDS)}",
                field="body",
            )
        if not isinstance(value, str):
            raise InvalidInputError("must be a string", field=name)
    return body.get("network"), body.get("reason", "")
