"""Which values the fields of a transaction may have; the same rules for all types."""

from functools import lru_cache
from typing import Protocol

from eth_utils.address import is_checksum_address

from signer.errors import InvalidInputError


MAX_GAS = 2**24
"""
The highest gas limit that a block may include (EIP-7825).

Transactions can have a higher one: chains without this EIP include them.
"""

UINT64 = 2**64
UINT256 = 2**256

MAX_CHAIN_ID = (UINT64 - 1) // 2 - 36
"""The highest chain id (EIP-2294): ``v`` of EIP-155, 35 + 2 * id + 1, fits 64 bits."""

# Tokens repeat, and a checksum costs a hash.
is_address = lru_cache(maxsize=1024)(is_checksum_address)


class _Common(Protocol):
    """The fields of all types."""

    @property
    def chain_id(self) -> int: ...
    @property
    def nonce(self) -> int: ...
    @property
    def gas(self) -> int: ...
    @property
    def to(self) -> str | None: ...
    @property
    def value(self) -> int: ...


def require(condition: bool, field: str, rule: str) -> None:
    """Raise ``InvalidInputError`` for *field* unless *condition*; *rule* explains."""
    if not condition:
        raise InvalidInputError(f"the transaction's {field} {rule}", field=field)


def check_common(transaction: _Common, price: int, price_field: str) -> None:
    """
    Check the fields that all types have; *price* is the most for one gas, in wei.

    Raises:
        InvalidInputError: For the first field out of range.
    """
    t = transaction
    is_chain_id = 0 < t.chain_id <= MAX_CHAIN_ID
    require(is_chain_id, "chain_id", "must be 1 to 2**63 - 37 (EIP-2294)")
    # EIP-2681
    require(0 <= t.nonce < UINT64 - 1, "nonce", "must be 0 to 2**64 - 2")
    require(0 <= t.gas < UINT64, "gas", "must be 0 to 2**64 - 1")
    # Nodes refuse more, and so do the tests of Ethereum.
    total = (t.gas or 1) * price
    require(0 <= total < UINT256, price_field, "times gas must be 0 to 2**256 - 1")
    if t.to is not None:
        require(is_address(t.to), "to", "must have its EIP-55 checksum")
    require(0 <= t.value < UINT256, "value", "must be 0 to 2**256 - 1")


def check_fees(max_fee: int, priority_fee: int) -> None:
    """Check the fees of EIP-1559: the priority fee is a part of the max fee."""
    require(
        0 <= priority_fee <= max_fee,
        "max_priority_fee_per_gas",
        "must be 0 to max_fee_per_gas",
    )
