"""Tokens and requests of administrators."""

import itertools
import json
from typing import Any

from falcon.testing import Result, TestClient

from tests.api.support import bearer


_ids = itertools.count(1)

ADMIN: dict[str, Any] = {
    "roles": ["admin"],
    "scope": "keys:rotate keys:read",
    "sub": "alice",
}
"""The claims of an administrator with all permissions of these tests."""

UNAUTHORIZED: dict[str, dict[str, Any]] = {
    "merchant": {"roles": ["merchant"]},
    "no role": {"roles": []},
    "no scope": {"scope": ...},
    "another scope": {"scope": "keys:sweep"},
}
"""Claims without these permissions."""


def authorized(**claims: Any) -> dict[str, str]:
    """Return a header with a new token of an administrator, with other *claims*."""
    return bearer(**{**ADMIN, "jti": f"token-{next(_ids)}", **claims})


def post_as_admin(client: TestClient, path: str, body: Any, **claims: Any) -> Result:
    """Post *body*, which is JSON unless it is text, with a new token."""
    return client.simulate_post(
        path,
        body=body if isinstance(body, str) else json.dumps(body),
        headers={"Content-Type": "application/json", **authorized(**claims)},
    )
