"""Checksums of addresses (EIP-55), compared with those of eth-utils."""

from eth_utils.address import is_checksum_address, to_checksum_address
from hypothesis import given
from hypothesis import strategies as st

from signer.crypto.transactions.fields import is_address, take_address


_ADDRESSES = st.binary(min_size=20, max_size=20)


@given(_ADDRESSES)
def test_checksums_equal_those_of_eth_utils(address: bytes) -> None:
    """An address that is read from a transaction has the checksum of EIP-55."""
    assert take_address(address) == to_checksum_address(address)


@given(
    _ADDRESSES.map(to_checksum_address),
    st.sampled_from(
        [str, str.lower, str.upper, str.swapcase, str.encode, lambda text: text[2:]]
    ),
    st.sampled_from(["", "0", "\n", " "]),
)
def test_an_address_has_its_checksum(text: str, change: object, end: str) -> None:
    """Whatever else is written differs from an address for eth-utils too."""
    value = change(text + end)  # type: ignore[operator]
    assert is_address(value) == is_checksum_address(value)
