"""Batches of refunds, as a gateway sends them."""

import json
from typing import Any

from falcon.testing import Result, TestClient

from tests.api.service import BODY
from tests.api.support import bearer, get


def member(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a member of a batch; ``...`` leaves a field out."""
    whole = {
        "idempotency_key": f"key-{number}",
        **BODY,
        "payment_session_id": f"ps_{number}",
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not ...}


def without_key(given: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in given.items() if name != "idempotency_key"}


def submit(client: TestClient, *members: Any, **headers: str) -> Result:
    return send(client, {"refunds": members}, **headers)


def send(client: TestClient, body: Any, **headers: str) -> Result:
    return client.simulate_post(
        "/v1/refunds/batch",
        body=body if isinstance(body, bytes | str) else json.dumps(body),
        headers={
            "Content-Type": "application/json",
            **bearer(),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        },
    )


def statuses(answer: Result) -> list[int]:
    return [each["status"] for each in answer.json["results"]]


def codes(answer: Result) -> list[str | None]:
    results = answer.json["results"]
    return [each.get("problem", {}).get("code") for each in results]


def stored(client: TestClient, **claims: Any) -> list[Any]:
    listed: list[Any] = get(client, "/v1/refunds", **claims).json["refunds"]
    return listed
