"""
Signs with AWS KMS: asymmetric ``ECC_SECG_P256K1`` keys, through boto3.

``KMSBackend`` needs two permissions, ``kms:Sign`` and ``kms:GetPublicKey``.  What
makes keys is another class, ``KMSAdministrator``, for another role.  How each KMS
error reaches our tree, and the deadline, stand in ``docs/kms.md``.
"""

import logging
import os
import re
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

import boto3  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

from backends.aws_kms.deadline import Deadline
from backends.aws_kms.errors import attempts, request_id, translated
from signer.errors import (
    BackendError,
    ConfigurationError,
    InvalidInputError,
    KeyNotFoundError,
    KeyUnusableError,
    Refusal,
)
from signer.ports import DeviceSignature, KeyId


if TYPE_CHECKING:
    from types_boto3_kms import KMSClient
    from types_boto3_kms.type_defs import GetPublicKeyResponseTypeDef


T = TypeVar("T")

_DIGEST_BYTES = 32
# KMS's own rules for KeyId: an id (multi-Region ones begin with mrk-), an alias, or
# the ARN of either.
_KEY_NAME = re.compile(
    r"(arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:)?"
    r"(alias/[A-Za-z0-9/_-]{1,250}|(key/)?[A-Za-z0-9-]{8,64})"
)
_KEY_ARN = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[A-Za-z0-9-]+")
_REGION = re.compile(r"arn:aws[a-z-]*:kms:([a-z0-9-]+):")

OpenClient = Callable[[str], "KMSClient"]
"""Makes a client of a region; all have the same deadline."""


def build_client(
    region: str | None,
    endpoint_url: str | None,
    max_retries: int,
    timeout_ms: int,
    max_pool_connections: int,
) -> "KMSClient":
    """
    Return a KMS client that ends every call within *timeout_ms*.

    *max_retries* counts attempts, as ``KMS_MAX_RETRIES`` does: 3 is at most three,
    and 0 is one.  *endpoint_url* comes from our settings alone; one in the AWS
    configuration file is ignored, for the guard could not see it.

    Call it after the fork, once a process; the client is thread-safe.

    Raises:
        ConfigurationError: ``kms-not-configured``: no region, no such profile, or
            no URL.
    """
    _keep_vendor_logs_out()
    deadline = Deadline(total=timeout_ms / 1000, attempts=max(1, max_retries))
    config = deadline.config(
        max_pool_connections=max_pool_connections,
        tcp_keepalive=True,
        ignore_configured_endpoint_urls=True,
    )
    try:
        # A session of our own: boto3's default one is shared and not thread-safe.
        client: KMSClient = boto3.session.Session(region_name=region).client(
            "kms", endpoint_url=endpoint_url, config=config
        )
    except (BotoCoreError, ValueError) as e:
        problem = type(e).__name__
    else:
        deadline.guard(client)
        return client
    raise ConfigurationError(
        Refusal("kms-not-configured", f"no KMS client can be made ({problem})")
    )


def _keep_vendor_logs_out() -> None:
    """
    Silence the AWS libraries, even when the root logger is set to DEBUG.

    At DEBUG they write session tokens, ARNs and signatures, at INFO role names, and
    at WARNING host names and the traceback of a refused ``AssumeRole``.
    """
    for name in ("boto3", "botocore", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


class KMSBackend:
    """
    Signs with the keys that *client* may use, and with those of other regions.

    Keys are named by their ARN: an alias may be pointed at another key, which is
    another address.  ``resolve`` answers the ARN of whatever the operator named.

    KMS knows an ARN in its own region alone, so that one of another region is asked
    through a client that *elsewhere* makes, once a region.  Ids and aliases are those
    of *client*'s region.
    """

    name = "aws-kms"

    def __init__(
        self, client: "KMSClient", elsewhere: OpenClient | None = None
    ) -> None:
        self._kms = client
        self._elsewhere = elsewhere
        self._clients = {client.meta.region_name: client}
        self._opening = Lock()
        self._pid = os.getpid()

    def resolve(self, key_id: str) -> KeyId:
        """
        Return the ARN of *key_id*: an alias, a key id, or an ARN already.

        Raises:
            InvalidInputError: It is none of these; nothing was sent.
            KeyNotFoundError: There is no such key.
            KeyUnusableError: It cannot sign: state, curve or usage.
        """
        if not _KEY_NAME.fullmatch(key_id):
            raise InvalidInputError(
                "must be a KMS key id, a key or alias ARN, or alias/NAME",
                field="key_id",
            )
        return KeyId(self._inspect(key_id)["KeyId"])

    def public_key(self, key_id: KeyId) -> bytes:
        """Return the DER ``SubjectPublicKeyInfo`` (RFC 5480) of *key_id*."""
        return self._inspect(key_id)["PublicKey"]

    def sign_digest(self, key_id: KeyId, digest: bytes) -> DeviceSignature:
        """
        Return the DER ``ECDSA-Sig-Value`` (RFC 3279) over *digest*, as given.

        Raises:
            InvalidInputError: *digest* is not 32 bytes; nothing was sent.
            BackendError: Or one of its children; no signature was received, though
                KMS may have made one that was lost on its way.
        """
        if len(digest) != _DIGEST_BYTES:
            raise InvalidInputError("a digest has 32 bytes", field="digest")
        if not _KEY_ARN.fullmatch(key_id):
            raise KeyNotFoundError("KMS signs by key ARN only, and this is none")
        return self._ask("Sign", lambda: self._signature(key_id, digest))

    def close(self) -> None:
        """Close the idle connections."""
        with self._opening:
            for client in self._clients.values():
                client.close()

    def _client(self, key_id: str) -> "KMSClient":
        """Return the client of the region that *key_id* is in."""
        named = _REGION.match(key_id)
        if named is None or self._elsewhere is None:
            return self._kms
        region = named.group(1)
        found = self._clients.get(region)
        if found is not None:
            return found
        # It takes a tenth of a second, in which the other regions go on.
        with self._opening:
            if region not in self._clients:
                self._clients[region] = self._elsewhere(region)
            return self._clients[region]

    def _signature(self, key_id: KeyId, digest: bytes) -> DeviceSignature:
        answer = self._client(key_id).sign(
            KeyId=key_id,
            Message=digest,
            MessageType="DIGEST",  # Signed as given; RAW would hash it again.
            SigningAlgorithm="ECDSA_SHA_256",
        )
        metadata = answer["ResponseMetadata"]
        return DeviceSignature(
            answer["Signature"], request_id(metadata), attempts(metadata)
        )

    def _inspect(self, key_id: str) -> "GetPublicKeyResponseTypeDef":
        """Ask for the public key, which tells as much as DescribeKey would."""
        answer = self._ask(
            "GetPublicKey", lambda: _complete(self._client(key_id), key_id)
        )
        if (
            answer["KeySpec"] != "ECC_SECG_P256K1"
            or answer["KeyUsage"] != "SIGN_VERIFY"
            or not _KEY_ARN.fullmatch(answer["KeyId"])
        ):
            raise KeyUnusableError(
                "the KMS key is not of spec ECC_SECG_P256K1 and usage SIGN_VERIFY"
            )
        return answer

    def _ask(self, operation: str, question: Callable[[], T]) -> T:
        """Answer *question*, or raise our error for whatever boto3 raises."""
        if os.getpid() != self._pid:
            # Parent and child would share sockets, and read each other's answers.
            raise BackendError("the KMS client was made before the fork")
        try:
            return question()
        except Exception as e:  # noqa: BLE001 - whatever it is, it must not get out.
            most = self._kms.meta.config.retries.get("total_max_attempts", 1)
            failure = translated(operation, e, most)
        # Out here, so that not even __context__ leads to the vendor's words.
        raise failure


class KMSAdministrator(KMSBackend):
    """
    Makes keys.  For provisioning and rotation, never for the running service.

    Its client must not retry: CreateKey has no idempotency token, so a second
    attempt after a lost answer would leave a key that nobody knows.
    """

    def __init__(self, client: "KMSClient") -> None:
        if client.meta.config.retries.get("total_max_attempts") != 1:
            raise ValueError("a client that creates keys must not retry")
        super().__init__(client)

    def generate(self, label: str) -> KeyId:
        """
        Make a secp256k1 key, tagged ``hotwallet`` with *label*, and return its ARN.

        When the answer is lost, the tag is what finds the key again.
        """
        return self._ask("CreateKey", lambda: self._create(label))

    def _create(self, label: str) -> KeyId:
        answer = self._kms.create_key(
            KeySpec="ECC_SECG_P256K1",
            KeyUsage="SIGN_VERIFY",
            Tags=[{"TagKey": "hotwallet", "TagValue": label}],
        )
        return KeyId(answer["KeyMetadata"]["Arn"])


def _complete(client: "KMSClient", key_id: str) -> "GetPublicKeyResponseTypeDef":
    """Return GetPublicKey's answer; raise ``KeyError`` when a part is missing."""
    answer = client.get_public_key(KeyId=key_id)
    missing = {"KeyId", "KeySpec", "KeyUsage", "PublicKey"} - answer.keys()
    if missing:
        raise KeyError(*missing)
    return answer
