"""Clock, keys and tokens for the tests of the API."""

import base64
import io
import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from falcon.testing import Result, TestClient

from api.auth.jwt_verifier import JWTVerifier
from api.backend_factories import open_token_keys
from signer.config.settings import Settings
from signer.ports.clock import Clock, utc_now


NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
ISSUER = "https://issuer.example"
AUDIENCE = "hotwallet"

ES256_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
ED25519_KEY = ed25519.Ed25519PrivateKey.generate()
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)

Json = dict[str, Any]


class SettableClock:
    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def make_verifier(settings: Settings, clock: Clock = utc_now) -> JWTVerifier:
    """Return a verifier with the keys that *settings* name."""
    return JWTVerifier(
        open_token_keys(settings),
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        clock=clock,
    )


def claims(now: datetime = NOW, **changes: Any) -> Json:
    """Return good claims, with *changes*; ``...`` leaves a claim out."""
    moment = int(now.timestamp())
    good: Json = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "gateway-1",
        "jti": "0123456789abcdef",
        "iat": moment,
        "nbf": moment,
        "exp": moment + 300,
        "roles": ["merchant"],
    }
    return {name: value for name, value in (good | changes).items() if value is not ...}


def header(**changes: Any) -> Json:
    good: Json = {"alg": "ES256", "typ": "at+jwt"}
    return {name: value for name, value in (good | changes).items() if value is not ...}


def segment(part: Json | bytes) -> str:
    """Return *part* in base64url, as JSON if it is not bytes yet."""
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(
    head: Json | bytes, payload: Json | bytes, key: Any = ES256_KEY, alg: str = "ES256"
) -> str:
    """Return a compact token with a valid signature over any parts."""
    text = f"{segment(head)}.{segment(payload)}"
    signature = jwt.get_algorithm_by_name(alg).sign(text.encode(), key)
    return f"{text}.{segment(signature)}"


def token(now: datetime = NOW, **changes: Any) -> str:
    return signed(header(), claims(now, **changes))


def bearer(now: datetime = NOW, **changes: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(now, **changes)}"}


_keys = itertools.count(1)


def post(client: TestClient, body: Any, **headers: str) -> Result:
    """Request a refund; *body* is JSON unless it is text; the key is new by default."""
    return client.simulate_post(
        "/v1/refunds",
        body=body if isinstance(body, bytes | str) else json.dumps(body),
        headers={
            "Content-Type": "application/json",
            "Idempotency-Key": f"key-{next(_keys)}",
            **bearer(),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        },
    )


def get(client: TestClient, path: str, **claims: Any) -> Result:
    return client.simulate_get(path, headers=bearer(**claims))


def lines(log: io.StringIO) -> list[Json]:
    return [json.loads(line) for line in log.getvalue().splitlines()]
