"""In-memory devices that misbehave on demand, to test the signer's checks."""

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any

import bitcurve
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from structlog.testing import LogCapture

from signer.audit.log import AuditLog
from signer.errors import InvalidInputError, KeyNotFoundError
from signer.keys.signer import Signer
from signer.ports.key_backend import DeviceSignature, KeyId
from tests.support.arithmetic import N, P


KEY_ID = KeyId("arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef")

Answer = Callable[[bytes], bytes]
"""Takes a digest and returns the device's DER signature, or raises."""


class Device:
    """
    A key backend with one key, whose signatures come from *answer*.

    ``calls`` counts the requests for a signature.
    """

    name = "device"
    concurrency = 1

    def __init__(self, point: bytes, answer: Answer) -> None:
        self._point = point
        self._answer = answer
        self.calls = 0

    def public_key(self, key_id: KeyId) -> bytes:
        """Return the SubjectPublicKeyInfo, encoded by pyca/cryptography."""
        return spki(self._point)

    def sign_digest(self, key_id: KeyId, digest: bytes) -> DeviceSignature:
        """Return a signature with the request id ``request-1``, ``request-2`` ..."""
        self.calls += 1
        return DeviceSignature(self._answer(digest), f"request-{self.calls}")

    def becomes(self, other: "Device") -> None:
        """Become the key of *other*, as if an alias changed its key."""
        self._point = other._point
        self._answer = other._answer


class Directory:
    """A backend with named keys, each with a scripted device."""

    name = "device"
    concurrency = 1

    def __init__(self) -> None:
        self.devices: dict[str, Device] = {}
        self.aliases: dict[str, str] = {}
        self.failure: Exception | None = None

    def resolve(self, name: str) -> KeyId:
        if not name.strip():
            raise InvalidInputError("must name a key", field="key_id")
        key_id = self.aliases.get(name, name)
        if key_id not in self.devices:
            raise KeyNotFoundError("there is no such key")
        return KeyId(key_id)

    def public_key(self, key_id: KeyId) -> bytes:
        """Return the device's public key."""
        return self.devices[key_id].public_key(key_id)

    def sign_digest(self, key_id: KeyId, digest: bytes) -> DeviceSignature:
        """Sign, or raise ``failure`` if it is set."""
        if self.failure is not None:
            raise self.failure
        return self.devices[key_id].sign_digest(key_id, digest)


def honest(key: bitcurve.PrivateKey) -> Device:
    """Return a device that signs correctly with *key*."""
    return Device(point(key), lambda digest: key.sign(digest, hasher=None))


def planted(key: bytes, *answers: bytes | Exception) -> Device:
    """Return a device with the public key *key* that gives *answers* in order."""
    queue = iter(answers)

    def answer(digest: bytes) -> bytes:
        following = next(queue)
        if isinstance(following, Exception):
            raise following
        return following

    return Device(key, answer)


def point(key: bitcurve.PrivateKey) -> bytes:
    """Return the public key as ``04 || x || y``."""
    return key.public_key.format(compressed=False)


def spki(uncompressed: bytes) -> bytes:
    """Return the DER SubjectPublicKeyInfo that pyca/cryptography writes."""
    return ec.EllipticCurvePublicKey.from_encoded_point(
        ec.SECP256K1(), uncompressed
    ).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def components(key: bitcurve.PrivateKey, digest: bytes) -> tuple[int, int, int]:
    """Return r, low s and y-parity as libsecp256k1 makes them."""
    raw = key.sign_recoverable(digest, hasher=None)
    return int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:64], "big"), raw[64]


def recovered(r: int, s: int, recovery_id: int, digest: bytes) -> bytes:
    """Return the key for which (r, s) over *digest* is a signature with that id."""
    raw = r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([recovery_id])
    return bitcurve.PublicKey.from_signature_and_message(
        raw, digest, hasher=None
    ).format(compressed=False)


def abscissas(start: int) -> Iterator[int]:
    """Yield the x coordinates of points on the curve, from *start* upwards."""
    for x in range(start, P):
        if pow(x**3 + 7, (P - 1) // 2, P) == 1:
            yield x


def past_the_order(recovery_id: int) -> tuple[bytes, bytes, bytes]:
    """
    Return a digest, a key, and its DER signature that needs recovery id 2 or 3.

    Then R.x is at least N, which is too rare to be found by search.  So R is chosen
    first, and the key is recovered from it.
    """
    r = next(abscissas(N + 1)) - N
    digest = bytes(31) + b"\x07"
    return (digest, recovered(r, 5, recovery_id, digest), encode_dss_signature(r, 5))


def past_the_order_once() -> tuple[bytes, bytes, bytes, bytes]:
    """
    Return a digest, a key, and two of its signatures: one with id 2, one without.

    With R1 past the order, Q = (s1 R1 - z G) / r1 has an unknown logarithm.  Still
    R2 = a G + b R1 signs for it too: s2 R2 = z G + r2 Q wants s2 b = r2 s1 / r1 and
    s2 a = z (1 - r2 / r1), of which the first gives s2, and the second the digest.
    """
    a, b, s1 = 3, 5, 1
    x1 = next(abscissas(N + 1))
    r1 = x1 - N
    first = bitcurve.PublicKey(b"\x02" + x1.to_bytes(32, "big"))
    second = bitcurve.PublicKey.combine_keys(
        [bitcurve.PrivateKey.from_int(a).public_key, first.multiply(bytes([b]))]
    )
    r2 = int.from_bytes(second.format(compressed=True)[1:], "big")
    ratio = r2 * pow(r1, -1, N) % N
    s2 = ratio * s1 * pow(b, -1, N) % N
    digest = (s2 * a * pow(1 - ratio, -1, N) % N).to_bytes(32, "big")
    return (
        digest,
        recovered(r1, s1, 2, digest),
        encode_dss_signature(r1, s1),
        encode_dss_signature(r2, s2),
    )


def recording(**given: Any) -> tuple[AuditLog, Sequence[MutableMapping[str, Any]]]:
    """Return an audit log made with what is *given*, and the list of its events."""
    capture = LogCapture()
    logger = structlog.wrap_logger(structlog.PrintLogger(), processors=[capture])
    return AuditLog(logger, **given), capture.entries


class FullDisk:
    """A logger that fails after the given number of events."""

    def __init__(self, good: int) -> None:
        self._good = good

    def info(self, event: str, **fields: Any) -> None:
        """Write the event, or fail as on a full disk."""
        self._good -= 1
        if self._good < 0:
            raise OSError(28, "No space left on device")


def recorded_outcomes(events: Sequence[MutableMapping[str, Any]]) -> list[Any]:
    return [event["outcome"] for event in events if "outcome" in event]


def signer_over(device: Device, audit: AuditLog | None = None) -> Signer:
    """Return a signer that is pinned to the device's key."""
    return Signer.open(device, KEY_ID, audit or recording()[0])
