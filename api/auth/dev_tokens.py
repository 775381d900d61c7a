"""
Mints tokens for development, for ``hotwallet token``.

In production an identity provider mints tokens, and this module refuses to.
"""

import secrets
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from api.auth.jwt_verifier import MAX_LIFETIME, SCOPE, TOKEN_TYPE, Role
from signer.config.settings import Settings
from signer.errors import ConfigurationError, InvalidInputError, Refusal
from signer.ports.clock import Clock, utc_now
from signer.private_files import create_once, write_whole


def mint(
    settings: Settings,
    *,
    subject: str,
    roles: Sequence[Role],
    scopes: Sequence[str] = (),
    lifetime: timedelta = timedelta(seconds=MAX_LIFETIME),
    key_id: str | None = None,
    clock: Clock = utc_now,
) -> str:
    """
    Return a token that a service with *settings* accepts.

    Without *scopes* the token has no ``scope`` claim, and its roles alone decide.
    *key_id* becomes the ``kid``, which is required if the service reads a JWKS file.

    Raises:
        ConfigurationError: ``dev-tokens-forbidden`` in production;
            ``jwt-not-configured`` if there is no key to sign with.
        InvalidInputError: *lifetime* is not from 1 to 300 seconds, or a scope is not
            valid (RFC 6749, section 3.3).
    """
    seconds = int(lifetime.total_seconds())
    if not 0 < seconds <= MAX_LIFETIME:
        problem = f"must be from 1 to {MAX_LIFETIME} seconds"
        raise InvalidInputError(problem, field="lifetime")
    if scopes and not SCOPE.fullmatch(" ".join(scopes)):
        raise InvalidInputError("must be words of visible ASCII", field="scope")
    key = _signing_key(settings)
    now = int(clock().timestamp())
    claims = {
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "sub": subject,
        "jti": secrets.token_hex(16),
        "iat": now,
        "nbf": now,
        "exp": now + seconds,
        "roles": list(roles),
    } | ({"scope": " ".join(scopes)} if scopes else {})
    headers = {"typ": TOKEN_TYPE} | ({"kid": key_id} if key_id else {})
    return jwt.encode(claims, key, settings.jwt_algorithm, headers)


def provide_signing_key(private: Path, public: Path) -> None:
    """
    Make sure that *private* holds an ES256 key and *public* its public key.

    An existing private key is kept.  Several processes may call this at once and be
    killed at any time: each file is written completely or not at all.
    """
    for path in (private, public):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    create_once(
        private,
        lambda: ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        ),
    )
    key = load_pem_private_key(private.read_bytes(), password=None)
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    write_whole(public, pem)


def _signing_key(settings: Settings) -> str | bytes:
    if settings.is_production:
        raise _refusal("dev-tokens-forbidden", "get tokens from the identity provider")
    if settings.jwt_secret is not None:
        return settings.jwt_secret.get_secret_value()
    if settings.jwt_signing_key_file is None:
        raise _refusal("jwt-not-configured", "set JWT_SIGNING_KEY_FILE or JWT_SECRET")
    try:
        return settings.jwt_signing_key_file.read_bytes()
    except OSError as e:
        problem = f"JWT_SIGNING_KEY_FILE cannot be read ({type(e).__name__})"
        raise _refusal("jwt-key-invalid", problem) from None


def _refusal(code: str, message: str) -> ConfigurationError:
    return ConfigurationError(Refusal(code, message))
