"""
Verifies JWT access tokens (RFC 9068), following the best practices of RFC 8725.

PyJWT checks the signature.  Everything else is checked here, because PyJWT accepts
tokens without ``exp``, reads the system clock, and keeps the last of two equal claims.
A token that was verified is remembered, since callers use one for many requests.
The caller learns only that the token was refused.  The reason code, the message of the
``AuthenticationError``, is logged.
"""

import base64
import re
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from threading import Lock
from typing import Annotated, Any, Literal

import jwt
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from api.auth.verification_keys import KEY_ID, KeySource, VerificationKey
from api.principal import Principal
from signer import strict_json
from signer.errors import AuthenticationError, InvalidInputError
from signer.ports.clock import Clock, utc_now


MAX_TOKENS = 1024
"""How many tokens a process remembers; each takes about a kilobyte."""


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """
    What a token with a valid signature says, and the key that verified it.

    The times are those of its claims, in seconds since 1970.
    """

    principal: Principal
    kid: str | None
    key: VerificationKey
    valid_from: int
    expires_at: int


class VerifiedTokens:
    """
    The last verified tokens of one process.  Threads share it.

    A token is remembered by its SHA-256, so that the process keeps no bearer token.
    Being remembered is no permission: its times, and whether its key is still trusted,
    are for the caller to check.
    """

    def __init__(self) -> None:
        self._tokens: OrderedDict[bytes, VerifiedToken] = OrderedDict()
        self._lock = Lock()

    def find(self, token: str) -> VerifiedToken | None:
        with self._lock:
            return self._tokens.get(_digest(token))

    def remember(self, token: str, verified: VerifiedToken) -> None:
        """Remember *token*; forget the oldest ones of more than ``MAX_TOKENS``."""
        with self._lock:
            self._tokens[_digest(token)] = verified
            while len(self._tokens) > MAX_TOKENS:
                self._tokens.popitem(last=False)

    def forget(self, token: str) -> None:
        with self._lock:
            self._tokens.pop(_digest(token), None)


def _digest(token: str) -> bytes:
    return sha256(token.encode()).digest()


Role = Literal["merchant", "signer", "admin", "devops"]

MAX_LIFETIME = 300  # Seconds from iat to exp.
LEEWAY = 30  # Seconds that the issuer's clock may be off.
NO_TOKEN = "no-token"  # noqa: S105  A reason code.
TOKEN_EXPIRED = "token-expired"  # noqa: S105  A reason code.
TOKEN_REPLAYED = "token-replayed"  # noqa: S105  A reason code.
TOKEN_TYPE = "at+jwt"  # noqa: S105  RFC 9068, section 2.1.

_MAX_TOKEN = 8 * 1024
# A tuple, not a set: the header's value may be of a type without a hash.
_TYPES = (TOKEN_TYPE, f"application/{TOKEN_TYPE}", "JWT")
# Other parameters name keys (jku, jwk, x5u, x5c), change the meaning of the token
# (crit, b64, zip), or are not needed.
_HEADER = frozenset({"alg", "typ", "kid", "x5t", "x5t#S256"})
# RFC 6749, section 3.3: words of visible ASCII except " and \, separated by a space.
SCOPE = re.compile(r"[!#-\[\]-~]+(?: [!#-\[\]-~]+)*")
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

_Name = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern="^[!-~]+$")
]


class _Claims(BaseModel):
    # Strict: "1795000000", 1e30 and true are not accepted as times.
    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)

    iss: str
    aud: str | list[str]
    sub: _Name
    jti: _Name
    exp: int
    nbf: int
    iat: int
    roles: list[Role] = Field(max_length=16)
    client_id: str | None = Field(default=None, max_length=256, pattern="^[ -~]+$")
    scope: str | None = Field(
        default=None, max_length=1024, pattern=f"^{SCOPE.pattern}$"
    )


class JWTVerifier:
    """Turns an ``Authorization`` header into a ``Principal``."""

    def __init__(
        self, keys: KeySource, *, issuer: str, audience: str, clock: Clock = utc_now
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._verified = VerifiedTokens()
        self._jws = jwt.PyJWS(options={"enforce_minimum_key_length": True})

    def authenticate(self, authorization: str | None) -> Principal:
        """
        Return the caller that *authorization*, the header's value, identifies.

        Raises:
            AuthenticationError: The token is missing or invalid.  The message is a
                reason code for the log.
        """
        token = _bearer(authorization)
        known = self._verified.find(token)
        # Removing a key also invalidates cached tokens.
        if known is not None and self._keys.find(known.kid) != known.key:
            self._verified.forget(token)
            known = None
        if known is None:
            known = self._verify(token)
            self._verified.remember(token, known)
        else:
            self._check_times(known.valid_from, known.expires_at)
        return known.principal

    def _verify(self, token: str) -> VerifiedToken:
        head, payload, _ = token.split(".")
        header = _object(head)
        key = self._key(header)
        self._check_signature(token, key)
        claims = _claims(_object(payload))
        self._check_parties(claims)
        if not 0 < claims.exp - claims.iat <= MAX_LIFETIME:
            raise AuthenticationError("token-lifetime")
        valid_from = max(claims.nbf, claims.iat)
        self._check_times(valid_from, claims.exp)
        principal = Principal(
            claims.sub,
            frozenset(claims.roles),
            claims.jti,
            datetime.fromtimestamp(claims.exp, UTC),
            None if claims.scope is None else frozenset(claims.scope.split(" ")),
            claims.client_id,
        )
        return VerifiedToken(principal, header.get("kid"), key, valid_from, claims.exp)

    def _key(self, header: dict[str, Any]) -> VerificationKey:
        if not header.keys() <= _HEADER:
            raise AuthenticationError("token-header")
        if header.get("typ") not in _TYPES:
            raise AuthenticationError("token-type")
        kid = header.get("kid")
        if kid is not None and not (isinstance(kid, str) and KEY_ID.fullmatch(kid)):
            raise AuthenticationError("token-key-id")
        key = self._keys.find(kid)
        if key is None:
            raise AuthenticationError("token-key-unknown")
        if header.get("alg") != key.algorithm:
            raise AuthenticationError("token-algorithm")
        return key

    def _check_signature(self, token: str, key: VerificationKey) -> None:
        try:
            self._jws.decode_complete(token, key.material, algorithms=[key.algorithm])
        except jwt.PyJWTError:
            raise AuthenticationError("token-signature") from None

    def _check_parties(self, claims: _Claims) -> None:
        if claims.iss != self._issuer:
            raise AuthenticationError("token-issuer")
        # Another audience of the same token could replay it here.
        if claims.aud not in (self._audience, [self._audience]):
            raise AuthenticationError("token-audience")

    def _check_times(self, valid_from: int, expires_at: int) -> None:
        now = self._clock().timestamp()
        if expires_at <= now - LEEWAY:
            raise AuthenticationError(TOKEN_EXPIRED)
        if valid_from > now + LEEWAY:
            raise AuthenticationError("token-not-yet-valid")


def read_parties(authorization: str) -> tuple[str, str | None]:
    """
    Return ``sub`` and ``client_id`` of a token that is *not* verified.

    Use them only to order requests that wait: any client can write such a token.

    Raises:
        AuthenticationError: *authorization* has no token with readable claims.
    """
    _, payload, _ = _bearer(authorization).split(".")
    claims = _claims(_object(payload))
    return claims.sub, claims.client_id


def _bearer(authorization: str | None) -> str:
    if not authorization:
        raise AuthenticationError(NO_TOKEN)
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise AuthenticationError(NO_TOKEN)
    if len(token) > _MAX_TOKEN:
        raise AuthenticationError("token-too-large")
    if not _COMPACT.fullmatch(token):
        raise AuthenticationError("token-malformed")
    return token


def _object(segment: str) -> dict[str, Any]:
    # PyJWT refuses other base64 encodings of the same bytes when it checks the
    # signature, so each token has only one form.
    try:
        padded = segment + "=" * (-len(segment) % 4)
        return strict_json.loads(base64.urlsafe_b64decode(padded))
    except (ValueError, InvalidInputError):
        raise AuthenticationError("token-json") from None


def _claims(payload: dict[str, Any]) -> _Claims:
    try:
        return _Claims.model_validate(payload)
    except ValidationError as e:
        (first, *_) = e.errors(include_input=False, include_url=False)
        raise AuthenticationError(f"token-claim-{first['loc'][0]}") from None
