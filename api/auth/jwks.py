"""
The issuer's keys by URL: fetched on time, kept for a while, never mistaken.

A request that finds them a little old is answered with what there is, while a thread
fetches; only an unknown ``kid`` waits.  Unknown ones make the process ask once a minute
at most, however lately it asked because of its keys' age: an issuer may publish a key
right after that.  When the issuer does not answer, what was fetched last is good for an
hour.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from threading import Event, Lock, Thread
from types import MappingProxyType
from typing import Any, Self

import jwt
import structlog
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from api import strict_json
from api.auth.verification_keys import (
    ASYMMETRIC,
    KEY_ID,
    KeySource,
    VerificationKey,
    bind,
    load_keys,
    require_asymmetric,
    require_one_source,
)
from backends.jwks_client import DEADLINE, KeyServer, KeySetError
from signer.config.settings import Settings
from signer.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidInputError,
    Refusal,
)


KEYS_STALE = "token-keys-stale"

REFRESH = 300.0  # Seconds; what the issuer removed is gone then.
PAUSE = 60.0  # Between two questions to the issuer for one reason: age, or a name.
LIFETIME = 3600.0  # Of keys that cannot be refreshed.

# More names than an issuer has in years of monthly keys.
_MAX_NAMES = 1000

_log = structlog.get_logger("api.auth.jwks")


def open_keys(settings: Settings) -> KeySource:
    """
    Return the keys of the one source that *settings* names.

    Call it after the fork: keys by URL are refreshed by threads.

    Raises:
        ConfigurationError: See ``load_keys``; or ``jwt-url-insecure``, or
            ``jwt-keys-unreachable``, for keys by URL.
    """
    require_one_source(settings)
    if settings.jwt_jwks_url is None:
        return load_keys(settings)
    require_asymmetric(settings)
    server = KeyServer(settings.jwt_jwks_url, may_be_plain=not settings.is_production)
    return RemoteKeys.open(server, settings.jwt_algorithm)


class RemoteKeys:
    """
    A ``KeySource`` whose keys somebody else publishes.

    A ``kid`` means one key and one algorithm for as long as the process lives: one
    that comes back as another key is refused.  Threads share it.
    """

    def __init__(
        self,
        fetch: Callable[[], bytes],
        algorithm: str,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """Remember what to *fetch*; keys that name no algorithm have *algorithm*."""
        self._fetch = fetch
        self._algorithm = algorithm
        self._timer = timer
        self._lock = Lock()
        self._keys: Mapping[str, VerificationKey] = MappingProxyType({})
        self._meaning: dict[str, tuple[str, bytes]] = {}
        self._fetched_at = self._asked_at = self._sought_at = float("-inf")
        self._flight: Event | None = None

    @classmethod
    def open(
        cls,
        fetch: Callable[[], bytes],
        algorithm: str,
        timer: Callable[[], float] = time.monotonic,
    ) -> Self:
        """
        Return the keys that *fetch* brings at this moment, and in future.

        Raises:
            ConfigurationError: ``jwt-keys-unreachable``.
        """
        keys = cls(fetch, algorithm, timer)
        keys._asked_at = timer()
        try:
            keys._renew(keys._asked_at)
        except KeySetError as e:
            raise ConfigurationError(
                Refusal("jwt-keys-unreachable", f"JWT_JWKS_URL brings no keys ({e})")
            ) from None
        return keys

    def known(self) -> Iterable[VerificationKey]:
        """Return what was fetched last."""
        return self._keys.values()

    def find(self, kid: str | None) -> VerificationKey | None:
        """
        Return the key that a token with this ``kid`` must be signed with.

        Raises:
            AuthenticationError: ``token-keys-stale``.
        """
        if kid is None:
            return None
        now = self._timer()
        # Who was idle has keys that nobody tried to refresh, and may be long removed.
        idle = now - self._asked_at > 2 * REFRESH
        if idle or self._is_stale(now):
            self._ask(now, patience=DEADLINE + 1)
        elif kid not in self._keys:
            self._seek(kid, now)
        elif now - self._fetched_at >= REFRESH:
            self._ask(now, patience=0)
        if self._is_stale(now):
            raise AuthenticationError(KEYS_STALE)
        return self._keys.get(kid)

    def _is_stale(self, now: float) -> bool:
        return now - self._fetched_at > LIFETIME

    def _seek(self, kid: str, now: float) -> None:
        """Have the keys fetched because nobody knows *kid*; wait for it."""
        # A fetch under way may have been answered before the key was published.
        for _ in range(2):
            if kid not in self._keys:
                self._ask(now, patience=DEADLINE + 1, sought=True)

    def _ask(self, now: float, *, patience: float, sought: bool = False) -> None:
        """Have the keys fetched, unless that was tried just now; wait for it."""
        with self._lock:
            # An issuer that did not answer is left alone, whatever the reason.
            answered = self._fetched_at == self._asked_at
            before = self._sought_at if sought and answered else self._asked_at
            if self._flight is None and now - before >= PAUSE:
                self._asked_at = now
                if sought:
                    self._sought_at = now
                self._flight = self._begun(now)
            flight = self._flight
        if flight is not None and patience:
            flight.wait(patience)

    def _begun(self, now: float) -> Event | None:
        """Begin to fetch the keys; return what is set when that is over."""
        flight = Event()
        thread = Thread(target=self._fly, args=(flight, now), name="jwks", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # The system has no thread to give.
            self._tell("no-thread", now)
            return None
        return flight

    def _fly(self, flight: Event, now: float) -> None:
        try:
            self._renew(now)
        except KeySetError as e:
            self._tell(str(e), now)
        except Exception:  # noqa: BLE001  A thread has no caller to tell.
            _log.exception("jwks-not-refreshed", reason="internal-error")
        finally:
            with self._lock:
                self._flight = None
            flight.set()

    def _tell(self, reason: str, now: float) -> None:
        report = _log.error if self._is_stale(now) else _log.warning
        age = round(now - self._fetched_at)
        report("jwks-not-refreshed", reason=reason, age_seconds=age)

    def _renew(self, now: float) -> None:
        offered = parse_key_set(self._fetch(), self._algorithm)
        # Only one flies at a time, and readers see the old mapping or the new one; who
        # finds a name missing from the new one knows that the issuer has answered.
        self._fetched_at = now
        self._keys = MappingProxyType(
            {kid: key for kid, key in offered.items() if self._is_itself(kid, key)}
        )
        for kid in list(self._meaning)[:-_MAX_NAMES]:
            del self._meaning[kid]

    def _is_itself(self, kid: str, key: VerificationKey) -> bool:
        meaning = (key.algorithm, _encoded(key))
        if self._meaning.setdefault(kid, meaning) == meaning:
            return True
        _log.error("jwks-key-changed", kid=kid)
        return False


def parse_key_set(body: bytes, algorithm: str) -> Mapping[str, VerificationKey]:
    """
    Return the keys in *body*, a JWK Set (RFC 7517), that can verify tokens.

    Issuers publish others beside them, and those are passed over; keys that name no
    algorithm have *algorithm*.

    Raises:
        KeySetError: ``malformed``, ``secret-key``, ``duplicate-kid`` or ``no-keys``.
    """
    try:
        entries = strict_json.loads(body).get("keys")
    except InvalidInputError:
        raise KeySetError("malformed") from None
    if not isinstance(entries, list):
        raise KeySetError("malformed")
    if any(_is_secret(entry) for entry in entries):
        # Whoever publishes one secret does not know what the others are.
        raise KeySetError("secret-key")
    usable = [found for e in entries if (found := _usable(e, algorithm)) is not None]
    if not usable:
        raise KeySetError("no-keys")
    keys = dict(usable)
    if len(keys) != len(usable):
        raise KeySetError("duplicate-kid")
    return keys


def _is_secret(entry: object) -> bool:
    match entry:
        case {"d": _} | {"k": _} | {"kty": "oct"}:
            return True
    return False


def _usable(entry: Any, default: str) -> tuple[str, VerificationKey] | None:
    match entry:
        case {"kid": str(kid)} if entry.get("use", "sig") == "sig":
            algorithm = entry.get("alg", default)
        case _:
            return None
    if algorithm not in ASYMMETRIC or not KEY_ID.fullmatch(kid):
        return None
    try:
        return kid, bind(jwt.PyJWK(entry, algorithm).key, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None


def _encoded(key: VerificationKey) -> bytes:
    encoded: bytes = key.material.public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    return encoded
