"""
The issuer's keys from ``JWT_JWKS_URL``: fetched, refreshed, and kept during outages.

Keys older than ``REFRESH`` are still used while a thread refreshes them; only a token
with an unknown ``kid`` waits for the refresh.  Unknown ``kid`` values cause at most one
request a minute, counted apart from the refreshes by age, because an issuer may publish
a key right after such a refresh.  While the issuer does not respond, the last fetched
keys stay valid for an hour.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from threading import Event, Lock, Thread
from types import MappingProxyType
from typing import Self

import structlog

from api.auth.verification_keys import (
    KeySource,
    VerificationKey,
    check_source,
    load_keys,
    parse_key_set,
)
from signer.config.settings import Settings
from signer.errors import AuthenticationError, ConfigurationError, Refusal
from signer.ports.outside_services import FetchKeySet, KeySetError


FETCH_TIMEOUT = 4.0  # Seconds for one request to the issuer.
REFRESH = 300.0  # Seconds after which a key that the issuer removed is removed here.
PAUSE = 60.0  # Seconds between two requests for the same reason: age or unknown kid.
LIFETIME = 3600.0  # Seconds that keys stay valid when they cannot be refreshed.

_WAIT = FETCH_TIMEOUT + 1  # Longer than a fetch takes.
_MAX_KIDS = 1000  # More than an issuer that rotates monthly uses in years.

_log = structlog.get_logger("api.auth.jwks")


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
