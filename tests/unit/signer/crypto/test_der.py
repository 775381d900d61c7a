"""Strict DER: one encoding for each key and each signature."""

import hashlib
from collections.abc import Callable, Iterator

import bitcurve
import pytest
from asn1crypto.algos import DSASignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from signer.crypto.der import (
    encode_public_key,
    parse_public_key,
    parse_signature,
)
from signer.crypto.secp256k1 import N, PublicKey
from signer.errors import EncodingError
from tests.support import arithmetic
from tests.support.devices import point, spki


KEY = bitcurve.PrivateKey.from_int(0xDE5)
SPKI = spki(point(KEY))
SIGNATURE = KEY.sign(hashlib.sha256(b"der").digest(), hasher=None)

scalars = st.integers(1, N - 1)


def _encode(r: int, s: int) -> bytes:
    """Return the DER as asn1crypto writes it."""
    return bytes(DSASignature({"r": r, "s": s}).dump())


EDGES = [1, 2, 127, 128, 255, 256, 2**239, 2**247, 2**248 - 1, 2**255, N - 1]


@given(st.sampled_from(EDGES) | scalars)
def test_short_and_long_numbers(number: int) -> None:
    """Numbers of 1 to 32 bytes, as asn1crypto encodes them (S6)."""
    assert parse_signature(_encode(number, 1)) == (number, 1)
    assert parse_signature(_encode(1, number)) == (1, number)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        *((number, "out of range") for number in (0, N, N + 1)),
        *((number, None) for number in (-1, arithmetic.P, 2**256 - 1, 2**256)),
        *((number, None) for number in (2**264, -(2**255), 2**2048)),
    ],
)
def test_numbers_out_of_range(number: int, message: str | None) -> None:
    """r and s must be in 1..N-1 (S10); 0 and N are valid DER with their own message."""
    for numbers in ((number, 1), (1, number)):
        with pytest.raises(EncodingError, match=message):
            parse_signature(_encode(*numbers))


def _mutations(der: bytes) -> Iterator[bytes]:
    """Yield each way to change, remove or add one byte."""
    for i in range(len(der)):
        for byte in range(256):
            if byte != der[i]:
                yield der[:i] + bytes([byte]) + der[i + 1 :]
        yield der[:i]
        yield der[:i] + der[i + 1 :]
    for byte in range(256):
        yield der + bytes([byte])
        yield bytes([byte]) + der


def test_every_changed_byte_of_a_signature_is_noticed() -> None:
    """
    One byte changed, removed or added: refused, or canonical DER of other numbers.
    """
    accepted = 0
    for mutated in _mutations(SIGNATURE):
        try:
            r, s = parse_signature(mutated)
        except EncodingError:
            continue
        accepted += 1

        assert _encode(r, s) == mutated
        assert 0 < r < N
        assert 0 < s < N

    # Only the 64 bytes of the two numbers may differ and still be a signature.
    assert 0 < accepted <= 64 * 255


def test_every_changed_byte_of_a_public_key_is_refused() -> None:
    """No byte can be changed, removed or added."""
    for mutated in _mutations(SPKI):
        with pytest.raises(EncodingError):
            parse_public_key(mutated)


@given(st.binary(max_size=200))
def test_random_bytes_are_not_a_signature(noise: bytes) -> None:
    """Random bytes raise EncodingError, or are canonical DER."""
    try:
        r, s = parse_signature(noise)
    except EncodingError:
        return

    assert _encode(r, s) == noise


@given(st.binary(max_size=200) | st.binary(max_size=70).map(lambda b: SPKI[:23] + b))
def test_random_bytes_are_not_a_public_key(noise: bytes) -> None:
    """Random bytes raise EncodingError, or are canonical DER."""
    try:
        key = parse_public_key(noise)
    except EncodingError:
        return

    assert spki(key.uncompressed) == noise


@pytest.mark.parametrize(
    "der",
    [
        *(b"", b"\x30\x00", b"\x30\x80" + SIGNATURE[2:] + b"\0\0"),
        *(b"\x30\x81" + SIGNATURE[1:], b"\x30\x82\x00" + SIGNATURE[1:]),
        *(b"\x31" + SIGNATURE[1:], SIGNATURE + SIGNATURE),
        bytes.fromhex("300702020001020101"),
        bytes.fromhex("3006028101010201"),
        bytes.fromhex("3009020101020101020101"),
        bytes.fromhex("300402000200"),
        (5).to_bytes(32, "big") * 2,
        *(None, "3006020101020101", 7, []),
    ],
    ids=range(16),
)
def test_other_encodings_of_a_signature_are_refused(der: bytes) -> None:
    """BER's long, indefinite and padded forms, raw r||s, and other types."""
    with pytest.raises(EncodingError):
        parse_signature(der)


@given(st.integers(1, N - 1).map(bitcurve.PrivateKey.from_int))
def test_a_public_key_survives_the_round_trip(key: bitcurve.PrivateKey) -> None:
    """Every key that pyca/cryptography encodes is decoded, and encoded the same."""
    encoded = spki(point(key))

    assert parse_public_key(encoded) == PublicKey(point(key))
    assert encode_public_key(point(key)) == encoded


def _written(curve: ec.EllipticCurve) -> bytes:
    return (
        ec.derive_private_key(7, curve)
        .public_key()
        .public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


def _compressed() -> bytes:
    body = SPKI[2:20] + b"\x03\x22\x00" + KEY.public_key.format(compressed=True)
    return b"\x30" + bytes([len(body)]) + body


def _explicit_parameters() -> bytes:
    # RFC 5480 forbids them: a chosen generator allows forgeries (CVE-2020-0601).
    return SPKI[:13] + bytes.fromhex("30053003020101") + SPKI[20:]


OTHER_KEYS: dict[str, Callable[[], bytes]] = {
    "P-256": lambda: _written(ec.SECP256R1()),
    "P-384": lambda: _written(ec.SECP384R1()),
    "brainpool": lambda: _written(ec.BrainpoolP256R1()),
    "compressed": _compressed,
    "explicit parameters": _explicit_parameters,
    "hybrid": lambda: SPKI[:23] + bytes([SPKI[23] ^ 2]) + SPKI[24:],
    "off the curve": lambda: SPKI[:-1] + bytes([SPKI[-1] ^ 1]),
    "unused bits": lambda: SPKI[:22] + b"\x01" + SPKI[23:],
    "bare point": lambda: point(KEY),
    "octet string": lambda: b"\x04\x41" + point(KEY),
    "Ed25519": lambda: (
        ed25519.Ed25519PrivateKey.generate()
        .public_key()
        .public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    ),
}


@pytest.mark.parametrize("make", OTHER_KEYS.values(), ids=OTHER_KEYS)
def test_other_keys_are_refused(make: Callable[[], bytes]) -> None:
    """Only id-ecPublicKey on named secp256k1, uncompressed, is accepted (S12)."""
    with pytest.raises(EncodingError):
        parse_public_key(make())
