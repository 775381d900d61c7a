"""Builds boto3 clients of KMS, whose endpoint comes only from our settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3  # type: ignore[import-untyped]
import botocore  # type: ignore[import-untyped]
import botocore.session  # type: ignore[import-untyped]
from botocore.auth import BaseSigner  # type: ignore[import-untyped]
from botocore.awsrequest import AWSResponse  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
from botocore.httpsession import URLLib3Session  # type: ignore[import-untyped]
from botocore.loaders import Loader  # type: ignore[import-untyped]
from botocore.model import Shape  # type: ignore[import-untyped]
from botocore.signers import RequestSigner  # type: ignore[import-untyped]

from backends.aws_kms.deadline import KEY, Deadline
from signer.errors import ConfigurationError, Refusal
from signer.redact import quiet_vendor_loggers


if TYPE_CHECKING:
    from types_boto3_kms import KMSClient


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
