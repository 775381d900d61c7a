"""
Asks a screening service over HTTP whether an address may be paid.

Requests are signed as Standard Webhooks, so that the service knows who asks.  Anything
but the one form of an answer is an error: a redirect, another address, or a body that
is too large.  Only permissions are kept, for a while: a denied address may be cleared.

The questions of one tenant, and its failures, do not keep others from asking.
"""

import json
import secrets
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from pathlib import Path
from threading import Lock

import structlog
from pydantic import SecretStr

from api.container import Container
from backends.http_client import ExchangeError, HTTPClient, is_secure
from signer.deadline import Deadlines
from signer.diagnostics import EXPLAIN, Check, Finding
from signer.errors import ConfigurationError, Refusal, ScreeningUnavailableError
from signer.ports.clock import Clock, utc_now
from signer.ports.outside_services import Question
from signer.refunds.payment_checks import ZERO_ADDRESS
from signer.webhooks.signatures import Secret, read_secrets, sign


TIMEOUT = 3.0
"""Seconds for one request and its whole response."""

MAX_BYTES = 16 * 1024
"""Bytes of an answer."""

PAUSE = 1.0
"""Seconds after a failure without a request of the tenant: a list fails at once."""

AT_ONCE = 8
"""How many questions of a list are open at once."""

LIST_SECONDS = 10.0
"""For how long the questions of a list are asked."""

_MOST_KEPT = 10_000
_MOST_REQUESTS = 64
_MOST_OF_A_TENANT = 2 * AT_ONCE

# The HTTP client does not bound name resolution: a request ends this much later.
_SLACK_SECONDS = 0.5

_HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}


def doctor_checks(container: Container) -> Iterator[Check]:
    """Yield the check whether the service answers."""
    yield Check("screening", partial(_check, container), EXPLAIN, ("settings",))


def _check(container: Container) -> Finding:
    service = container.screening
    if service is None:
        return Finding("no service is configured (SCREENING_URL)")
    # Any answer will do: this address is never paid.
    service.allows(ZERO_ADDRESS, 1, tenant="doctor")
    return Finding("the service answers")


class ScreeningClient:
    """Implements ``signer.ports.ScreeningService``; build it after the fork."""

    def __init__(
        self,
        url: SecretStr,
        secret_file: Path | None,
        *,
        allow_http: bool,
        kept_seconds: float,
        timeout: float = TIMEOUT,
        timer: Callable[[], float] = time.monotonic,
        clock: Clock = utc_now,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """
        Check *url* and read *secret_file*; no connection is opened.

        *allow_http* allows plain HTTP to a loopback address.  A permission counts for
        *kept_seconds*.

        Raises:
            ConfigurationError: ``screening-misconfigured``; the message omits the URL.
        """
        self._secrets = _read_secrets(secret_file)
        if not is_secure(url.get_secret_value(), allow_http=allow_http):
            raise _refused(
                "SCREENING_URL must be an https URL with a host and without a user name"
            )
        self._client = HTTPClient(
            url, timeout=timeout, headers=_HEADERS, max_bytes=MAX_BYTES, tls=tls
        )
        self._timeout = timeout
        self._kept_seconds = kept_seconds
        self._timer = timer
        self._clock = clock
        self._deadlines = Deadlines(_MOST_OF_A_TENANT, _MOST_REQUESTS)
        self._lock = Lock()
        self._kept: OrderedDict[Question, float] = OrderedDict()
        self._paused_until: dict[str, float] = {}  # By tenant.
        self._log = structlog.get_logger("screening")

    def __repr__(self) -> str:
        return "ScreeningClient(...)"

    def answers(
        self, questions: Collection[Question], tenant: str
    ) -> Mapping[Question, bool | None]:
        until = self._timer() + LIST_SECONDS

        def ask(question: Question) -> bool | None:
            if self._timer() >= until:
                return None
            try:
                return self.allows(*question, tenant)
            except ScreeningUnavailableError:
                return None

        with ThreadPoolExecutor(AT_ONCE, "screening") as pool:
            return dict(zip(questions, pool.map(ask, questions), strict=True))

    def allows(self, address: str, chain_id: int, tenant: str) -> bool:
        question = (address.lower(), chain_id)
        with self._lock:
            now = self._timer()
            if self._kept.get(question, now) > now:
                return True
            if now < self._paused_until.get(tenant, now):
                raise _unavailable("it failed a moment ago")
        try:
            is_allowed = self._deadlines.within(
                self._timeout + _SLACK_SECONDS,
                partial(self._ask, *question),
                name="screening",
                subject=tenant,
                late=lambda _: _unavailable("too-slow"),
            )
        except ScreeningUnavailableError as e:
            with self._lock:
                now = self._timer()
                paused = {t: end for t, end in self._paused_until.items() if end > now}
                self._paused_until = {**paused, tenant: now + PAUSE}
            self._log.warning("screening-failed", reason=str(e))
            raise
        with self._lock:
            self._keep(question, is_allowed=is_allowed)
        return is_allowed

    def _ask(self, address: str, chain_id: int) -> bool:
        message_id = f"scr_{secrets.token_hex(16)}"
        document = {"address": address, "chain_id": chain_id}
        body = json.dumps(document, separators=(",", ":")).encode()
        signature = sign(self._secrets, message_id, self._clock(), body)
        try:
            response = self._client.exchange("POST", body, headers=signature)
        except ExchangeError as e:
            raise _unavailable(e.reason) from None
        if response.status != HTTPStatus.OK:
            raise _unavailable(f"status-{response.status}")
        is_allowed = _read_answer(response.body, address)
        self._log.info("screened", message_id=message_id, allowed=is_allowed)
        return is_allowed

    def _keep(self, question: Question, *, is_allowed: bool) -> None:
        self._kept.pop(question, None)
        if is_allowed:
            self._kept[question] = self._timer() + self._kept_seconds
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)


def _read_answer(body: bytes, address: str) -> bool:
    """Return what the service answers about *address*, and about no other."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise _unavailable("not-json") from None
    if not isinstance(answer, dict):
        raise _unavailable("not-json")
    named, is_allowed = answer.get("address"), answer.get("allowed")
    if not isinstance(named, str) or named.lower() != address:
        raise _unavailable("another-address")
    if not isinstance(is_allowed, bool):
        raise _unavailable("no-answer")
    return is_allowed


def _read_secrets(path: Path | None) -> Sequence[Secret]:
    if path is None:
        raise _refused("SCREENING_URL needs SCREENING_SECRET_FILE, which signs for it")
    try:
        return read_secrets(path)
    except (OSError, ValueError) as e:
        # Do not show the path: it may be a secret in the wrong variable.
        why = str(e) if isinstance(e, ValueError) else type(e).__name__
        raise _refused(f"SCREENING_SECRET_FILE: {why}") from None


def _refused(message: str) -> ConfigurationError:
    return ConfigurationError(Refusal("screening-misconfigured", message))


def _unavailable(reason: str) -> ScreeningUnavailableError:
    return ScreeningUnavailableError(f"the screening service gave no answer: {reason}")
