"""
Builds boto3 clients of KMS, with our endpoint, and a deadline for whole calls.

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
from functools import cache
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import boto3  # type: ignore[import-untyped]
import botocore  # type: ignore[import-untyped]
import botocore.session  # type: ignore[import-untyped]
from botocore.auth import BaseSigner  # type: ignore[import-untyped]
from botocore.awsrequest import AWSResponse  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
from botocore.httpsession import URLLib3Session  # type: ignore[import-untyped]
from botocore.loaders import Loader  # type: ignore[import-untyped]
from botocore.model import Shape  # type: ignore[import-untyped]
from botocore.signers import RequestSigner  # type: ignore[import-untyped]

from backends.http_client import bound_responses
from signer.errors import ConfigurationError, Refusal
from signer.redact import quiet_vendor_loggers


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


def build_client(
    region: str | None,
    endpoint_url: str | None,
    max_retries: int,
    timeout_ms: int,
    max_pool_connections: int,
) -> "KMSClient":
    """
    Return a KMS client that ends every call within *timeout_ms*.

    *max_retries* counts attempts, like ``KMS_MAX_RETRIES``: 3 means at most three, and
    0 means one.  *endpoint_url* comes only from our settings.  An endpoint in the AWS
    configuration file is ignored, and so are service models in ``AWS_DATA_PATH`` and
    ``~/.aws/models``: the start-up guard cannot check where they lead.

    Call it after the fork, once per process; the client is thread-safe.

    Raises:
        ConfigurationError: ``kms-not-configured``: there is no region or no
            such profile, or the endpoint is not a URL.  ``kms-endpoint-forbidden``:
            without *endpoint_url*, the client would leave AWS.
    """
    quiet_vendor_loggers("boto3", "botocore", "urllib3")
    deadline = Deadline(total=timeout_ms / 1000, attempts=max(1, max_retries))
    config = deadline.config(
        max_pool_connections=max_pool_connections,
        tcp_keepalive=True,
        ignore_configured_endpoint_urls=True,
    )
    try:
        # Not boto3's default session, which is shared and not thread-safe.
        session = boto3.session.Session(
            region_name=region, botocore_session=_session_with_bundled_models()
        )
        client: KMSClient = session.client(
            "kms", endpoint_url=endpoint_url, config=config
        )
        deadline.guard(client)
        if endpoint_url is None:
            require_aws_host(client)
    except (BotoCoreError, ValueError) as e:
        problem = type(e).__name__
    else:
        return client
    raise ConfigurationError(
        Refusal(
            "kms-not-configured",
            f"cannot build a KMS client ({problem}): check AWS_REGION and AWS_PROFILE",
        )
    )


@cache
def known_regions() -> frozenset[str]:
    """Return the regions of all partitions of AWS."""
    session = _session_with_bundled_models()
    return frozenset(
        region
        for partition in session.get_available_partitions()
        for region in session.get_available_regions("kms", partition)
    )


def require_aws_host(client: "KMSClient") -> None:
    """
    Refuse a *client* whose requests would not go to AWS's KMS in its region.

    The host is the one that botocore derives for a request, since its rules and not
    ``client.meta.endpoint_url`` decide.  AWS's FIPS and dual-stack hosts are accepted.
    """
    host = urlsplit(read_client_parts(client).url).hostname
    region = client.meta.region_name
    hosts = {
        f"{name}.{region}.{suffix}"
        for name in ("kms", "kms-fips")
        for suffix in _dns_suffixes()
    }
    if host not in hosts:
        raise ConfigurationError(
            Refusal(
                "kms-endpoint-forbidden",
                "the KMS client would send its requests to a host that is not AWS's"
                " KMS in the region; check AWS_REGION and the installed botocore",
            )
        )


def _bundled_loader() -> Loader:
    return Loader([Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)


def _session_with_bundled_models() -> botocore.session.Session:
    """Return a session that reads service models and endpoints of botocore alone."""
    session = botocore.session.Session()
    session.register_component("data_loader", _bundled_loader())
    return session


@cache
def _dns_suffixes() -> frozenset[str]:
    """Return the names under which AWS's partitions have their services."""
    partitions = _bundled_loader().load_data("partitions")["partitions"]
    return frozenset(
        partition["outputs"][name]
        for partition in partitions
        for name in ("dnsSuffix", "dualStackDnsSuffix")
    )


_EVENTS = ("choose-signer", "before-sign", "before-send", "needs-retry")
_SENT = ("X-Amz-Target", "Content-Type", "User-Agent")


@dataclass(frozen=True, slots=True)
class ClientParts:
    """The parts of a client that one request needs; nothing in it is a secret."""

    url: str
    headers: Mapping[str, str]
    connections: URLLib3Session
    output: Shape
    _context: Mapping[str, Any]
    _signer: RequestSigner
    _scope: Mapping[str, str]

    @property
    def deadline(self) -> Deadline:
        """The deadline that ``Deadline.guard`` gave to the client."""
        deadline: Deadline = self._context[KEY]
        return deadline

    def signer(self) -> BaseSigner:
        """Return a signer with the client's credentials, refreshed by botocore."""
        return self._signer.get_auth_instance(**self._scope)


def read_client_parts(client: "KMSClient") -> ClientParts:
    """Return the parts of *client*, which no other thread uses yet."""
    seen: dict[str, dict[str, Any]] = {}
    handlers = {f"{event}.kms": _recorder(event, seen) for event in _EVENTS}
    for event, handler in handlers.items():
        client.meta.events.register_first(event, handler)
    try:
        client.sign(
            KeyId="alias/unused",
            Message=bytes(32),
            MessageType="DIGEST",
            SigningAlgorithm="ECDSA_SHA_256",
        )
    finally:
        for event, handler in handlers.items():
            client.meta.events.unregister(event, handler)
    request = seen["before-send"]["request"]
    chosen = seen["choose-signer"]
    return ClientParts(
        url=request.url,
        headers={name: request.headers[name].decode() for name in _SENT},
        connections=seen["needs-retry"]["endpoint"].http_session,
        output=seen["needs-retry"]["operation"].output_shape,
        _context=request.context,
        _signer=seen["before-sign"]["request_signer"],
        _scope={
            name: chosen[name]
            for name in ("signing_name", "region_name", "signature_version")
        },
    )


def _recorder(event: str, seen: dict[str, dict[str, Any]]) -> Any:
    def record(**details: Any) -> object:
        seen[event] = details
        if event == "choose-signer":
            return botocore.UNSIGNED  # A dry run needs no credentials.
        if event == "before-send":
            return AWSResponse(details["request"].url, 200, {}, _Empty())
        return None

    return record


class _Empty:
    """The body of a response that was never sent."""

    def stream(self) -> list[bytes]:
        return [b"{}"]
