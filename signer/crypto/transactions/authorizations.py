"""Signed authorizations (EIP-7702): an account runs the code of a contract."""

from dataclasses import dataclass

from signer.crypto.secp256k1 import Signature
from signer.crypto.transactions.rlp_items import (
    address_bytes,
    minimal,
    take,
    take_address,
    take_list,
    take_number,
)
from signer.crypto.transactions.typed_transaction import take_signature
from signer.crypto.transactions.validation import UINT64, UINT256, is_address, require


_FIELD = "authorization_list"


@dataclass(frozen=True, slots=True)
class Authorization:
    """
    The signer delegates its account to the code at *address*, or ends that (zero).

    *chain_id* 0 means every chain; *nonce* is that of the signer.  A chain ignores an
    authorization whose signature is out of range, so this class refuses it.
    """

    chain_id: int
    address: str
    nonce: int
    signature: Signature

    def __post_init__(self) -> None:
        """Raise ``InvalidInputError`` for the first field out of range."""
        require(0 <= self.chain_id < UINT256, _FIELD, "has an invalid chain id")
        require(is_address(self.address), _FIELD, "has an invalid address")
        require(0 <= self.nonce < UINT64, _FIELD, "has an invalid nonce")

    def items(self) -> list[object]:
        """Return the RLP items."""
        return [
            minimal(self.chain_id),
            address_bytes(self.address),
            minimal(self.nonce),
            minimal(self.signature.y_parity),
            minimal(self.signature.r),
            minimal(self.signature.s),
        ]


def take_authorizations(item: object) -> tuple[Authorization, ...]:
    """
    Return the authorizations of an RLP item.

    Raises:
        EncodingError: It is not a canonical list of them, or a signature is out of
            range.
        InvalidInputError: Another field is out of range.
    """
    return tuple(_take_authorization(entry) for entry in take_list(item))


def _take_authorization(item: object) -> Authorization:
    chain_id, address, nonce, y_parity, r, s = take(item, 6)
    return Authorization(
        chain_id=take_number(chain_id),
        address=take_address(address),
        nonce=take_number(nonce),
        signature=take_signature(y_parity, r, s),
    )
