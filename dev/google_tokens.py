"""
Google's OAuth endpoint for one service account: assertions in, access tokens out.

It is RFC 7523 as Google serves it at ``https://oauth2.googleapis.com/token``
(https://developers.google.com/identity/protocols/oauth2/service-account#httprest).
"""

import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)


_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"  # RFC 7523
_AUDIENCE = "https://oauth2.googleapis.com/token"
_SCOPES = {
    "https://www.googleapis.com/auth/cloudkms",
    "https://www.googleapis.com/auth/cloud-platform",
}


class TokenIssuer:
    """Issues tokens that are valid for ``seconds``."""

    def __init__(self) -> None:
        self.seconds = 3600
        self._account = rsa.generate_private_key(65537, 2048)
        self._tokens: dict[str, float] = {}

    def issue(self, form: bytes) -> Mapping[str, Any] | None:
        """Return the answer to a request, or None if the assertion is invalid."""
        fields = parse_qs(form.decode())
        try:
            claims = jwt.decode(
                fields["assertion"][0],
                self._account.public_key(),
                algorithms=["RS256"],
                audience=_AUDIENCE,
            )
            is_good = fields["grant_type"] == [_GRANT] and claims["scope"] in _SCOPES
        except (KeyError, jwt.InvalidTokenError):
            is_good = False
        if not is_good:
            return None
        token = f"ya29.{secrets.token_urlsafe(60)}"
        self._tokens[token] = time.time() + self.seconds
        return {
            "access_token": token,
            "expires_in": self.seconds,
            "token_type": "Bearer",
        }

    def accepts(self, authorization: str) -> bool:
        """Return whether the header *authorization* has a valid token."""
        scheme, _, token = authorization.partition(" ")
        return scheme == "Bearer" and self._tokens.get(token, 0) > time.time()

    def revoke(self) -> None:
        """Forget all tokens."""
        self._tokens.clear()

    def write_credentials(self, file: Path, endpoint: str) -> None:
        """Write the account's key, which is used at *endpoint*, to *file*."""
        private_key = self._account.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        document = {
            "type": "service_account",
            "project_id": "example-project",
            "private_key_id": hashlib.sha256(private_key).hexdigest()[:40],
            "private_key": private_key.decode(),
            "client_email": "refund-signer@example-project.iam.gserviceaccount.com",
            "client_id": "100000000000000000000",
            "token_uri": f"{endpoint}/token",
        }
        file.touch(mode=0o600)
        file.write_text(json.dumps(document), encoding="utf-8")
