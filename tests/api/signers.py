"""Tokens and requests of programs that have something signed."""

import json
from typing import Any

from falcon.testing import Result, TestClient

from tests.api.support import bearer


def signer_token(**claims: Any) -> dict[str, str]:
    return bearer(**{"roles": ["signer"], **claims})


def rpc(client: TestClient, body: Any, path: str = "/rpc", **headers: str) -> Result:
    """Post *body*, which is JSON unless it is bytes or text."""
    return client.simulate_post(
        path,
        body=body if isinstance(body, bytes | str) else json.dumps(body),
        headers={
            **signer_token(),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        },
    )


def call(client: TestClient, method: str, *params: Any, **headers: str) -> Any:
    request = {"jsonrpc": "2.0", "id": 7, "method": method, "params": list(params)}
    answer = rpc(client, request, **headers)
    assert answer.status_code == 200, answer.text
    assert answer.json["id"] == 7
    return answer.json


def sign(client: TestClient, what: str, **body: Any) -> Result:
    """Post *body* to ``/v1/sign/`` and *what*."""
    return client.simulate_post(
        f"/v1/sign/{what}",
        body=json.dumps(body),
        headers={"Content-Type": "application/json", **signer_token()},
    )
