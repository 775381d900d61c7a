"""Batches of a tenant that signs its requests (RFC 9421)."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import TestClient

from api.http.app import create_app
from backends.sql import SQLStore
from tests.api.batches import member, statuses, stored, submit
from tests.api.service import BODY, build_container
from tests.api.support import NOW, SettableClock, bearer
from tests.support.signed_requests import RequestKey, signing_tenants


DOCS = Path(__file__).resolve().parents[3] / "docs"

KEY = RequestKey()


@pytest.fixture
def signing(sqlite_store: SQLStore, clock: SettableClock) -> TestClient:
    tenants = signing_tenants(KEY)
    return TestClient(create_app(build_container(sqlite_store, clock, tenants=tenants)))


def signed_member(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a member with the body of a single request, and its signature."""
    key = f"key-{number}"
    body = json.dumps({**BODY, "payment_session_id": f"ps_{number}"})
    headers = KEY.headers(body.encode(), key, NOW)
    whole = {
        "idempotency_key": key,
        "body": body,
        "content_digest": headers["Content-Digest"],
        "signature_input": headers["Signature-Input"],
        "signature": headers["Signature"],
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not ...}


def test_a_signed_member_is_stored_as_the_tenant_signed_it(
    signing: TestClient, sqlite_store: SQLStore
) -> None:
    """A worker verifies it as it verifies a single request."""
    given = signed_member(1)
    answer = submit(signing, given, signed_member(2), member(3))
    first, _, unsigned = answer.json["results"]
    kept = sqlite_store.signed_request(first["refund"]["id"])

    assert statuses(answer) == [201, 201, 400]
    assert unsigned["problem"]["code"] == "request-signature-invalid"
    assert kept is not None
    assert kept.body == given["body"].encode()
    assert kept.signature_input == given["signature_input"]
    assert (kept.content_digest, kept.at) == (given["content_digest"], NOW)
    assert kept.signature == given["signature"]


def test_the_example_of_the_guide_makes_a_member(signing: TestClient) -> None:
    """The Python code of the guide, as it is printed there."""
    guide = DOCS / "how-to" / "sign-requests.md"
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", guide.read_text("utf-8"), re.DOTALL):
        exec(compile(code, str(guide), "exec"), names)
    request = names["signed_request"](
        "https://x", "token", "hotwallet", "key-1", BODY, KEY.pem
    )
    given = names["batch_member"](request)

    # The guide signs at the present time, and the service's clock stands still.
    headers = KEY.headers(given["body"].encode(), "key-1", NOW)
    answer = submit(
        signing,
        given
        | {
            "signature_input": headers["Signature-Input"],
            "signature": headers["Signature"],
        },
    )

    assert given.keys() == signed_member().keys()
    assert statuses(answer) == [201]


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"idempotency_key": "other"}, "request-signature-invalid", None),
        ({"signature": "sig1=:AAAA:"}, "request-signature-invalid", None),
        ({"signature": ...}, "invalid-input", "signature"),
        ({"signature": 1}, "invalid-input", "signature"),
        ({"signature_input": "x" * 5000}, "invalid-input", "signature_input"),
        ({"body": {}}, "invalid-input", "body"),
        ({"body": "x" * 17_000}, "invalid-input", "body"),
        ({"body": "[]"}, "invalid-input", None),
        (
            {"body": json.dumps(BODY | {"amount": "1"})},
            "request-signature-invalid",
            None,
        ),
        ({"amount": "1"}, "invalid-input", "amount"),
    ],
)
def test_a_member_without_a_valid_signature_is_refused(
    signing: TestClient, changes: dict[str, Any], code: str, field: str | None
) -> None:
    answer = submit(signing, signed_member(1, **changes), signed_member(2))
    refused, accepted = answer.json["results"]

    assert (refused["status"], accepted["status"]) == (400, 201)
    assert refused["problem"]["code"] == code
    assert refused["problem"].get("field") == field
    assert len(stored(signing)) == 1


def test_a_signature_of_a_tenant_that_does_not_sign_is_ignored(
    signing: TestClient, sqlite_store: SQLStore
) -> None:
    answer = submit(signing, signed_member(signature="x"), **bearer(sub="unsigned"))
    (result,) = answer.json["results"]

    assert result["status"] == 201
    assert sqlite_store.signed_request(result["refund"]["id"]) is None
