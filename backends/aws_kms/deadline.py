"""
A deadline for whole botocore calls.

botocore knows a timeout to connect and one to read, counts attempts, and pauses
between them.  None of that bounds a call: pauses are random, a service may ask for
longer ones, and a peer that sends a byte now and then restarts the read timeout for
ever.  ``Deadline`` sets the first two so that attempts fit, refuses retries that
would not end in time, and makes the read timeout count for a whole response.

Outside its reach stay name resolution and the fetching of credentials, which have
limits of their own (``resolv.conf``; ``AWS_METADATA_SERVICE_TIMEOUT``).
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from botocore.config import Config  # type: ignore[import-untyped]

from backends.http_client import bound_responses


if TYPE_CHECKING:
    from types_boto3_kms import KMSClient


_KEY = "hotwallet.deadline"
# A connection is tried on every address that the name has: a VPC endpoint in three
# zones has three, and an outage of all costs three timeouts.
_ADDRESSES = 3
_LONGEST_CONNECT = 1.0
# The longest pause behind a first attempt, see ``_longest_pause``.
_FIRST_PAUSE = 1.0
# Less than this is no attempt worth a retry.
_SHORTEST_RETRY = 0.5


@dataclass(frozen=True, slots=True)
class Deadline:
    """
    How a call of at most *total* seconds spends them on at most *attempts*.

    An attempt costs ``3 * connect + read`` seconds at worst, and there is time for
    two of those and the pause between them; below 2 s there is time for one.  A
    third attempt, and each one after it, is made if what was left by faster
    failures is enough.

    >>> budget = Deadline(total=9.0, attempts=3)
    >>> round(budget.connect, 2), round(budget.read, 2), budget.attempt
    (0.44, 2.67, 4.0)
    """

    total: float
    attempts: int

    @property
    def attempt(self) -> float:
        """The seconds that one attempt takes at most."""
        half = (self.total - _FIRST_PAUSE) / 2
        if self.attempts == 1 or half < _SHORTEST_RETRY:
            return self.total
        return half

    @property
    def connect(self) -> float:
        """The seconds to connect to one address, TLS included."""
        return min(_LONGEST_CONNECT, self.attempt / 3 / _ADDRESSES)

    @property
    def read(self) -> float:
        """The seconds in which a whole response must have arrived."""
        return self.attempt - _ADDRESSES * self.connect

    def config(self, **others: Any) -> Config:
        """Return botocore's configuration with these timeouts, and *others*."""
        return Config(
            connect_timeout=self.connect,
            read_timeout=self.read,
            retries={"mode": "standard", "total_max_attempts": self.attempts},
            **others,
        )

    def guard(self, client: "KMSClient") -> None:
        """Make every call of *client* end in time."""
        client.meta.events.register_first("before-call.kms", self._start)
        client.meta.events.register_first("needs-retry.kms", self._may_retry)
        _bound_responses(client)

    def _start(self, context: dict[str, Any], **_: Any) -> None:
        context[_KEY] = time.monotonic() + self.total

    def _may_retry(
        self,
        attempts: int,
        request_dict: Mapping[str, Any],
        response: tuple[Any, Any] | None,
        **_: Any,
    ) -> Literal[False] | None:
        """Answer False, which ends the call, unless another attempt ends in time."""
        left = request_dict["context"][_KEY] - time.monotonic()
        if left < _longest_pause(attempts, response) + self.attempt:
            return False
        return None


def _longest_pause(attempts: int, response: tuple[Any, Any] | None) -> float:
    """
    Return the longest pause in seconds that botocore may take after *attempts*.

    Its standard mode draws from ``[0, min(2 ** (attempts - 1), 20)]``, or less; a
    service that names a longer time (``x-amz-retry-after``, in milliseconds) gets
    it, up to 5 s more than what was drawn (``botocore.retries.standard``).
    """
    drawn = min(2.0 ** (attempts - 1), 20.0)
    named = response[0].headers.get("x-amz-retry-after", "") if response else ""
    if not named.isdecimal():
        return drawn
    return max(drawn, min(int(named) / 1000, drawn + 5.0))


def _bound_responses(client: "KMSClient") -> None:
    """
    Let *client* read each response against one clock.

    botocore offers no public way to its connections.  Should this private one ever
    go, calls still work, and ``test_a_trickling_service_cannot_outlive_the_deadline``
    fails.
    """
    endpoint = getattr(client, "_endpoint", None)
    session = getattr(endpoint, "http_session", None)
    pools = getattr(session, "_pool_classes_by_scheme", {})
    pools.update(bound_responses(pools))
