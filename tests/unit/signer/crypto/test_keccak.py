"""Keccak-256, compared with pycryptodome."""

from Crypto.Hash import keccak as pycryptodome
from hypothesis import given
from hypothesis import strategies as st

from signer.crypto.keccak import keccak


@given(st.binary(max_size=300))
def test_hashes_equal_those_of_pycryptodome(data: bytes) -> None:
    assert keccak(data) == pycryptodome.new(data=data, digest_bits=256).digest()


def test_the_hash_of_nothing() -> None:
    """It is the code hash of an account without code (Yellow Paper, section 4.1)."""
    assert keccak(b"").hex() == (
        "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    )
