"""Contract of every key backend."""

import secrets
from concurrent.futures import ThreadPoolExecutor

import coincurve
import pytest
from asn1crypto.algos import DSASignature
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256K1
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from signer.errors import BackendError, InvalidInputError, KeyNotFoundError
from signer.ports import DeviceSignature, KeyId
from tests.contract.devices import Device
from tests.contract.signatures import all_good, some_signatures
from tests.support.arithmetic import N


AS_GIVEN = ECDSA(Prehashed(SHA256()))
THREADS = 16


def test_the_backend_has_a_name(device: Device) -> None:
    """Audit records use this constant name in lower case."""
    name = device.signs.name

    assert name
    assert name == name.lower().strip()
    assert device.signs.name == name


def test_the_backend_admits_at_least_one_thread(device: Device) -> None:
    assert device.signs.concurrency >= 1


def test_the_public_key_is_strict_and_stable(device: Device) -> None:
    """The same SubjectPublicKeyInfo each time, encoded as pyca/cryptography does."""
    spki = device.signs.public_key(device.key)
    loaded = device.loaded()

    assert isinstance(spki, bytes)
    assert isinstance(loaded.curve, SECP256K1)
    assert loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == spki
    assert {device.signs.public_key(device.key) for _ in range(5)} == {spki}


DIGESTS = [
    bytes(31) + b"\x01",
    b"\x80" + bytes(31),
    b"\xff" * 32,
    (N - 1).to_bytes(32, "big"),
    N.to_bytes(32, "big"),
    (N + 1).to_bytes(32, "big"),
]


def _check(device: Device, digest: bytes, answer: DeviceSignature) -> int:
    """Verify with OpenSSL and libsecp256k1, encode with asn1crypto; return r."""
    r, s = decode_dss_signature(answer.der)
    low = encode_dss_signature(r, min(s, N - s))  # libsecp256k1 takes no other.
    point = device.loaded().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)

    assert DSASignature({"r": r, "s": s}).dump() == answer.der
    assert 0 < r < N
    assert 0 < s < N
    assert coincurve.PublicKey(point).verify(low, digest, hasher=None)
    device.loaded().verify(answer.der, digest, AS_GIVEN)
    return r


@pytest.mark.parametrize("digest", DIGESTS, ids=bytes.hex)
def test_digests_at_boundaries_are_signed(device: Device, digest: bytes) -> None:
    """Digests around 0, 2**255 and the order of the curve."""
    _check(device, digest, device.signs.sign_digest(device.key, digest))


def test_the_digest_is_signed_as_given(device: Device) -> None:
    """The device neither hashes nor truncates it; the DER is strict."""
    for _ in range(50):
        digest = secrets.token_bytes(32)

        answer = device.signs.sign_digest(device.key, digest)

        _check(device, digest, answer)
        with pytest.raises(InvalidSignature):
            device.loaded().verify(answer.der, digest, ECDSA(SHA256()))


def test_each_signature_has_its_own_nonce(device: Device) -> None:
    """The same digest signed 200 times has 200 different r (S14)."""
    digest = secrets.token_bytes(32)

    found = {
        _check(device, digest, device.signs.sign_digest(device.key, digest))
        for _ in range(200)
    }

    assert len(found) == 200


def test_two_keys_have_different_signatures(device: Device) -> None:
    other = device.makes.generate(f"another key {secrets.token_hex(4)}")
    digest = secrets.token_bytes(32)

    answer = device.signs.sign_digest(other, digest)

    assert device.signs.public_key(other) != device.signs.public_key(device.key)
    device.loaded(other).verify(answer.der, digest, AS_GIVEN)
    with pytest.raises(InvalidSignature):
        device.loaded().verify(answer.der, digest, AS_GIVEN)


def test_an_unknown_key_is_not_found(device: Device) -> None:
    """The error contains neither the key id nor the vendor's message."""
    with pytest.raises(KeyNotFoundError):
        device.signs.public_key(device.absent)
    with pytest.raises(KeyNotFoundError) as caught:
        device.signs.sign_digest(device.absent, secrets.token_bytes(32))

    assert device.absent not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("key_id", ["", "nonsense", "zz", "\0", "a" * 3_000, "\u00e9"])
def test_a_malformed_key_id_is_refused(device: Device, key_id: str) -> None:
    """The error is a ``BackendError`` that does not contain the id."""
    for ask in (
        lambda: device.signs.public_key(KeyId(key_id)),
        lambda: device.signs.sign_digest(KeyId(key_id), secrets.token_bytes(32)),
    ):
        with pytest.raises(BackendError) as caught:
            ask()

        assert len(key_id) < 2 or key_id not in str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 20, 31, 33, 64, 1_000])
def test_digests_of_other_lengths_are_refused(device: Device, size: int) -> None:
    """Some devices sign any length, so the backend must refuse it."""
    with pytest.raises(InvalidInputError):
        device.signs.sign_digest(device.key, secrets.token_bytes(size))


def test_threads_share_a_backend(device: Device) -> None:
    """Every signature of sixteen threads verifies over its own digest."""

    def sign(_: int) -> tuple[bytes, DeviceSignature]:
        digest = secrets.token_bytes(32)
        return digest, device.signs.sign_digest(device.key, digest)

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(sign, range(8 * THREADS)))

    assert len({_check(device, *answer) for answer in answers}) == 8 * THREADS


def test_hundreds_of_signatures(device: Device) -> None:
    """All are 65 bytes, low-s, and recover to the key (G9)."""
    # `tests/signatures` has ten thousand of each backend.
    signatures = some_signatures(device, 300)

    assert len(signatures) == 300
    assert all_good(device, signatures)
