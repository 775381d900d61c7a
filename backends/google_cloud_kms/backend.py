"""
Signs with Google Cloud KMS: key versions of algorithm ``EC_SIGN_SECP256K1_SHA256``.

It needs two permissions, ``cloudkms.cryptoKeyVersions.useToSign`` and
``cloudkms.cryptoKeyVersions.viewPublicKey``.  ``docs/how-to/google-cloud-kms.md``
documents the mapping of errors and the deadline.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from backends.google_cloud_kms.answers import (
    read_public_key,
    read_signature,
    sign_request,
)
from backends.google_cloud_kms.client import KMSClient, Request
from backends.google_cloud_kms.options import FORMAT, AllowedVersions, is_version_name
from backends.kms_retries import Reply
from signer.errors import (
    BackendError,
    InvalidInputError,
    KeyNotFoundError,
    KeyUnusableError,
)
from signer.ports.key_backend import DeviceSignature, KeyId


T = TypeVar("T")

NAME = "google-cloud-kms"

_DIGEST_BYTES = 32


class GoogleCloudKMSBackend:
    """
    Signs with the key versions in *allowed*.

    ``signer/ports/key_backend.py`` documents the methods.  Keys are identified by the
    whole name of a key version, which never refers to another key.
    """

    name = NAME

    def __init__(self, client: KMSClient, allowed: AllowedVersions) -> None:
        self._client = client
        self._allowed = allowed
        self._pid = os.getpid()

    @property
    def concurrency(self) -> int:
        """The adaptive limit."""
        return self._client.concurrency

    def resolve(self, name: str) -> KeyId:
        if not is_version_name(name):
            raise InvalidInputError(FORMAT, field="key_id")
        if name not in self._allowed:
            raise InvalidInputError(
                "must be a key version that GOOGLE_CLOUD_KMS_ALLOWED_KEYS allows;"
                " unset, it allows those in the key ring of GOOGLE_CLOUD_KMS_KEY",
                field="key_id",
            )
        self.public_key(KeyId(name))
        return KeyId(name)

    def public_key(self, key_id: KeyId) -> bytes:
        """Return the DER ``SubjectPublicKeyInfo`` of *key_id*, from Google's PEM."""
        self._require_allowed(key_id)
        request = Request("GetPublicKey", "GET", f"/v1/{key_id}/publicKey")
        return self._call(request, partial(read_public_key, key_id)).value

    def sign_digest(self, key_id: KeyId, digest: bytes) -> DeviceSignature:
        if len(digest) != _DIGEST_BYTES:
            raise InvalidInputError("must be 32 bytes", field="digest")
        self._require_allowed(key_id)
        path = f"/v1/{key_id}:asymmetricSign"
        request = Request("AsymmetricSign", "POST", path, sign_request(digest))
        reply = self._call(request, partial(read_signature, key_id))
        # Google's answers have no id of the request.
        return DeviceSignature(reply.value, None, reply.attempts, reply.throttled)

    def close(self) -> None:
        """Close the idle connections."""
        self._client.close()

    def _require_allowed(self, key_id: KeyId) -> None:
        """Refuse a key of the ring: a party that can write its row could choose one."""
        if not is_version_name(key_id):
            raise KeyNotFoundError("the key id is not the name of a key version")
        if key_id not in self._allowed:
            raise KeyUnusableError(
                "GOOGLE_CLOUD_KMS_ALLOWED_KEYS does not allow the key; add it there"
            )

    def _call(self, request: Request, read: Callable[[bytes], T]) -> Reply[T]:
        if os.getpid() != self._pid:
            # Parent and child would share sockets and read each other's responses.
            raise BackendError("the Cloud KMS client was built before the fork")
        return self._client.call(request, read)
