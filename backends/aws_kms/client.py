"""Builds boto3 clients of KMS, whose endpoint comes only from our settings."""

from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import boto3  # type: ignore[import-untyped]
import botocore.session  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
from botocore.loaders import Loader  # type: ignore[import-untyped]

from backends.aws_kms.client_parts import read_client_parts
from backends.aws_kms.deadline import Deadline
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
