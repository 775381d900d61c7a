"""JSON over HTTP with a JWT, by the standard library: none of the service's code."""

import http.client
import json
import secrets
import time
from pathlib import Path
from typing import Any

import jwt


NO_RESPONSE = (OSError, http.client.HTTPException, ValueError)
"""No response, or an unreadable one: the service may or may not have acted."""

TOKEN_SECONDS = 240


def mint_token(key_file: Path, subject: str, **claims: Any) -> str:
    """Return a JWT of *subject* that is good for ``TOKEN_SECONDS``."""
    now = int(time.time())
    claims |= {
        "iss": "hotwallet",
        "aud": "hotwallet",
        "sub": subject,
        "jti": secrets.token_hex(16),
        "iat": now,
        "nbf": now,
        "exp": now + TOKEN_SECONDS,
    }
    key = key_file.read_text(encoding="utf-8")
    return jwt.encode(claims, key, "ES256", {"typ": "at+jwt"})


def request(
    port: int,
    method: str,
    path: str,
    *,
    token: str,
    body: dict[str, Any] | None = None,
    seconds: float,
    **headers: str,
) -> tuple[int, dict[str, Any], bytes]:
    """
    Return the status, the JSON object and the bytes of the response.

    Raises:
        OSError, http.client.HTTPException, ValueError: See ``NO_RESPONSE``.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    headers = {"Authorization": f"Bearer {token}", **headers}
    content = None
    if body is not None:
        headers["Content-Type"] = "application/json"
        content = json.dumps(body)
    try:
        connection.request(method, path, content, headers)
        response = connection.getresponse()
        raw = response.read()
    finally:
        connection.close()
    document = json.loads(raw)
    if not isinstance(document, dict):
        raise ValueError("not an object")  # noqa: TRY004  Retried as the others.
    return response.status, document, raw
