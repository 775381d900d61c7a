"""
The baseline of HTTP: gunicorn and Falcon answer a constant, with our server's settings.

gunicorn reads its settings from here, and serves ``app``.
"""

import json

import falcon
from falcon import Request, Response

from api.server import gunicorn_conf
from signer.config.tenants import TenantRegistry


_ANSWER = json.dumps(
    {"id": "rf_" + "0" * 32, "tx_hash": "0x" + "0" * 64} | {"": 500 * " "}
)

for _name, _value in vars(gunicorn_conf).items():
    if not _name.startswith("_") and _name not in {"on_starting", "warm"}:
        globals()[_name] = _value

max_requests = 0  # A restarted process would be part of the baseline.


class _Constant:
    def on_post(self, req: Request, resp: Response) -> None:
        req.bounded_stream.read()
        resp.status = falcon.HTTP_CREATED
        resp.text = _ANSWER

    def on_get(self, req: Request, resp: Response) -> None:
        resp.media = {}


class _App(falcon.App[Request, Response]):
    tenants = TenantRegistry()  # The server lets their requests wait in turns.


app = _App()
app.add_route("/v1/refunds", _Constant())
app.add_route("/readyz", _Constant())
