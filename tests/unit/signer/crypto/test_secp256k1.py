"""Keys and signatures: ranges, EIP-2, and recovery to the pinned key."""

import hashlib

import bitcurve
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from eth_keys.datatypes import PublicKey as EthPublicKey
from hypothesis import given
from hypothesis import strategies as st

from signer.crypto.der import parse_public_key, parse_signature
from signer.crypto.secp256k1 import (
    HALF_N,
    N,
    PublicKey,
    Signature,
    checked_digest,
    normalize_s,
    recoverable,
)
from signer.errors import EncodingError, InvalidInputError, RecoveryError
from tests.support import arithmetic
from tests.support.devices import components, point, recovered
from tests.support.vectors import Case, wycheproof


KEY = bitcurve.PrivateKey.from_int(0xC0FFEE)
PINNED = PublicKey(point(KEY))
DIGEST = hashlib.sha256(b"a digest").digest()


# A P-256 key has the right length, and is not on secp256k1.
P256 = (
    ec.derive_private_key(7, ec.SECP256R1())
    .public_key()
    .public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
)

digests = st.binary(min_size=32, max_size=32).filter(any)
keys = st.integers(1, N - 1).map(bitcurve.PrivateKey.from_int)
scalars = st.integers(1, N - 1)


def test_the_order_is_that_of_sec_2() -> None:
    """N is the order in SEC 2, and that of the independent implementation."""
    assert arithmetic.N == N
    assert HALF_N == (N - 1) // 2


@given(s=scalars)
def test_the_lower_s_is_one_of_the_two_that_verify(s: int) -> None:
    """The result is s or N - s, in 1..N/2, and the same for both."""
    low = normalize_s(s)

    assert low in (s, N - s)
    assert 1 <= low <= HALF_N
    assert normalize_s(N - s) == low
    # N/2 is still low, and N/2 + 1 is not (EIP-2).
    assert normalize_s(HALF_N) == normalize_s(HALF_N + 1) == HALF_N


@given(key=keys, digest=digests, high=st.booleans())
def test_every_signature_recovers_to_its_key(
    key: bitcurve.PrivateKey, digest: bytes, high: bool
) -> None:
    """Whichever s the device chose, the result is low-s with the matching parity."""
    r, s, y_parity = components(key, digest)

    signature = recoverable(r, N - s if high else s, digest, PublicKey(point(key)))

    assert signature == Signature(r, s, y_parity)
    assert arithmetic.Verifier(point(key)).accepts(digest, signature.to_bytes())
    assert checked_digest(digest) == digest
    # The device used the wrong key (S7), or hashed again (S8).
    for pinned, signed in ((PINNED, digest), (PublicKey(point(key)), DIGEST)):
        if (pinned.uncompressed, signed) != (point(key), digest):
            with pytest.raises(RecoveryError, match="pinned key"):
                recoverable(r, s, signed, pinned)


@pytest.mark.parametrize("y_parity", [0, 1])
@given(r=scalars, s=scalars, digest=digests)
def test_any_numbers_recover_with_their_own_parity(
    y_parity: int, r: int, s: int, digest: bytes
) -> None:
    """For every (r, s) that has a key, that key and parity are found."""
    try:
        key = recovered(r, normalize_s(s), y_parity, digest)
    except ValueError:  # Half of all r are no x coordinate.
        with pytest.raises(RecoveryError):
            recoverable(r, s, digest, PINNED)
        return

    signature = recoverable(r, s, digest, PublicKey(key))

    assert signature == Signature(r, normalize_s(s), y_parity)
    assert signature.recover(digest).uncompressed == key


@pytest.mark.parametrize("number", [0, N, N + 1, 2**256 - 1, 2**256, 2**300, -1])
def test_numbers_out_of_range_recover_to_nothing(number: int) -> None:
    """A caller that skips the range check gets RecoveryError."""
    with pytest.raises(RecoveryError):
        recoverable(number, 1, DIGEST, PINNED)
    with pytest.raises(RecoveryError):
        recoverable(1, number, DIGEST, PINNED)


@pytest.mark.parametrize(
    ("r", "s", "y_parity"),
    [
        *((r, 1, 0) for r in (0, -1, N, N + 1, arithmetic.P, 2**256 - 1)),
        *((1, s, 0) for s in (0, -1, HALF_N + 1, N - 1, N)),
        *((1, 1, y_parity) for y_parity in (-1, 2, 3, 27, 28)),
    ],
)
def test_numbers_out_of_range_are_refused(r: int, s: int, y_parity: int) -> None:
    """r is in 1..N-1 (S10), s in 1..N/2 (EIP-2), and the parity is 0 or 1."""
    with pytest.raises(EncodingError):
        Signature(r, s, y_parity)


@pytest.mark.parametrize(
    ("r", "s", "y_parity"), [(1, 1, 0), (N - 1, HALF_N, 1), (2**200, 255, 1)]
)
def test_a_signature_always_has_65_bytes(r: int, s: int, y_parity: int) -> None:
    """r and s are padded to 32 bytes each, and the parity is the last byte (S6)."""
    encoded = Signature(r, s, y_parity).to_bytes()

    assert len(encoded) == 65
    assert int.from_bytes(encoded[:32], "big") == r
    assert int.from_bytes(encoded[32:64], "big") == s
    assert encoded[64] == y_parity


def test_repr_hides_the_signature() -> None:
    """Signature bytes must not reach a log."""
    assert repr(Signature(123456789, 987654321, 1)) == "Signature(...)"


def test_recovery_without_a_key_is_an_error() -> None:
    """An r that is not an x coordinate, or a digest of another size, has no key."""
    assert not arithmetic.on_curve((5, 0))
    with pytest.raises(RecoveryError):
        Signature(5, 1, 0).recover(DIGEST)
    with pytest.raises(RecoveryError):
        Signature(1, 1, 0).recover(DIGEST[:31])


@pytest.mark.parametrize(
    "uncompressed",
    [
        b"",
        PINNED.uncompressed[:-1],
        PINNED.uncompressed + b"\0",
        PINNED.uncompressed[:-1] + bytes([PINNED.uncompressed[-1] ^ 1]),
        b"\x06" + PINNED.uncompressed[1:],
        b"\x07" + PINNED.uncompressed[1:],
        KEY.public_key.format(compressed=True),
        b"\x04" + bytes(64),
        b"\x04" + b"\xff" * 64,
        b"\x00",
        P256,
    ],
    ids=range(11),
)
def test_only_an_uncompressed_point_of_the_curve_is_a_key(uncompressed: bytes) -> None:
    """Other lengths, forms and points are refused (S12)."""
    with pytest.raises(EncodingError):
        PublicKey(uncompressed)


@given(key=keys)
def test_the_address_is_that_of_eth_keys(key: bitcurve.PrivateKey) -> None:
    """The address is the last 20 bytes of keccak256(x || y), in EIP-55's spelling."""
    public_key = PublicKey(point(key))

    assert public_key.address == EthPublicKey(point(key)[1:]).to_checksum_address()


@pytest.mark.parametrize(
    "digest",
    [
        b"",
        DIGEST[:31],
        DIGEST + b"\0",
        DIGEST * 2,
        bytes(32),
        bytearray(DIGEST),
        DIGEST.hex(),
        "0x" + DIGEST.hex(),
        None,
        int.from_bytes(DIGEST, "big"),
    ],
)
def test_other_digests_are_refused(digest: bytes) -> None:
    """Other sizes, types and 32 zeros are refused before a device sees them (S9)."""
    with pytest.raises(InvalidInputError) as caught:
        checked_digest(digest)

    assert caught.value.field == "digest"


def _accepted(case: Case) -> bool:
    digest = hashlib.sha256(case.message).digest()
    try:
        r, s = parse_signature(case.signature)
        recoverable(r, s, digest, parse_public_key(case.spki))
    except (EncodingError, RecoveryError):
        return False
    return True


@pytest.mark.parametrize(
    ("name", "differing"),
    [
        ("ecdsa_secp256k1_sha256_test", {350}),
        ("ecdsa_secp256k1_sha256_bitcoin_test", {1, 346, 388}),
    ],
)
def test_wycheproof(name: str, differing: set[int]) -> None:
    """
    Every case of wycheproof has its expected result, with known exceptions.

    350 and 346 are valid, but R.x is past the order: Ethereum cannot encode them.
    1 and 388 are invalid in Bitcoin, since s is high; we normalise it.
    """
    cases = wycheproof(name)

    wrong = {case.id for case in cases if _accepted(case) != case.valid}

    assert len(cases) == 463
    assert wrong == differing
