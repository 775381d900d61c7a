"""
The contract of key backends as tests, also for packages that add one.

A package's own tests inherit them, and name what to test::

    ABSENT = KeyId("...")  # Well-formed, and no key has it.

    @pytest.fixture(scope="module")
    def device() -> Device:
        backend = MyBackend(...)
        return Device("mine", backend, backend, backend.generate("a key"), ABSENT)

    class TestMyBackend(KeyBackendContract):
        pass

It needs pytest, which the service does not install.
"""

import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, cast

import pytest
from asn1crypto.algos import DSASignature
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256K1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from signer.crypto.secp256k1 import PublicKey, recoverable
from signer.errors import BackendError, InvalidInputError, KeyNotFoundError
from signer.ports.key_backend import DeviceSignature, KeyBackend, KeyId


AS_GIVEN = ECDSA(Prehashed(SHA256()))
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""The order of secp256k1 (SEC 2, section 2.4.1)."""

THREADS = 16
DIGESTS = [
    bytes(31) + b"\x01",
    b"\x80" + bytes(31),
    b"\xff" * 32,
    (N - 1).to_bytes(32, "big"),
    N.to_bytes(32, "big"),
    (N + 1).to_bytes(32, "big"),
]


class KeyGenerator(KeyBackend, Protocol):
    """A backend that can create keys."""

    def generate(self, label: str) -> KeyId:
        """Create a non-extractable secp256k1 key and return its id."""


@dataclass(frozen=True)
class Device:
    """
    The backend *name* under test.

    ``signs`` has ``key``, and ``makes``, which may be the same object, generates more.
    ``absent`` is the well-formed id of a key that does not exist.
    """

    name: str
    signs: KeyBackend
    makes: KeyGenerator
    key: KeyId
    absent: KeyId

    def loaded(self, key_id: KeyId | None = None) -> EllipticCurvePublicKey:
        """Return the public key as pyca/cryptography reads it."""
        spki = self.signs.public_key(key_id or self.key)
        return cast("EllipticCurvePublicKey", load_der_public_key(spki))


class KeyBackendContract:
    """What every key backend must do; the tests need a fixture ``device``."""

    def test_the_backend_has_a_name(self, device: Device) -> None:
        """Audit records use this constant name in lower case."""
        name = device.signs.name

        assert name
        assert name == name.lower().strip()
        assert device.signs.name == name

    def test_the_backend_admits_at_least_one_thread(self, device: Device) -> None:
        assert device.signs.concurrency >= 1

    def test_the_public_key_is_strict_and_stable(self, device: Device) -> None:
        """The same SubjectPublicKeyInfo each time, as pyca/cryptography encodes it."""
        spki = device.signs.public_key(device.key)
        loaded = device.loaded()

        assert isinstance(spki, bytes)
        assert isinstance(loaded.curve, SECP256K1)
        assert (
            loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == spki
        )
        assert {device.signs.public_key(device.key) for _ in range(5)} == {spki}

    @pytest.mark.parametrize("digest", DIGESTS, ids=bytes.hex)
    def test_digests_at_boundaries_are_signed(
        self, device: Device, digest: bytes
    ) -> None:
        """Digests around 0, 2**255 and the order of the curve."""
        _check(device, digest, device.signs.sign_digest(device.key, digest))

    def test_the_digest_is_signed_as_given(self, device: Device) -> None:
        """The device neither hashes nor truncates it; the DER is strict."""
        for _ in range(50):
            digest = secrets.token_bytes(32)

            answer = device.signs.sign_digest(device.key, digest)

            _check(device, digest, answer)
            with pytest.raises(InvalidSignature):
                device.loaded().verify(answer.der, digest, ECDSA(SHA256()))

    def test_each_signature_has_its_own_nonce(self, device: Device) -> None:
        """The same digest signed 200 times has 200 different r (S14)."""
        digest = secrets.token_bytes(32)

        found = {
            _check(device, digest, device.signs.sign_digest(device.key, digest))
            for _ in range(200)
        }

        assert len(found) == 200

    def test_two_keys_have_different_signatures(self, device: Device) -> None:
        other = device.makes.generate(f"another key {secrets.token_hex(4)}")
        digest = secrets.token_bytes(32)

        answer = device.signs.sign_digest(other, digest)

        assert device.signs.public_key(other) != device.signs.public_key(device.key)
        device.loaded(other).verify(answer.der, digest, AS_GIVEN)
        with pytest.raises(InvalidSignature):
            device.loaded().verify(answer.der, digest, AS_GIVEN)

    def test_an_unknown_key_is_not_found(self, device: Device) -> None:
        """The error contains neither the key id nor the vendor's message."""
        with pytest.raises(KeyNotFoundError):
            device.signs.public_key(device.absent)
        with pytest.raises(KeyNotFoundError) as caught:
            device.signs.sign_digest(device.absent, secrets.token_bytes(32))

        assert device.absent not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None

    @pytest.mark.parametrize(
        "key_id", ["", "nonsense", "zz", "\0", "a" * 3_000, "\u00e9"]
    )
    def test_a_malformed_key_id_is_refused(self, device: Device, key_id: str) -> None:
        """The error is a ``BackendError`` that does not contain the id."""
        for ask in (
            lambda: device.signs.public_key(KeyId(key_id)),
            lambda: device.signs.sign_digest(KeyId(key_id), secrets.token_bytes(32)),
        ):
            with pytest.raises(BackendError) as caught:
                ask()

            assert len(key_id) < 2 or key_id not in str(caught.value)

    @pytest.mark.parametrize("size", [0, 1, 20, 31, 33, 64, 1_000])
    def test_digests_of_other_lengths_are_refused(
        self, device: Device, size: int
    ) -> None:
        """Some devices sign any length, so the backend must refuse it."""
        with pytest.raises(InvalidInputError):
            device.signs.sign_digest(device.key, secrets.token_bytes(size))

    def test_threads_share_a_backend(self, device: Device) -> None:
        """Every signature of sixteen threads verifies over its own digest."""

        def sign(_: int) -> tuple[bytes, DeviceSignature]:
            digest = secrets.token_bytes(32)
            return digest, device.signs.sign_digest(device.key, digest)

        with ThreadPoolExecutor(THREADS) as pool:
            answers = list(pool.map(sign, range(8 * THREADS)))

        assert len({_check(device, *answer) for answer in answers}) == 8 * THREADS


def _check(device: Device, digest: bytes, answer: DeviceSignature) -> int:
    """Verify with OpenSSL and libsecp256k1, encode with asn1crypto; return r."""
    r, s = decode_dss_signature(answer.der)
    point = device.loaded().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    assert DSASignature({"r": r, "s": s}).dump() == answer.der
    assert 0 < r < N
    assert 0 < s < N
    recoverable(r, s, digest, PublicKey(point))
    device.loaded().verify(answer.der, digest, AS_GIVEN)
    return r
