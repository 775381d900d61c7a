"""
The keys that verify tokens, each bound to one algorithm.

There is exactly one source: a public key in PEM, a JWK Set in a file or at a URL, or,
outside production, an HMAC secret.  A token cannot choose the source of its key
(RFC 8725, section 3.10).

Keys from a URL that are older than ``REFRESH`` are still used while a thread refreshes
them; only a token with an unknown ``kid`` waits for the refresh.  Unknown ``kid``
values cause at most one request a minute, counted apart from the refreshes by age,
because an issuer may publish a key right after such a refresh.  While the issuer does
not respond, the last fetched keys stay valid for an hour.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event, Lock, Thread
from types import MappingProxyType
from typing import Any, Protocol, Self

import jwt
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from signer import strict_json
from signer.config.settings import Settings
from signer.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidInputError,
    Refusal,
)
from signer.ports.outside_services import FetchKeySet, KeySetError


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


FETCH_TIMEOUT = 4.0  # Seconds for one request to the issuer.
REFRESH = 300.0  # Seconds after which a key that the issuer removed is removed here.
PAUSE = 60.0  # Seconds between two requests for the same reason: age or unknown kid.
LIFETIME = 3600.0  # Seconds that keys stay valid when they cannot be refreshed.

_WAIT = FETCH_TIMEOUT + 1  # Longer than a fetch takes.
_MAX_KIDS = 1000  # More than an issuer that rotates monthly uses in years.

_log = structlog.get_logger("api.auth.verification_keys")


def open_keys(settings: Settings, connect: Callable[[str], FetchKeySet]) -> KeySource:
    """
    Return the keys from the one source that *settings* names.

    Call it after the fork: keys from a URL are refreshed by threads.  *connect* returns
    the client for ``JWT_JWKS_URL``.

    Raises:
        ConfigurationError: As ``load_keys`` and *connect*; or ``jwt-keys-unreachable``.
    """
    if settings.jwt_jwks_url is None:
        return load_keys(settings)
    check_source(settings)
    return RemoteKeys.open(connect(settings.jwt_jwks_url), settings.jwt_algorithm)


class RemoteKeys:
    """
    A ``KeySource`` whose keys are published by the issuer.

    A ``kid`` stands for one key and one algorithm during the life of the process: if
    the issuer reuses it for another key, that key is refused.  Threads share it.
    """

    def __init__(
        self,
        fetch: FetchKeySet,
        algorithm: str,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """Fetch nothing yet; *algorithm* is for keys that do not name one."""
        self._fetch = fetch
        self._algorithm = algorithm
        self._timer = timer
        self._lock = Lock()
        self._keys: Mapping[str, VerificationKey] = MappingProxyType({})
        self._fingerprints: dict[str, tuple[str, bytes | None]] = {}
        # Times of the last success, of the last request, and of the last request
        # because of an unknown kid.
        self._fetched_at = self._requested_at = self._searched_at = float("-inf")
        self._refresh_done: Event | None = None

    @classmethod
    def open(
        cls,
        fetch: FetchKeySet,
        algorithm: str,
        timer: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Fetch the keys; ConfigurationError ``jwt-keys-unreachable`` if that fails."""
        keys = cls(fetch, algorithm, timer)
        keys._requested_at = timer()
        try:
            keys._refresh(keys._requested_at)
        except KeySetError as e:
            problem = f"no keys fetched from JWT_JWKS_URL ({e})"
            raise ConfigurationError(
                Refusal("jwt-keys-unreachable", problem, is_transient=True)
            ) from None
        return keys

    def known(self) -> Iterable[VerificationKey]:
        """Return the keys that were fetched last."""
        return self._keys.values()

    def find(self, kid: str | None) -> VerificationKey | None:
        """Return the key for *kid*; AuthenticationError if the keys are stale."""
        if kid is None:
            return None
        now = self._timer()
        # Without requests there are no refreshes: the keys may have been removed.
        is_idle = now - self._requested_at > 2 * REFRESH
        if is_idle or self._is_stale(now):
            self._request_refresh(now, wait=_WAIT)
        elif kid not in self._keys:
            self._search(kid, now)
        elif now - self._fetched_at >= REFRESH:
            self._request_refresh(now, wait=0)
        if self._is_stale(now):
            raise AuthenticationError("token-keys-stale")
        return self._keys.get(kid)

    def _is_stale(self, now: float) -> bool:
        return now - self._fetched_at > LIFETIME

    def _search(self, kid: str, now: float) -> None:
        # A refresh in progress may have been answered before the key was published.
        for _ in range(2):
            if kid not in self._keys:
                self._request_refresh(now, wait=_WAIT, is_search=True)

    def _request_refresh(
        self, now: float, *, wait: float, is_search: bool = False
    ) -> None:
        """Start a refresh, unless one was tried recently; wait up to *wait* seconds."""
        with self._lock:
            # After a failure both kinds of request pause.
            succeeded = self._fetched_at == self._requested_at
            last = self._searched_at if is_search and succeeded else self._requested_at
            if self._refresh_done is None and now - last >= PAUSE:
                self._requested_at = now
                if is_search:
                    self._searched_at = now
                self._refresh_done = self._start_refresh(now)
            done = self._refresh_done
        if done is not None and wait:
            done.wait(wait)

    def _start_refresh(self, now: float) -> Event | None:
        """Refresh in a thread; return the event that it sets at the end."""
        done = Event()
        run = partial(self._run_refresh, done, now)
        try:
            Thread(target=run, name="jwks", daemon=True).start()
        except RuntimeError:  # The system cannot start another thread.
            self._log_failure("no-thread", now)
            return None
        return done

    def _run_refresh(self, done: Event, now: float) -> None:
        try:
            self._refresh(now)
        except KeySetError as e:
            self._log_failure(str(e), now)
        except Exception:  # noqa: BLE001  The thread has no caller.
            _log.exception("jwks-not-refreshed", reason="internal-error")
        finally:
            with self._lock:
                self._refresh_done = None
            done.set()

    def _log_failure(self, reason: str, now: float) -> None:
        log = _log.error if self._is_stale(now) else _log.warning
        age = round(now - self._fetched_at)
        log("jwks-not-refreshed", reason=reason, age_seconds=age)

    def _refresh(self, now: float) -> None:
        fetched, _ = parse_key_set(self._fetch(), self._algorithm)
        if not fetched:
            raise KeySetError("no-keys")
        # Only one refresh runs at a time.  The time is set before the keys: a reader
        # that misses a kid in the new mapping must also see that it was just fetched.
        self._fetched_at = now
        self._keys = MappingProxyType(
            {kid: key for kid, key in fetched.items() if self._is_unchanged(kid, key)}
        )
        for kid in list(self._fingerprints)[:-_MAX_KIDS]:
            del self._fingerprints[kid]

    def _is_unchanged(self, kid: str, key: VerificationKey) -> bool:
        fingerprint = (key.algorithm, key.spki)
        if self._fingerprints.setdefault(kid, fingerprint) == fingerprint:
            return True
        _log.error("jwks-key-changed", kid=kid)
        return False
