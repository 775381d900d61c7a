"""
The one kind of transaction that refunds use: EIP-1559, type 2.

RLP is the rlp library's.  eth-account, which knows every kind and takes ten
times as long, is the oracle that the tests compare each byte with.
"""

from dataclasses import dataclass
from typing import Self

import rlp
from eth_utils.address import (
    is_checksum_address,
    to_canonical_address,
    to_checksum_address,
)
from eth_utils.crypto import keccak
from rlp.exceptions import RLPException
from rlp.sedes import Binary, List, big_endian_int, binary

from signer.errors import EncodingError, InvalidInputError
from signer.secp256k1 import PublicKey, Signature


TYPE = b"\x02"

MAX_GAS = 2**24
"""No transaction may ask for more gas than this (EIP-7825)."""

_UINT64 = 2**64
_UINT256 = 2**256

# The access list must be empty: a transfer has no use for one.
_SIGNED = List(
    [
        *[big_endian_int] * 5,
        Binary.fixed_length(20),
        big_endian_int,
        binary,
        List([]),
        *[big_endian_int] * 3,
    ]
)


@dataclass(frozen=True, slots=True)
class Transaction:
    """
    An unsigned EIP-1559 transaction; fees in wei per gas, ``value`` in wei.

    Raises:
        InvalidInputError: A field is out of range, or no node would take it.
    """

    chain_id: int
    nonce: int
    max_priority_fee_per_gas: int
    max_fee_per_gas: int
    gas: int
    to: str
    value: int
    data: bytes

    def __post_init__(self) -> None:
        """Refuse what must never be signed."""
        _require(0 < self.chain_id < _UINT64, "chain_id")
        _require(0 <= self.nonce < _UINT64 - 1, "nonce")  # EIP-2681
        _require(0 < self.gas <= MAX_GAS, "gas")
        _require(0 <= self.gas * self.max_fee_per_gas < _UINT256, "max_fee_per_gas")
        _require(
            0 <= self.max_priority_fee_per_gas <= self.max_fee_per_gas,
            "max_priority_fee_per_gas",
        )
        _require(is_checksum_address(self.to), "to")
        _require(0 <= self.value < _UINT256, "value")

    def signing_digest(self) -> bytes:
        """Return what must be signed: keccak256(0x02 || rlp(fields))."""
        return keccak(_encode(self._fields()))

    def serialise(self, signature: Signature) -> bytes:
        """Return the signed bytes that the network takes (EIP-2718)."""
        numbers = (signature.y_parity, signature.r, signature.s)
        return _encode([*self._fields(), *map(_minimal, numbers)])

    def _fields(self) -> list[object]:
        return [
            _minimal(self.chain_id),
            _minimal(self.nonce),
            _minimal(self.max_priority_fee_per_gas),
            _minimal(self.max_fee_per_gas),
            _minimal(self.gas),
            to_canonical_address(self.to),
            _minimal(self.value),
            self.data,
            [],
        ]


@dataclass(frozen=True, slots=True)
class SignedBytes:
    """A signed transaction, read back from its bytes."""

    raw: bytes
    transaction: Transaction
    signature: Signature

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """
        Read signed bytes back.

        Raises:
            EncodingError: They are not one canonical EIP-1559 transaction, or
                its signature is out of range.
            InvalidInputError: A field is out of range.
        """
        if raw[:1] != TYPE:
            raise EncodingError("not an EIP-1559 transaction")
        try:
            fields = rlp.decode(raw[1:], _SIGNED)
        except (RLPException, RecursionError, TypeError):
            # Lists may nest without end, or stand where a number is expected.
            raise EncodingError("not the RLP of an EIP-1559 transaction") from None
        *numbers, to, value, data, _, y_parity, r, s = fields
        chain_id, nonce, priority_fee, max_fee, gas = numbers
        transaction = Transaction(
            chain_id=chain_id,
            nonce=nonce,
            max_priority_fee_per_gas=priority_fee,
            max_fee_per_gas=max_fee,
            gas=gas,
            to=to_checksum_address(to),
            value=value,
            data=data,
        )
        signature = Signature(r, s, y_parity)
        if transaction.serialise(signature) != raw:
            raise EncodingError("not the canonical RLP of an EIP-1559 transaction")
        return cls(raw, transaction, signature)

    @property
    def tx_hash(self) -> str:
        """The hash by which the network knows the transaction."""
        return "0x" + keccak(self.raw).hex()

    def sender(self) -> PublicKey:
        """
        Return the key that signed.

        Raises:
            RecoveryError: No key did.
        """
        return self.signature.recover(self.transaction.signing_digest())


def _encode(fields: list[object]) -> bytes:
    # Everything is bytes already: without the guessing it takes a third of the time.
    return TYPE + bytes(rlp.encode(fields, infer_serializer=False))


def _minimal(number: int) -> bytes:
    """Return the shortest big-endian bytes of *number*; none for 0, as RLP asks."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _require(condition: bool, field: str) -> None:
    if not condition:
        raise InvalidInputError(f"the transaction's {field} is invalid", field=field)
