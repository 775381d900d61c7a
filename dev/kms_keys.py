"""
Sign, Verify and GetPublicKey as in AWS KMS, with the keys that moto stores.

moto 5.2 hashes a DIGEST again, accepts digests of any length, and signs with disabled
keys.  These three operations follow the API reference and the table of key states in
the KMS developer guide.  moto serves all others (create, disable, tag, alias).
"""

import base64
import binascii
from collections import deque
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.kms.models import Key, KmsBackend, kms_backends
from moto.kms.utils import ECDSAPrivateKey

from dev.kms_signing import HASHES, KMSError, Parameters, Signing


Result = dict[str, Any]

_MAX_MESSAGE = 4096


@dataclass(frozen=True, slots=True)
class SignEvent:
    """The CloudTrail event of one Sign request, which omits the digest."""

    region: str
    request_id: str
    key_id: str
    message_type: str
    signing_algorithm: str
    error_code: str | None


class Keys:
    """
    The keys in all regions of moto's single account.

    ``trail`` has the latest 100,000 CloudTrail events of Sign, oldest first.
    """

    def __init__(self) -> None:
        self.trail: deque[SignEvent] = deque(maxlen=100_000)

    def sign(
        self, region: str, parameters: Parameters, request_id: str, signing: Signing
    ) -> Result:
        """Return the result of Sign; record success and failure in the trail."""
        error = None
        try:
            return self._sign(region, parameters, signing)
        except KMSError as e:
            error = e.code
            raise
        finally:
            event = SignEvent(
                region=region,
                request_id=request_id,
                key_id=parameters.get("KeyId", ""),
                message_type=parameters.get("MessageType", "RAW"),
                signing_algorithm=parameters.get("SigningAlgorithm", ""),
                error_code=error,
            )
            self.trail.append(event)

    def _sign(self, region: str, parameters: Parameters, signing: Signing) -> Result:
        key = usable(find(region, parameters.get("KeyId", "")))
        private_key = _signing_key(key, "Sign", parameters)
        signature = signing(private_key, _digest(parameters))
        return {
            "KeyId": key.arn,
            "Signature": base64.b64encode(signature).decode(),
            "SigningAlgorithm": parameters["SigningAlgorithm"],
        }

    def verify(self, region: str, parameters: Parameters) -> Result:
        """Return the result of Verify."""
        key = usable(find(region, parameters.get("KeyId", "")))
        public_key = _signing_key(key, "Verify", parameters).public_key()
        algorithm = ec.ECDSA(Prehashed(HASHES[parameters["SigningAlgorithm"]]))
        try:
            public_key.verify(
                _blob(parameters, "Signature"), _digest(parameters), algorithm
            )
        except InvalidSignature:
            raise KMSError("KMSInvalidSignatureException", "") from None
        return {
            "KeyId": key.arn,
            "SignatureValid": True,
            "SigningAlgorithm": parameters["SigningAlgorithm"],
        }

    def public_key(self, region: str, parameters: Parameters) -> Result:
        """Return the result of GetPublicKey, which fails for unusable keys."""
        key = usable(find(region, parameters.get("KeyId", "")))
        if key.key_spec.startswith(("SYMMETRIC", "HMAC")):
            raise KMSError(
                "UnsupportedOperationException",
                f"{key.arn} is a symmetric key, which has no public key.",
            )
        algorithms = {
            "SigningAlgorithms": key.signing_algorithms,
            "EncryptionAlgorithms": key.encryption_algorithms,
        }
        return {
            "CustomerMasterKeySpec": key.key_spec,
            "KeyId": key.arn,
            "KeySpec": key.key_spec,
            "KeyUsage": key.key_usage,
            "PublicKey": base64.b64encode(key.private_key.public_key()).decode(),
            **{name: value for name, value in algorithms.items() if value},
        }


def keys_of(region: str) -> KmsBackend:
    """Return moto's keys in *region*."""
    return kms_backends[DEFAULT_ACCOUNT_ID][region]


def region_of(arn: str) -> str:
    """Return the region that *arn* names."""
    return arn.split(":")[3]


def find(region: str, name: str) -> Key:
    """
    Return the key for *name*: a key id, key ARN, alias name or alias ARN.

    Raises:
        KMSError: ``NotFoundException``, also for an ARN of another region.
    """
    backend = keys_of(region)
    prefix = f"arn:aws:kms:{region}:{DEFAULT_ACCOUNT_ID}:"
    local = name.removeprefix(prefix).removeprefix("key/")
    if local.startswith("alias/"):
        key_id = backend.get_key_id_from_alias(local)
        missing = f"Alias {prefix}{local} is not found."
    else:
        key_id = local
        missing = f"Key '{prefix}key/{local}' does not exist"
    if key_id is None or key_id not in backend.keys:
        raise KMSError("NotFoundException", missing)
    return backend.keys[key_id]


def usable(key: Key) -> Key:
    """Return *key* if its state allows signing (developer guide, key states)."""
    if key.key_state == "Disabled":
        raise KMSError(
            "DisabledException", f"{key.arn} is disabled.", HTTPStatus.CONFLICT
        )
    if key.key_state == "PendingDeletion":
        raise KMSError(
            "KMSInvalidStateException",
            f"{key.arn} is pending deletion.",
            HTTPStatus.CONFLICT,
        )
    return key


def _signing_key(
    key: Key, operation: str, parameters: Parameters
) -> ec.EllipticCurvePrivateKey:
    algorithm = parameters.get("SigningAlgorithm")
    if key.key_usage != "SIGN_VERIFY":
        raise KMSError(
            "InvalidKeyUsageException",
            f"{key.arn} key usage is {key.key_usage} which is not valid for"
            f" {operation}.",
        )
    if algorithm not in key.signing_algorithms:
        raise KMSError(
            "InvalidKeyUsageException",
            f"Algorithm {algorithm} is incompatible with key spec {key.key_spec}.",
        )
    if not isinstance(key.private_key, ECDSAPrivateKey):
        raise KMSError(
            "UnsupportedOperationException", "This emulator signs with EC keys only."
        )
    return key.private_key.private_key


def _digest(parameters: Parameters) -> bytes:
    """Return the digest to sign: the given one, or the hash of the message."""
    message = _blob(parameters, "Message")
    algorithm = parameters["SigningAlgorithm"]
    hashed = HASHES[algorithm]
    if not 1 <= len(message) <= _MAX_MESSAGE:
        raise KMSError(
            "ValidationException",
            "1 validation error detected: Value at 'message' failed to satisfy"
            f" constraint: Member must have length from 1 to {_MAX_MESSAGE}",
        )
    if parameters.get("MessageType", "RAW") == "RAW":
        hasher = hashes.Hash(hashed)
        hasher.update(message)
        return hasher.finalize()
    if len(message) != hashed.digest_size:
        raise KMSError(
            "ValidationException",
            f"Digest is invalid length for algorithm {algorithm}.",
        )
    return message


def _blob(parameters: Parameters, name: str) -> bytes:
    try:
        return base64.b64decode(parameters.get(name, ""), validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise KMSError("SerializationException", f"{name} is not base64.") from None
