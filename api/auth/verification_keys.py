"""
The keys that verify tokens, each bound to one algorithm.

There is exactly one source: a public key in PEM, a JWK Set in a file or at a URL
(``api/auth/jwks.py``), or, outside production, an HMAC secret.  A token cannot choose
the source of its key (RFC 8725, section 3.10).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from signer import strict_json
from signer.config.settings import Settings
from signer.errors import ConfigurationError, InvalidInputError, Refusal
from signer.ports.outside_services import KeySetError


_MIN_SECRET_BYTES = 32

KEY_ID = re.compile(r"[A-Za-z0-9._~+=-]{1,128}")

_ASYMMETRIC = ("RS256", "PS256", "ES256", "EdDSA")
MAX_BYTES = 64 * 1024

_PEM = "JWT_PUBLIC_KEY_FILE"
_JWKS = "JWT_JWKS_FILE"


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key and the only algorithm it may be used with (RFC 8725, section 3.1)."""

    algorithm: str
    material: Any = field(repr=False)

    @property
    def spki(self) -> bytes | None:
        """The public key in DER (RFC 5280); None for an HMAC secret."""
        if isinstance(self.material, bytes):
            return None
        encoded: bytes = self.material.public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        return encoded


class KeySource(Protocol):
    """A source of the keys that verify tokens."""

    def find(self, kid: str | None) -> VerificationKey | None:
        """
        Return the key that a token with this ``kid`` must be signed with.

        Raises:
            AuthenticationError: ``token-keys-stale``: the keys are too old to trust.
        """

    def known(self) -> Iterable[VerificationKey]:
        """Return the keys that are trusted now."""


@dataclass(frozen=True, slots=True)
class KeySet:
    """Either one key for every token (``only``), or keys by their ``kid``."""

    only: VerificationKey | None = None
    by_id: Mapping[str, VerificationKey] = field(default_factory=dict)

    def find(self, kid: str | None) -> VerificationKey | None:
        return self.only or (None if kid is None else self.by_id.get(kid))

    def known(self) -> Iterable[VerificationKey]:
        return self.by_id.values() if self.only is None else [self.only]


def load_keys(settings: Settings) -> KeySet:
    """
    Read the keys from the one source that *settings* names, which is not a URL.

    Raises:
        ConfigurationError: As ``check_source``; or ``jwt-shared-secret`` or
            ``jwt-secret-too-short``; or ``jwt-key-invalid``: the key is unusable.
    """
    check_source(settings)
    algorithm = settings.jwt_algorithm
    if settings.jwt_secret is not None:
        secret = settings.jwt_secret.get_secret_value()
        return KeySet(only=_hmac_key(settings, secret.encode()))
    if settings.jwt_public_key_file is not None:
        return KeySet(
            only=_pem_key(_read(settings.jwt_public_key_file, _PEM), algorithm)
        )
    assert settings.jwt_jwks_file is not None  # noqa: S101  See check_source.
    return KeySet(by_id=_file_keys(_read(settings.jwt_jwks_file, _JWKS), algorithm))


def check_source(settings: Settings) -> None:
    """
    Require exactly one source of keys, and an algorithm for keys of its kind.

    Raises:
        ConfigurationError: ``jwt-not-configured`` or ``jwt-key-invalid``.
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
    if settings.jwt_secret is None and settings.jwt_algorithm not in _ASYMMETRIC:
        raise _invalid("JWT_ALGORITHM=HS256 needs JWT_SECRET")


def bind(material: Any, algorithm: str) -> VerificationKey:
    """
    Bind *material* to *algorithm*.

    Raises:
        jwt.InvalidKeyError: The key is of another type or curve, or too short.
    """
    implementation = jwt.get_algorithm_by_name(algorithm)
    try:
        prepared = implementation.prepare_key(material)
    except TypeError:
        raise jwt.InvalidKeyError("the key is of another type") from None
    if (problem := implementation.check_key_length(prepared)) is not None:
        raise jwt.InvalidKeyError(problem)
    return VerificationKey(algorithm, prepared)


def _hmac_key(settings: Settings, secret: bytes) -> VerificationKey:
    if settings.is_production:
        raise _refusal(
            "jwt-shared-secret",
            "JWT_SECRET is not allowed in production: this process could issue tokens",
        )
    if settings.jwt_algorithm != "HS256":
        raise _invalid("JWT_SECRET needs JWT_ALGORITHM=HS256")
    if len(secret) < _MIN_SECRET_BYTES:
        raise _refusal(
            "jwt-secret-too-short",
            f"JWT_SECRET needs {_MIN_SECRET_BYTES} bytes or more",
        )
    try:
        return bind(secret, "HS256")
    except jwt.InvalidKeyError:
        raise _invalid("JWT_SECRET contains a public key") from None


def _pem_key(content: bytes, algorithm: str) -> VerificationKey:
    try:
        # PyJWT's own parser would also accept private keys.
        return bind(load_pem_public_key(content), algorithm)
    except (ValueError, UnsupportedAlgorithm, jwt.InvalidKeyError):
        problem = f"{_PEM} does not contain a public key for {algorithm}"
        raise _invalid(problem) from None


def parse_key_set(
    body: bytes, default_algorithm: str
) -> tuple[Mapping[str, VerificationKey], Sequence[str]]:
    """
    Return the keys of *body*, a JWK Set (RFC 7517), and why other entries are unusable.

    *default_algorithm* is for keys that do not name one.

    Raises:
        KeySetError: ``malformed``, ``secret-key`` or ``duplicate-kid``.
    """
    try:
        entries = strict_json.loads(body).get("keys")
    except InvalidInputError:
        entries = None
    if not isinstance(entries, list):
        raise KeySetError("malformed")
    if any(_is_secret(entry) for entry in entries):
        # One published secret makes the whole set untrustworthy.
        raise KeySetError("secret-key")
    keys: dict[str, VerificationKey] = {}
    unusable: list[str] = []
    for number, entry in enumerate(entries, 1):
        try:
            kid, key = _parse_key(entry, default_algorithm)
        except jwt.InvalidKeyError as e:
            unusable.append(f"key {number} {e}")
            continue
        if kid in keys:
            raise KeySetError("duplicate-kid")
        keys[kid] = key
    return keys, unusable


def _is_secret(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    return "d" in entry or "k" in entry or entry.get("kty") == "oct"


def _parse_key(entry: Any, default: str) -> tuple[str, VerificationKey]:
    match entry:
        case {"kid": str(kid)} if KEY_ID.fullmatch(kid):
            algorithm = entry.get("alg", default)
        case _:
            raise jwt.InvalidKeyError("has no valid kid")
    if entry.get("use", "sig") != "sig":
        raise jwt.InvalidKeyError("has another use than sig")
    if algorithm not in _ASYMMETRIC:
        raise jwt.InvalidKeyError("has an alg that is not allowed")
    try:
        return kid, bind(jwt.PyJWK(entry, algorithm).key, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError):
        pass
    # Outside the handler, because the library's message quotes the whole key.
    raise jwt.InvalidKeyError(f"is not a key for {algorithm}")


_FILE_PROBLEMS = {
    "malformed": "is not a JWK Set in JSON",
    "secret-key": "contains a secret key",
    "duplicate-kid": "contains two keys with one kid",
}


def _file_keys(content: bytes, algorithm: str) -> Mapping[str, VerificationKey]:
    """Return the keys in the file; unlike an issuer's, each of them must be usable."""
    try:
        keys, unusable = parse_key_set(content, algorithm)
    except KeySetError as e:
        problem = _FILE_PROBLEMS[str(e)]
    else:
        if keys and not unusable:
            return keys
        problem = f"is refused: {(*unusable, 'it contains no keys')[0]}"
    raise _invalid(f"{_JWKS} {problem}")


def _read(path: Path, variable: str) -> bytes:
    # Omit the path: the variable may contain the key itself by mistake.
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as e:
        raise _invalid(f"{variable} cannot be read ({type(e).__name__})") from None
    if len(content) > MAX_BYTES:
        raise _invalid(f"{variable} is larger than {MAX_BYTES} bytes")
    return content


def _invalid(message: str) -> ConfigurationError:
    return _refusal("jwt-key-invalid", message)


def _refusal(code: str, message: str) -> ConfigurationError:
    return ConfigurationError(Refusal(code, message))
