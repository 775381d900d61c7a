"""Administrators, and what they ask of the service."""

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
"""The claims of one who may do all that these tests do."""

REFUSED: dict[str, dict[str, Any]] = {
    "merchant": {"roles": ["merchant"]},
    "nobody": {"roles": []},
    "no scope": {"scope": ...},
    "another scope": {"scope": "keys:sweep"},
}
"""The claims of those who may not."""


def authorized(**claims: Any) -> dict[str, str]:
    """Return the header of an administrator's new token, with other *claims*."""
    return bearer(**{**ADMIN, "jti": f"token-{next(_ids)}", **claims})


def asked(client: TestClient, path: str, body: Any, **claims: Any) -> Result:
    """Post *body*, which is JSON unless it is text, with a new token."""
    return client.simulate_post(
        path,
        body=body if isinstance(body, str) else json.dumps(body),
        headers={"Content-Type": "application/json", **authorized(**claims)},
    )
