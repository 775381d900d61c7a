"""
Signs with AWS KMS: asymmetric ``ECC_SECG_P256K1`` keys, through boto3.

``KMSBackend`` needs two permissions, ``kms:Sign`` and ``kms:GetPublicKey``.
``KMSAdministrator`` creates keys, with another IAM role.  ``docs/reference/kms.md``
documents the mapping of KMS errors and the deadline.
"""

import os
import re
from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

import boto3  # type: ignore[import-untyped]
import botocore.session  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
from botocore.loaders import Loader  # type: ignore[import-untyped]

from backends.aws_kms.deadline import Deadline
from backends.aws_kms.errors import count_attempts, map_error, request_id
from signer.errors import (
    BackendError,
    ConfigurationError,
    InvalidInputError,
    KeyNotFoundError,
    KeyUnusableError,
    Refusal,
)
from signer.ports import DeviceSignature, KeyId
from signer.redact import quiet_vendor_loggers


if TYPE_CHECKING:
    from types_boto3_kms import KMSClient
    from types_boto3_kms.type_defs import GetPublicKeyResponseTypeDef


T = TypeVar("T")

_DIGEST_BYTES = 32
# KMS's rules for KeyId: an id (multi-Region ids begin with mrk-), an alias, or the ARN
# of either.
_KEY_NAME = re.compile(
    r"(arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:)?"
    r"(alias/[A-Za-z0-9/_-]{1,250}|(key/)?[A-Za-z0-9-]{8,64})"
)
_KEY_ARN = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[A-Za-z0-9-]+")
_REGION = re.compile(r"arn:aws[a-z-]*:kms:([a-z0-9-]+):")

OpenClient = Callable[[str], "KMSClient"]
"""Returns a client for a region; all clients have the same deadline."""


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
            such profile, or the endpoint is not a URL.
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
    except (BotoCoreError, ValueError) as e:
        problem = type(e).__name__
    else:
        deadline.guard(client)
        return client
    raise ConfigurationError(
        Refusal(
            "kms-not-configured",
            f"cannot build a KMS client ({problem}): check AWS_REGION and AWS_PROFILE",
        )
    )


def _session_with_bundled_models() -> botocore.session.Session:
    """Return a session that reads service models and endpoints of botocore alone."""
    session = botocore.session.Session()
    loader = Loader([Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    session.register_component("data_loader", loader)
    return session


class KMSBackend:
    """
    Signs with the keys that *client* may use, and with keys in other regions.

    ``signer/ports/key_backend.py`` documents the methods.  Keys are identified by their
    ARN, because an alias can be retargeted to another key and so to another address.
    ``resolve`` returns the ARN of a key id, an alias or an ARN.

    A key's ARN is valid only in its own region.  For another region, *open_client*
    builds a client, once per region.  Key ids and aliases belong to *client*'s region.
    """

    name = "aws-kms"

    def __init__(
        self, client: "KMSClient", open_client: OpenClient | None = None
    ) -> None:
        self._kms = client
        self._open_client = open_client
        self._clients = {client.meta.region_name: client}
        self._opening = Lock()
        self._pid = os.getpid()

    def resolve(self, key_id: str) -> KeyId:
        if not _KEY_NAME.fullmatch(key_id):
            allowed = "must be a KMS key id, a key or alias ARN, or alias/NAME"
            raise InvalidInputError(allowed, field="key_id")
        return KeyId(self._inspect(key_id)["KeyId"])

    def public_key(self, key_id: KeyId) -> bytes:
        return self._inspect(key_id)["PublicKey"]

    def sign_digest(self, key_id: KeyId, digest: bytes) -> DeviceSignature:
        if len(digest) != _DIGEST_BYTES:
            raise InvalidInputError("must be 32 bytes", field="digest")
        if not _KEY_ARN.fullmatch(key_id):
            raise KeyNotFoundError("the key id is not a key ARN")
        return self._call("Sign", lambda: self._signature(key_id, digest))

    def close(self) -> None:
        """Close the idle connections."""
        with self._opening:
            for client in self._clients.values():
                client.close()

    def _client(self, key_id: str) -> "KMSClient":
        match = _REGION.match(key_id)
        if match is None or self._open_client is None:
            return self._kms
        region = match[1]
        if region in self._clients:
            return self._clients[region]
        # A client costs about 9 MiB, so callers must not invent regions.
        if region not in _regions():
            raise KeyNotFoundError(
                "the key's ARN names a region that this release of botocore does not"
                " know: correct it, or upgrade botocore"
            )
        # Building a client takes 0.1 s, during which other regions are not blocked.
        with self._opening:
            if region not in self._clients:
                self._clients[region] = self._open_client(region)
            return self._clients[region]

    def _signature(self, key_id: KeyId, digest: bytes) -> DeviceSignature:
        response = self._client(key_id).sign(
            KeyId=key_id,
            Message=digest,
            MessageType="DIGEST",  # Signed as given; RAW would hash it again.
            SigningAlgorithm="ECDSA_SHA_256",
        )
        metadata = response["ResponseMetadata"]
        return DeviceSignature(
            response["Signature"], request_id(metadata), count_attempts(metadata)
        )

    def _inspect(self, key_id: str) -> "GetPublicKeyResponseTypeDef":
        """Return GetPublicKey's response, which includes the key's spec and usage."""
        response = self._call(
            "GetPublicKey", lambda: _get_public_key(self._client(key_id), key_id)
        )
        if not _KEY_ARN.fullmatch(response["KeyId"]):
            raise BackendError("KMS returned a key id that is not a key ARN")
        if (
            response["KeySpec"] != "ECC_SECG_P256K1"
            or response["KeyUsage"] != "SIGN_VERIFY"
        ):
            raise KeyUnusableError(
                "the KMS key is not of spec ECC_SECG_P256K1 and usage SIGN_VERIFY"
            )
        return response

    def _call(self, operation: str, request: Callable[[], T]) -> T:
        """Return the response to *request*, or raise our error for boto3's."""
        if os.getpid() != self._pid:
            # Parent and child would share sockets and read each other's responses.
            raise BackendError("the KMS client was built before the fork")
        try:
            return request()
        except BackendError:
            raise
        except Exception as e:  # noqa: BLE001  No vendor's error may leave this class.
            attempts = self._kms.meta.config.retries.get("total_max_attempts", 1)
            error = map_error(operation, e, attempts)
        # Outside the handler, so that __context__ does not contain AWS's message.
        raise error


class KMSAdministrator(KMSBackend):
    """
    Creates keys, for provisioning and rotation; the running service never uses it.

    Its client must not retry: CreateKey has no idempotency token, so a retry after a
    lost response would create a second, unknown key.
    """

    def __init__(self, client: "KMSClient") -> None:
        if client.meta.config.retries.get("total_max_attempts") != 1:
            raise ValueError("a client that creates keys must not retry")
        super().__init__(client)

    def generate(self, label: str) -> KeyId:
        """
        Create a key, tagged ``hotwallet`` with *label*; return its ARN.

        After a lost response, find the key by its tag.
        """
        return self._call("CreateKey", lambda: self._create(label))

    def _create(self, label: str) -> KeyId:
        response = self._kms.create_key(
            KeySpec="ECC_SECG_P256K1",
            KeyUsage="SIGN_VERIFY",
            Tags=[{"TagKey": "hotwallet", "TagValue": label}],
        )
        return KeyId(response["KeyMetadata"]["Arn"])


@cache
def _regions() -> frozenset[str]:
    """Return the regions of all partitions of AWS."""
    session = _session_with_bundled_models()
    return frozenset(
        region
        for partition in session.get_available_partitions()
        for region in session.get_available_regions("kms", partition)
    )


def _get_public_key(client: "KMSClient", key_id: str) -> "GetPublicKeyResponseTypeDef":
    """Return GetPublicKey's response; raise ``KeyError`` if a member is missing."""
    response = client.get_public_key(KeyId=key_id)
    missing = {"KeyId", "KeySpec", "KeyUsage", "PublicKey"} - response.keys()
    if missing:
        raise KeyError(*missing)
    return response
