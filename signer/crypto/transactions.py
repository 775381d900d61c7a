"""
Encodes and decodes EIP-1559 transactions, and legacy ones with EIP-155.

Legacy is for chains without a base fee.  The rlp library does the RLP.  The tests
compare each byte with eth-account, which supports every type and takes ten times as
long.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Self

import rlp
from eth_utils.address import is_checksum_address, to_checksum_address
from rlp.exceptions import RLPException

from signer.crypto.keccak import keccak
from signer.crypto.secp256k1 import Signature
from signer.errors import EncodingError, InvalidInputError


TYPE = b"\x02"

MAX_GAS = 2**24
"""The highest gas limit of a transaction (EIP-7825)."""

# Tokens repeat, and a checksum costs a hash.
_checksum = lru_cache(maxsize=1024)(to_checksum_address)
_is_checksum = lru_cache(maxsize=1024)(is_checksum_address)

_ADDRESS_SIZE = 20
_UINT64 = 2**64
_UINT256 = 2**256

_FIRST_LIST = b"\xc0"  # EIP-2718: from this byte on, a legacy transaction (RLP).
_FIRST_V = 35  # EIP-155: v = chain id * 2 + 35 + parity.


@dataclass(frozen=True, slots=True)
class Transaction:
    """An unsigned EIP-1559 transaction; fees in wei per gas, ``value`` in wei."""

    chain_id: int
    nonce: int
    max_priority_fee_per_gas: int
    max_fee_per_gas: int
    gas: int
    to: str
    value: int
    data: bytes

    def __post_init__(self) -> None:
        """Raise ``InvalidInputError`` for the first field out of range."""
        _check(self)
        _require(
            0 <= self.max_priority_fee_per_gas <= self.max_fee_per_gas,
            "max_priority_fee_per_gas",
        )

    def signing_digest(self) -> bytes:
        """Return the digest to sign: keccak256(0x02 || rlp(fields))."""
        return keccak(TYPE + _encode(self._fields()))

    def serialise(self, signature: Signature) -> bytes:
        """Return the signed bytes to broadcast (EIP-2718)."""
        numbers = (signature.y_parity, signature.r, signature.s)
        return TYPE + _encode([*self._fields(), *map(_minimal, numbers)])

    def _fields(self) -> list[object]:
        return [
            _minimal(self.chain_id),
            _minimal(self.nonce),
            _minimal(self.max_priority_fee_per_gas),
            _minimal(self.max_fee_per_gas),
            _minimal(self.gas),
            bytes.fromhex(self.to[2:]),
            _minimal(self.value),
            self.data,
            [],
        ]


@dataclass(frozen=True, slots=True)
class LegacyTransaction:
    """An unsigned transaction with one gas price, bound to its chain (EIP-155)."""

    chain_id: int
    nonce: int
    gas_price: int
    gas: int
    to: str
    value: int
    data: bytes

    def __post_init__(self) -> None:
        """Raise ``InvalidInputError`` for the first field out of range."""
        _check(self)

    @property
    def max_fee_per_gas(self) -> int:
        """The gas price."""
        return self.gas_price

    @property
    def max_priority_fee_per_gas(self) -> int:
        """The gas price: without a base fee, the block producer gets all of it."""
        return self.gas_price

    def signing_digest(self) -> bytes:
        """Return the digest to sign: keccak256(rlp(fields, chain id, 0, 0))."""
        return keccak(_encode([*self._fields(), _minimal(self.chain_id), b"", b""]))

    def serialise(self, signature: Signature) -> bytes:
        """Return the signed bytes to broadcast."""
        v = self.chain_id * 2 + _FIRST_V + signature.y_parity
        numbers = (v, signature.r, signature.s)
        return _encode([*self._fields(), *map(_minimal, numbers)])

    def _fields(self) -> list[object]:
        return [
            _minimal(self.nonce),
            _minimal(self.gas_price),
            _minimal(self.gas),
            bytes.fromhex(self.to[2:]),
            _minimal(self.value),
            self.data,
        ]


AnyTransaction = Transaction | LegacyTransaction


@dataclass(frozen=True, slots=True)
class SignedBytes:
    """A signed transaction: its bytes, and what they contain."""

    raw: bytes = field(repr=False)
    transaction: AnyTransaction
    signature: Signature

    @classmethod
    def of(cls, transaction: AnyTransaction, signature: Signature) -> Self:
        """
        Serialise *transaction* with *signature*, and decode the bytes again.

        The bytes therefore contain exactly what was checked.

        Raises:
            EncodingError: The bytes contain anything else, because of a bug.
        """
        signed = cls.decode(transaction.serialise(signature))
        if (signed.transaction, signed.signature) != (transaction, signature):
            raise EncodingError("the signed bytes contain another transaction")
        return signed

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """
        Decode signed bytes.

        Raises:
            EncodingError: *raw* is not one canonical EIP-1559 or legacy transaction,
                is not bound to a chain, or its signature is out of range.
            InvalidInputError: A field is out of range.
        """
        if raw[:1] == TYPE:
            transaction, signature = _read(raw)
        elif raw[:1] >= _FIRST_LIST:
            transaction, signature = _read_legacy(raw)
        else:
            raise EncodingError("neither an EIP-1559 nor a legacy transaction")
        return cls(raw, transaction, signature)

    @property
    def tx_hash(self) -> str:
        """The transaction hash, as 0x-prefixed hex."""
        return "0x" + keccak(self.raw).hex()


def _read(raw: bytes) -> tuple[AnyTransaction, Signature]:
    *numbers, to, value, data, access_list, y_parity, r, s = _decode(raw[1:], 12)
    if access_list != []:
        raise EncodingError("a transfer needs no access list")
    chain_id, nonce, priority_fee, max_fee, gas = map(_number, numbers)
    transaction = Transaction(
        chain_id=chain_id,
        nonce=nonce,
        max_priority_fee_per_gas=priority_fee,
        max_fee_per_gas=max_fee,
        gas=gas,
        to=_address(to),
        value=_number(value),
        data=_bytes(data),
    )
    return transaction, Signature(_number(r), _number(s), _number(y_parity))


def _read_legacy(raw: bytes) -> tuple[AnyTransaction, Signature]:
    *numbers, to, value, data, v, r, s = _decode(raw, 9)
    chain_id, y_parity = divmod(_number(v) - _FIRST_V, 2)
    if chain_id <= 0:
        # Without EIP-155, it could be replayed on any chain.
        raise EncodingError("the transaction is not bound to a chain")
    nonce, gas_price, gas = map(_number, numbers)
    transaction = LegacyTransaction(
        chain_id=chain_id,
        nonce=nonce,
        gas_price=gas_price,
        gas=gas,
        to=_address(to),
        value=_number(value),
        data=_bytes(data),
    )
    return transaction, Signature(_number(r), _number(s), y_parity)


def _decode(encoded: bytes, count: int) -> list[Any]:
    """Return the *count* items of an RLP list; each may be bytes or a list."""
    try:
        items = rlp.decode(encoded)
    except (RLPException, RecursionError):  # Lists may nest without limit.
        items = None
    if not isinstance(items, list) or len(items) != count:
        raise EncodingError("not the RLP of a transaction")
    return items


def _bytes(item: object) -> bytes:
    if not isinstance(item, bytes):
        raise EncodingError("a field of the transaction is a list")
    return item


def _number(item: object) -> int:
    if _bytes(item).startswith(b"\0"):
        raise EncodingError("a number has leading zeros")
    return int.from_bytes(_bytes(item), "big")


def _address(item: object) -> str:
    if len(_bytes(item)) != _ADDRESS_SIZE:
        raise EncodingError("the recipient is not an address")
    return _checksum(_bytes(item))


def _encode(fields: list[object]) -> bytes:
    # All fields are bytes already: without inference it takes a third of the time.
    return bytes(rlp.encode(fields, infer_serializer=False))


def _minimal(number: int) -> bytes:
    """Return the shortest big-endian bytes of *number*; empty for 0, as in RLP."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _check(transaction: AnyTransaction) -> None:
    t = transaction
    _require(0 < t.chain_id < _UINT64, "chain_id")
    _require(0 <= t.nonce < _UINT64 - 1, "nonce")  # EIP-2681
    _require(0 < t.gas <= MAX_GAS, "gas")
    _require(0 <= t.gas * t.max_fee_per_gas < _UINT256, "max_fee_per_gas")
    _require(_is_checksum(t.to), "to")
    _require(0 <= t.value < _UINT256, "value")


def _require(condition: bool, field: str) -> None:
    if not condition:
        raise InvalidInputError(f"the transaction's {field} is invalid", field=field)
