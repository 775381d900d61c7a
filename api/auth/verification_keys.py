"""
The keys that tokens are verified with, each bound to one algorithm for good.

There is exactly one source: a public key in PEM, a JWK Set in a file or at a URL
(``api/auth/jwks.py``), or, outside production, an HMAC secret.  A token cannot say
where its key is found (RFC 8725, section 3.10).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from api import strict_json
from signer.config.settings import Settings
from signer.errors import ConfigurationError, InvalidInputError, Refusal


MIN_SECRET_BYTES = 32

KEY_ID = re.compile(r"[A-Za-z0-9._~+=-]{1,128}")

ASYMMETRIC = ("RS256", "PS256", "ES256", "EdDSA")
MAX_BYTES = 64 * 1024

_PEM = "JWT_PUBLIC_KEY_FILE"
_JWKS = "JWT_JWKS_FILE"


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key, and the only algorithm that it may be used with (RFC 8725, 3.1)."""

    algorithm: str
    material: Any = field(repr=False)


class KeySource(Protocol):
    """Where the keys for verifying come from."""

    def find(self, kid: str | None) -> VerificationKey | None:
        """
        Return the key that a token with this ``kid`` must be signed with.

        Raises:
            AuthenticationError: ``token-keys-stale``: no key can be trusted any more.
        """

    def known(self) -> Iterable[VerificationKey]:
        """Return the keys that are trusted at the moment."""


@dataclass(frozen=True, slots=True)
class KeySet:
    """One key for every token (``only``), or several by their ``kid``."""

    only: VerificationKey | None = None
    by_id: Mapping[str, VerificationKey] = field(default_factory=dict)

    def find(self, kid: str | None) -> VerificationKey | None:
        """Return the key that a token with this ``kid`` must be signed with."""
        if self.only is not None:
            return self.only
        return None if kid is None else self.by_id.get(kid)

    def known(self) -> Iterable[VerificationKey]:
        """Return all of them."""
        return [*self.by_id.values(), *([self.only] if self.only else [])]


def load_keys(settings: Settings) -> KeySet:
    """
    Read the one source of keys that *settings* names, if it is no URL.

    Raises:
        ConfigurationError: ``jwt-not-configured``, ``jwt-shared-secret``,
            ``jwt-secret-too-short`` or ``jwt-key-invalid``.
    """
    require_one_source(settings)
    pem, jwks, secret = (
        settings.jwt_public_key_file,
        settings.jwt_jwks_file,
        settings.jwt_secret,
    )
    if secret is not None:
        return KeySet(only=_hmac_key(settings, secret.get_secret_value()))
    require_asymmetric(settings)
    if pem is not None:
        return KeySet(only=_pem_key(_read(pem, _PEM), settings.jwt_algorithm))
    assert jwks is not None  # noqa: S101  Counted above.
    return KeySet(by_id=_jwks_keys(_read(jwks, _JWKS), settings.jwt_algorithm))


def require_one_source(settings: Settings) -> None:
    """
    Require that there is exactly one source of keys.

    Raises:
        ConfigurationError: ``jwt-not-configured``.
    """
    sources = (
        settings.jwt_public_key_file,
        settings.jwt_jwks_file,
        settings.jwt_jwks_url,
        settings.jwt_secret,
    )
    if sum(source is not None for source in sources) != 1:
        raise _refusal(
            "jwt-not-configured",
            "set exactly one of JWT_PUBLIC_KEY_FILE, JWT_JWKS_FILE, JWT_JWKS_URL"
            " and JWT_SECRET",
        )


def require_asymmetric(settings: Settings) -> None:
    """
    Require an algorithm that goes with public keys.

    Raises:
        ConfigurationError: ``jwt-key-invalid``.
    """
    if settings.jwt_algorithm not in ASYMMETRIC:
        raise _refusal("jwt-key-invalid", "HS256 goes with JWT_SECRET only")


def bind(material: Any, algorithm: str) -> VerificationKey:
    """
    Bind *material* to *algorithm*, if the two fit.

    Raises:
        jwt.InvalidKeyError: Another kind of key, another curve, or too short.
    """
    implementation = jwt.get_algorithm_by_name(algorithm)
    try:
        prepared = implementation.prepare_key(material)
    except TypeError:
        raise jwt.InvalidKeyError("another kind of key") from None
    if (problem := implementation.check_key_length(prepared)) is not None:
        raise jwt.InvalidKeyError(problem)
    return VerificationKey(algorithm, prepared)


def _hmac_key(settings: Settings, secret: str) -> VerificationKey:
    if settings.is_production:
        raise _refusal(
            "jwt-shared-secret", "in production, who verifies must not be able to mint"
        )
    if settings.jwt_algorithm != "HS256":
        raise _refusal("jwt-key-invalid", "JWT_SECRET needs JWT_ALGORITHM=HS256")
    if len(secret.encode()) < MIN_SECRET_BYTES:
        raise _refusal(
            "jwt-secret-too-short", f"JWT_SECRET needs {MIN_SECRET_BYTES} bytes"
        )
    try:
        return bind(secret.encode(), "HS256")
    except jwt.InvalidKeyError:
        raise _refusal("jwt-key-invalid", "JWT_SECRET holds a public key") from None


def _pem_key(content: bytes, algorithm: str) -> VerificationKey:
    try:
        # Not PyJWT's own reader, which also takes private keys.
        return bind(load_pem_public_key(content), algorithm)
    except (ValueError, UnsupportedAlgorithm, jwt.InvalidKeyError):
        raise _refusal(
            "jwt-key-invalid", f"{_PEM} holds no public key for {algorithm}"
        ) from None


def _jwks_keys(content: bytes, algorithm: str) -> Mapping[str, VerificationKey]:
    try:
        entries = strict_json.loads(content).get("keys")
    except InvalidInputError as e:
        raise _refusal("jwt-key-invalid", f"{_JWKS}: {e}") from None
    if not isinstance(entries, list) or not entries:
        raise _refusal("jwt-key-invalid", f"{_JWKS} lists no keys")
    keys = dict(_jwk(entry, algorithm) for entry in entries)
    if len(keys) != len(entries):
        raise _refusal("jwt-key-invalid", f"{_JWKS}: two keys with one kid")
    return keys


def _jwk(entry: Any, default: str) -> tuple[str, VerificationKey]:
    match entry:
        case {"d": _} | {"k": _} | {"kty": "oct"}:
            raise _refusal("jwt-key-invalid", f"{_JWKS} holds a secret key")
        case {"kid": str(kid)} if entry.get("use", "sig") == "sig":
            algorithm = entry.get("alg", default)
        case _:
            raise _refusal(
                "jwt-key-invalid", f"{_JWKS}: a key without kid, or not for signatures"
            )
    if algorithm not in ASYMMETRIC:
        raise _refusal("jwt-key-invalid", f"{_JWKS}: an algorithm that is not allowed")
    try:
        return kid, bind(jwt.PyJWK(entry, algorithm).key, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError):
        # Raised anew: the library quotes the whole key.
        raise _refusal(
            "jwt-key-invalid", f"{_JWKS}: a key that does not fit {algorithm}"
        ) from None


def _read(path: Path, variable: str) -> bytes:
    # Never the path: it may be the key itself, put into the wrong variable.
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as e:
        raise _refusal(
            "jwt-key-invalid", f"{variable} cannot be read ({type(e).__name__})"
        ) from None
    if len(content) > MAX_BYTES:
        raise _refusal("jwt-key-invalid", f"{variable} is too large for a key file")
    return content


def _refusal(code: str, message: str) -> ConfigurationError:
    return ConfigurationError(Refusal(code, message))
