"""
Signs with AWS KMS: asymmetric ``ECC_SECG_P256K1`` keys, through boto3.

``KMSBackend`` needs two permissions, ``kms:Sign`` and ``kms:GetPublicKey``.
``KMSAdministrator`` creates keys, with another IAM role.  ``docs/reference/kms.md``
documents the mapping of KMS errors and the deadline.
"""

import json
import os
import re
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from threading import Lock
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar, cast

from botocore.awsrequest import AWSPreparedRequest, AWSRequest  # type: ignore[import-untyped]
from botocore.exceptions import (  # type: ignore[import-untyped]
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's own, the base of its connection errors.
    ConnectTimeoutError,
    HTTPClientError,
    ReadTimeoutError,
)
from botocore.parsers import create_parser  # type: ignore[import-untyped]
from botocore.retries.quota import RetryQuota  # type: ignore[import-untyped]

from backends.aws_kms.client import known_regions, read_client_parts
from backends.aws_kms.errors import map_error, request_id, retry_after
from backends.kms_retries import AttemptError, CallLimits, KMSCalls
from signer.config.allowed_keys import AllowedKeys
from signer.crypto.der import parse_public_key
from signer.errors import (
    BackendError,
    BackendUnavailableError,
    EncodingError,
    InvalidInputError,
    KeyNotFoundError,
    KeyUnusableError,
)
from signer.ports.key_backend import DeviceSignature, KeyId


if TYPE_CHECKING:
    from types_boto3_kms import KMSClient
    from types_boto3_kms.type_defs import GetPublicKeyResponseTypeDef


_REDIRECT = 300


class SignResponse(NamedTuple):
    """A DER signature and the request's id."""

    der: bytes
    request_id: str | None


class SignCall:
    """Sends ``Sign`` as *client* would, once per call; threads share an instance."""

    def __init__(self, client: "KMSClient") -> None:
        self._parts = read_client_parts(client)
        self._parser = create_parser("json")
        self.deadline = self._parts.deadline

    def send(self, key_id: KeyId, digest: bytes) -> SignResponse:
        """Return KMS's signature over *digest*; raises what boto3 raises."""
        body = {
            "KeyId": key_id,
            "Message": b64encode(digest).decode(),
            "MessageType": "DIGEST",  # Signed as given; RAW would hash it again.
            "SigningAlgorithm": "ECDSA_SHA_256",
        }
        response = self._parts.connections.send(self._signed(json.dumps(body).encode()))
        parsed = self._parser.parse(
            {
                "status_code": response.status_code,
                "headers": response.headers,
                "body": response.content,
            },
            self._parts.output,
        )
        if response.status_code >= _REDIRECT:
            raise ClientError(parsed, "Sign")
        return SignResponse(parsed["Signature"], request_id(parsed["ResponseMetadata"]))

    def _signed(self, body: bytes) -> AWSPreparedRequest:
        request = AWSRequest("POST", self._parts.url, self._parts.headers, body)
        self._parts.signer().add_auth(request)
        headers = dict(request.headers.items())
        return AWSPreparedRequest("POST", self._parts.url, headers, body, False)


_TOO_MANY = (
    "too many signatures wait for KMS already; KMS_SIGNATURES_PER_SECOND,"
    " KMS_MAX_CONCURRENCY or the latency of KMS limits them"
)
_SENT_FAILURES = (ClientError, ConnectionError, HTTPClientError)
_TIMEOUTS = (ConnectTimeoutError, ReadTimeoutError)


class SigningClient:
    """Calls ``Sign`` as *client* would, at most *per_second* times (0: any)."""

    def __init__(
        self,
        client: "KMSClient",
        per_second: float = 0,
        *,
        timer: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._call = SignCall(client)
        deadline = self._call.deadline
        limits = CallLimits(
            deadline.attempts,
            deadline.attempt,
            deadline.patience,
            client.meta.config.max_pool_connections,
            per_second,
        )
        self._calls = KMSCalls(
            "KMS", _TOO_MANY, limits, RetryQuota(), timer=timer, sleep=sleep
        )

    @property
    def concurrency(self) -> int:
        """How many calls are sent at once, at the moment."""
        return self._calls.concurrency

    def sign(self, key_id: KeyId, digest: bytes) -> DeviceSignature:
        """Return KMS's signature over *digest*; raises as ``KMSCalls.call``."""
        reply = self._calls.call(lambda _: self._attempt(key_id, digest))
        der, request = reply.value
        return DeviceSignature(der, request, reply.attempts, reply.throttled)

    def _attempt(self, key_id: KeyId, digest: bytes) -> SignResponse:
        try:
            return self._call.send(key_id, digest)
        except Exception as e:  # noqa: BLE001  No vendor's error leaves this class.
            failure = e
        error = map_error("Sign", failure)
        raise AttemptError(
            error,
            may_repeat=error.retryable and isinstance(failure, _SENT_FAILURES),
            pause=retry_after(failure),
            is_late=isinstance(failure, _TIMEOUTS),
        )


T = TypeVar("T")

_DIGEST_BYTES = 32
_SPEC: Final = "ECC_SECG_P256K1"
# KMS's rules for KeyId: an id (multi-Region ids begin with mrk-), an alias, or the ARN
# of either.
_KEY_NAME = re.compile(
    r"(arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:)?"
    r"(alias/[A-Za-z0-9/_-]{1,250}|(key/)?[A-Za-z0-9-]{8,64})"
)
_KEY_ARN = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[A-Za-z0-9-]+")
_REGION = re.compile(r"arn:aws[a-z-]*:kms:([a-z0-9-]+):")

_MAX_CLIENTS = 4
"""How many clients are kept, which cost about 9 MiB each: one per region in use."""

_NOT_ALLOWED = (
    "must be a key that KMS_ALLOWED_KEYS allows; unset, it allows keys in the account"
    " and region of KMS_KEY_ID"
)

OpenClient = Callable[[str], "KMSClient"]
"""Returns a client for a region; all clients have the same deadline."""


class _Region(NamedTuple):
    """How one region is called: ``Sign`` in one way, and all else in another."""

    client: "KMSClient"
    signing: SigningClient


class KMSBackend:
    """
    Signs with the keys that *client* may use, and with keys in other regions.

    ``signer/ports/key_backend.py`` documents the methods.  Keys are identified by their
    ARN, because an alias can be retargeted to another key and so to another address.
    ``resolve`` returns the ARN of a key id, an alias or an ARN.

    A key's ARN is valid only in its own region.  For another region, *open_client*
    builds a client, once per region.  Key ids and aliases belong to *client*'s region.

    Keys that are not in *allowed* are refused before a client is built for them; None
    allows every key.  At most *per_second* requests of ``Sign`` are sent to a region,
    which also count KMS's retries; 0 sends any number.
    """

    name = "aws-kms"

    def __init__(
        self,
        client: "KMSClient",
        open_client: OpenClient | None = None,
        allowed: AllowedKeys | None = None,
        per_second: float = 0,
    ) -> None:
        self._kms = client
        self._open_client = open_client
        self._allowed = allowed
        self._per_second = per_second
        self._home = self._region_of(client)
        self._regions = {client.meta.region_name: self._home}
        self._opening = Lock()
        self._pid = os.getpid()

    @property
    def concurrency(self) -> int:
        """The adaptive limit, of the region that has the highest."""
        regions = tuple(self._regions.values())
        return max(region.signing.concurrency for region in regions)

    def resolve(self, key_id: str) -> KeyId:
        if not _KEY_NAME.fullmatch(key_id):
            allowed = "must be a KMS key id, a key or alias ARN, or alias/NAME"
            raise InvalidInputError(allowed, field="key_id")
        if self._allowed is not None and not self._allowed.may_contain(key_id):
            raise InvalidInputError(_NOT_ALLOWED, field="key_id")
        arn = KeyId(self._inspect(key_id)["KeyId"])
        if not self._is_allowed(arn):  # An alias may lead to any key of its account.
            raise InvalidInputError(_NOT_ALLOWED, field="key_id")
        return arn

    def public_key(self, key_id: KeyId) -> bytes:
        self._require_allowed(key_id)
        return self._inspect(key_id)["PublicKey"]

    def sign_digest(self, key_id: KeyId, digest: bytes) -> DeviceSignature:
        if len(digest) != _DIGEST_BYTES:
            raise InvalidInputError("must be 32 bytes", field="digest")
        if not _KEY_ARN.fullmatch(key_id):
            raise KeyNotFoundError("the key id is not a key ARN")
        self._require_allowed(key_id)
        return self._call(
            "Sign", lambda: self._region(key_id).signing.sign(key_id, digest)
        )

    def close(self) -> None:
        with self._opening:
            for region in self._regions.values():
                region.client.close()

    def _is_allowed(self, arn: str) -> bool:
        return self._allowed is None or arn in self._allowed

    def _require_allowed(self, arn: KeyId) -> None:
        """Refuse a key of the ring: a party that can write its row could choose one."""
        if not self._is_allowed(arn):
            raise KeyUnusableError(
                "KMS_ALLOWED_KEYS does not allow the key; add its ARN there"
            )

    def _region_of(self, client: "KMSClient") -> _Region:
        return _Region(client, SigningClient(client, self._per_second))

    def _region(self, key_id: str) -> _Region:
        match = _REGION.match(key_id)
        if match is None or self._open_client is None:
            return self._home
        region = match[1]
        # One look-up: another thread may drop the client.
        if (known := self._regions.get(region)) is not None:
            return known
        # Clients cost memory, so callers must not invent regions.
        if region not in known_regions():
            raise KeyNotFoundError(
                "the key's ARN names a region that this release of botocore does not"
                " know: correct it, or upgrade botocore"
            )
        # Building a client takes 0.1 s, during which other regions are not blocked.
        with self._opening:
            if region not in self._regions:
                opened = self._region_of(self._open_client(region))
                self._drop_oldest()
                self._regions[region] = opened
            return self._regions[region]

    def _drop_oldest(self) -> None:
        """
        Make room for one client.

        A thread may still use the dropped client, which is therefore not closed: its
        connections end with the last reference.
        """
        _, *others = self._regions
        if len(others) >= _MAX_CLIENTS - 1:
            del self._regions[others[0]]

    def _inspect(self, key_id: str) -> "GetPublicKeyResponseTypeDef":
        """Return GetPublicKey's response, which includes the key's spec and usage."""
        response = self._call(
            "GetPublicKey", lambda: _get_public_key(self._region(key_id).client, key_id)
        )
        if key_id.endswith(f":key/{response['KeyId']}"):
            response["KeyId"] = key_id  # moto returns the id of an ARN.
        if not _KEY_ARN.fullmatch(response["KeyId"]):
            raise BackendError("KMS returned a key id that is not a key ARN")
        if not _is_usable(response):
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
        """Create a key, tagged ``hotwallet`` with *label*; return its ARN."""
        return self._call("CreateKey", lambda: self._create(label))

    def _create(self, label: str) -> KeyId:
        response = self._kms.create_key(
            KeySpec=_SPEC,
            KeyUsage="SIGN_VERIFY",
            Tags=[{"TagKey": "hotwallet", "TagValue": label}],
        )
        return KeyId(response["KeyMetadata"]["Arn"])


def _get_public_key(client: "KMSClient", key_id: str) -> "GetPublicKeyResponseTypeDef":
    """Return GetPublicKey's response; refuse one that lacks a member."""
    response = client.get_public_key(KeyId=key_id)
    missing = {"KeyId", "KeyUsage", "PublicKey"} - response.keys()
    if missing:
        names = " and ".join(sorted(missing))
        raise BackendUnavailableError(f"KMS returned a public key without {names}")
    return response


def _is_usable(response: "GetPublicKeyResponseTypeDef") -> bool:
    """Return whether the key signs on secp256k1; moto has no ``KeySpec``."""
    members = cast("Mapping[str, object]", response)
    spec = members.get("KeySpec", _spec(response["PublicKey"]))
    return spec == _SPEC and response["KeyUsage"] == "SIGN_VERIFY"


def _spec(spki: bytes) -> str | None:
    """Return the spec of a key on secp256k1; None for any other."""
    try:
        parse_public_key(spki)
    except EncodingError:
        return None
    return _SPEC
