"""
A deadline for whole botocore calls.

botocore has a connect timeout, a read timeout, a maximum number of attempts and pauses
between them.  None of these bounds a call: pauses are random, the service may ask for
longer ones, and each received byte restarts the read timeout.  ``Deadline`` sets both
timeouts so that the attempts fit, refuses retries that would end too late, and applies
the read timeout to a whole response.

Name resolution and fetching credentials are not bounded here; they have their own
limits (``resolv.conf``, ``AWS_METADATA_SERVICE_TIMEOUT``).
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from botocore.config import Config  # type: ignore[import-untyped]

from backends.http_client import bound_responses


if TYPE_CHECKING:
    from types_boto3_kms import KMSClient


KEY = "hotwallet.deadline"
"""Where the context of a request has the ``Deadline`` of its client."""

_END = "hotwallet.end"
# botocore tries each address of a host: a VPC endpoint in three zones has three, and
# an outage of all costs three timeouts.
_ADDRESSES = 3
_LONGEST_CONNECT = 1.0
# The longest pause after a first attempt, see ``_longest_pause``.
_FIRST_PAUSE = 1.0
# If there is time for one attempt only, the rest may be spent before it.
_SINGLE_ATTEMPT = 0.75
# The shortest attempt, in seconds, that is worth a retry.
_SHORTEST_RETRY = 0.5


@dataclass(frozen=True, slots=True)
class Deadline:
    """
    Splits the *total* seconds of a call among at most *attempts* attempts.

    An attempt takes at most ``3 * connect + read`` seconds.  There is time for two such
    attempts and the pause between them, or for one if *total* is below 2 s.  A single
    attempt may begin after a quarter of *total*, which ``Sign`` waits for its turn.
    Further attempts are made only if earlier ones failed fast enough.

    >>> budget = Deadline(total=9.0, attempts=3)
    >>> round(budget.connect, 2), round(budget.read, 2), budget.attempt
    (0.44, 2.67, 4.0)
    """

    total: float
    attempts: int

    @property
    def attempt(self) -> float:
        """The longest duration of one attempt, in seconds."""
        half = (self.total - _FIRST_PAUSE) / 2
        if self.attempts == 1 or half < _SHORTEST_RETRY:
            return self.total * _SINGLE_ATTEMPT
        return half

    @property
    def connect(self) -> float:
        """The connect timeout per address in seconds, including TLS."""
        return min(_LONGEST_CONNECT, self.attempt / 3 / _ADDRESSES)

    @property
    def read(self) -> float:
        """The timeout for a whole response, in seconds."""
        return self.attempt - _ADDRESSES * self.connect

    @property
    def patience(self) -> float:
        """For how many seconds attempts may be started, the first one included."""
        return self.total - self.attempt

    def config(self, **others: Any) -> Config:
        """Return botocore's configuration with these timeouts and *others*."""
        return Config(
            connect_timeout=self.connect,
            read_timeout=self.read,
            retries={"mode": "standard", "total_max_attempts": self.attempts},
            **others,
        )

    def guard(self, client: "KMSClient") -> None:
        """Apply the deadline to every call of *client*."""
        client.meta.events.register_first("before-call.kms", self._start)
        client.meta.events.register_first("needs-retry.kms", self._may_retry)
        _bound_responses(client)

    def _start(self, context: dict[str, Any], **_: Any) -> None:
        context[KEY] = self
        context[_END] = time.monotonic() + self.total

    def _may_retry(
        self,
        attempts: int,
        request_dict: Mapping[str, Any],
        response: tuple[Any, Any] | None,
        **_: Any,
    ) -> Literal[False] | None:
        """Return False, which ends the call, if another attempt would end too late."""
        left = request_dict["context"][_END] - time.monotonic()
        if left < _longest_pause(attempts, response) + self.attempt:
            return False
        return None


def _longest_pause(attempts: int, response: tuple[Any, Any] | None) -> float:
    """
    Return the longest pause in seconds that botocore may make after *attempts*.

    Its standard mode draws from ``[0, min(2 ** (attempts - 1), 20)]``, or less.  If the
    service asks for a longer pause (``x-amz-retry-after``, in milliseconds), it gets up
    to 5 s more than the drawn one (``botocore.retries.standard``).
    """
    drawn = min(2.0 ** (attempts - 1), 20.0)
    named = response[0].headers.get("x-amz-retry-after", "") if response else ""
    if not named.isdecimal():
        return drawn
    return max(drawn, min(int(named) / 1000, drawn + 5.0))


def _bound_responses(client: "KMSClient") -> None:
    """
    Apply the read timeout of *client* to each whole response.

    botocore has no public access to its connection pools.  If this private attribute
    disappears, calls still work, and ``test_no_service_outlives_the_deadline`` fails.
    """
    endpoint = getattr(client, "_endpoint", None)
    session = getattr(endpoint, "http_session", None)
    pools = getattr(session, "_pool_classes_by_scheme", {})
    pools.update(bound_responses(pools))
