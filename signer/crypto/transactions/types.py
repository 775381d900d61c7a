"""
The five types of transactions, and Tempo's.

Types 1 to 4 share a type byte, and an order of fields (EIP-2718)::

    type || rlp(chain_id, nonce, fees, gas, to, value, data, access_list, more fields,
                y-parity, r, s)
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from signer.crypto.keccak import keccak
from signer.crypto.secp256k1 import Signature
from signer.crypto.transactions.fields import (
    UINT64,
    UINT256,
    WORD_SIZE,
    AccessList,
    access_list_items,
    address_bytes,
    check_access_list,
    check_common,
    check_fees,
    encode,
    is_address,
    minimal,
    require,
    take,
    take_access_list,
    take_address,
    take_bytes,
    take_list,
    take_number,
    take_recipient,
    take_word,
)
from signer.errors import EncodingError


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedTransaction:
    """
    An unsigned transaction of types 1 to 4; ``value`` and fees for one gas are in wei.

    ``fee_fields`` has the names of the fees in the order of the bytes; the last of them
    is the most for one gas.  ``to`` is None if the transaction creates a contract;
    those without ``may_create`` cannot.  ``more_count`` items follow the access list.
    """

    type: ClassVar[int]
    fee_fields: ClassVar[tuple[str, ...]]
    may_create: ClassVar[bool] = True
    more_count: ClassVar[int] = 0

    chain_id: int
    nonce: int
    gas: int
    to: str | None
    value: int
    data: bytes
    access_list: AccessList = ()

    def __post_init__(self) -> None:
        """Raise ``InvalidInputError`` for the first field out of range."""
        fees = self._fees()
        priority_fee, max_fee = fees[0], fees[-1]
        check_common(self, max_fee, self.fee_fields[-1])
        check_fees(max_fee, priority_fee)
        check_access_list(self.access_list)
        has_recipient = self.may_create or bool(self.to)
        require(has_recipient, "to", "must be an address: it cannot create a contract")
        self._check_more()

    def _check_more(self) -> None:
        """Check the fields that not all types have; raises as ``__post_init__``."""

    def signing_digest(self) -> bytes:
        """Return the digest to sign: keccak256(type || rlp(fields))."""
        return keccak(self._prefix + encode(self._items()))

    def serialise(self, signature: Signature) -> bytes:
        """
        Return the bytes to broadcast: type || rlp(fields, y-parity, r, s).

        Those of a blob transaction are without the blobs, which nodes also need.
        """
        numbers = (signature.y_parity, signature.r, signature.s)
        return self._prefix + encode([*self._items(), *map(minimal, numbers)])

    @property
    def _prefix(self) -> bytes:
        return bytes((self.type,))

    def _items(self) -> list[object]:
        return [
            minimal(self.chain_id),
            minimal(self.nonce),
            *map(minimal, self._fees()),
            minimal(self.gas),
            address_bytes(self.to),
            minimal(self.value),
            self.data,
            access_list_items(self.access_list),
            *self._more_items(),
        ]

    def _fees(self) -> list[int]:
        return [getattr(self, name) for name in self.fee_fields]

    def _more_items(self) -> list[object]:
        """Return the items after the access list."""
        return []

    @classmethod
    def read(cls, items: list[Any]) -> tuple[Self, Signature]:
        """Return the transaction of RLP *items*, and its signature."""
        common = 7 + len(cls.fee_fields)
        items = take(items, common + cls.more_count + 3)
        more = cls._take_more(*items[common:-3])
        transaction = cls(**_take_common(items[:common], cls), **more)
        return transaction, take_signature(*items[-3:])

    @classmethod
    def _take_more(cls) -> dict[str, Any]:
        """Return the fields of the items after the access list, by name."""
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class FeeMarketTransaction(TypedTransaction):
    """An unsigned transaction with a max fee and a priority fee: types 2 to 4."""

    fee_fields: ClassVar[tuple[str, ...]] = (
        "max_priority_fee_per_gas",
        "max_fee_per_gas",
    )

    max_priority_fee_per_gas: int
    max_fee_per_gas: int


def _take_common(items: list[Any], kind: type[TypedTransaction]) -> dict[str, Any]:
    """Return the fields that RLP *items* of *kind* begin with, by name."""
    chain_id, nonce, *fees, gas, to, value, data, access_list = items
    return {
        "chain_id": take_number(chain_id),
        "nonce": take_number(nonce),
        **dict(zip(kind.fee_fields, map(take_number, fees), strict=True)),
        "gas": take_number(gas),
        "to": take_recipient(to) if kind.may_create else take_address(to),
        "value": take_number(value),
        "data": take_bytes(data),
        "access_list": take_access_list(access_list),
    }


def take_signature(y_parity: object, r: object, s: object) -> Signature:
    """Return the signature of three RLP items, or raise ``EncodingError``."""
    return Signature(take_number(r), take_number(s), take_number(y_parity))


_FIRST_V = 35  # EIP-155: v = chain id * 2 + 35 + parity.


@dataclass(frozen=True, slots=True)
class LegacyTransaction:
    """
    An unsigned transaction of type 0, with one gas price, in wei.

    ``to`` is None if it creates a contract.
    """

    type: ClassVar[int] = 0
    access_list: ClassVar[AccessList] = ()

    chain_id: int
    nonce: int
    gas_price: int
    gas: int
    to: str | None
    value: int
    data: bytes

    def __post_init__(self) -> None:
        check_common(self, self.gas_price, "gas_price")

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
        return keccak(encode([*self._items(), minimal(self.chain_id), b"", b""]))

    def serialise(self, signature: Signature) -> bytes:
        numbers = (self.v(signature), signature.r, signature.s)
        return encode([*self._items(), *map(minimal, numbers)])

    def v(self, signature: Signature) -> int:
        """Return the number that holds the chain id and the y-parity (EIP-155)."""
        return self.chain_id * 2 + _FIRST_V + signature.y_parity

    def _items(self) -> list[object]:
        return [
            minimal(self.nonce),
            minimal(self.gas_price),
            minimal(self.gas),
            address_bytes(self.to),
            minimal(self.value),
            self.data,
        ]


def read_legacy(items: list[Any]) -> tuple[LegacyTransaction, Signature]:
    """Return the transaction of RLP *items*, and its signature."""
    *numbers, to, value, data, v, r, s = take(items, 9)
    chain_id, y_parity = divmod(take_number(v) - _FIRST_V, 2)
    if chain_id <= 0:
        # No class represents it: it could be replayed on any chain.
        raise EncodingError("the transaction is not bound to a chain (EIP-155)")
    nonce, gas_price, gas = map(take_number, numbers)
    transaction = LegacyTransaction(
        chain_id=chain_id,
        nonce=nonce,
        gas_price=gas_price,
        gas=gas,
        to=take_recipient(to),
        value=take_number(value),
        data=take_bytes(data),
    )
    return transaction, Signature(take_number(r), take_number(s), y_parity)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessListTransaction(TypedTransaction):
    """An unsigned transaction of type 1, with one gas price, in wei."""

    type: ClassVar[int] = 1
    fee_fields: ClassVar[tuple[str, ...]] = ("gas_price",)

    gas_price: int

    @property
    def max_fee_per_gas(self) -> int:
        """The gas price."""
        return self.gas_price

    @property
    def max_priority_fee_per_gas(self) -> int:
        """The gas price: the block producer gets what the base fee leaves of it."""
        return self.gas_price


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicFeeTransaction(FeeMarketTransaction):
    """An unsigned transaction of type 2."""

    type: ClassVar[int] = 2


_HASH_VERSION = b"\x01"  # EIP-4844: VERSIONED_HASH_VERSION_KZG


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobTransaction(FeeMarketTransaction):
    """
    An unsigned transaction of type 3.

    It has the hashes of its blobs, and not the blobs.
    """

    type: ClassVar[int] = 3
    may_create: ClassVar[bool] = False
    more_count: ClassVar[int] = 2

    max_fee_per_blob_gas: int
    blob_versioned_hashes: tuple[bytes, ...]

    def _check_more(self) -> None:
        fee, hashes = self.max_fee_per_blob_gas, self.blob_versioned_hashes
        require(0 <= fee < UINT256, "max_fee_per_blob_gas", "must be 0 to 2**256 - 1")
        require(len(hashes) > 0, "blob_versioned_hashes", "must not be empty")
        for each in hashes:
            require(
                len(each) == WORD_SIZE and each.startswith(_HASH_VERSION),
                "blob_versioned_hashes",
                "must be of 32 bytes, the first of which is 1",
            )

    def _more_items(self) -> list[object]:
        return [minimal(self.max_fee_per_blob_gas), list(self.blob_versioned_hashes)]

    @classmethod
    def _take_more(cls, fee: object, hashes: object) -> dict[str, Any]:  # type: ignore[override]
        return {
            "max_fee_per_blob_gas": take_number(fee),
            "blob_versioned_hashes": tuple(map(take_word, take_list(hashes))),
        }


def read_blob(items: list[Any]) -> tuple[BlobTransaction, Signature]:
    """Return the transaction of RLP *items*, and its signature."""
    if items and isinstance(items[0], list):
        # The form that nodes exchange: [transaction, ..., blobs, commitments, proofs].
        raise EncodingError(
            "a blob transaction together with its blobs; give its first part alone"
        )
    return BlobTransaction.read(items)


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
        require(0 <= self.chain_id < UINT256, _FIELD, "has an invalid chain id")
        require(is_address(self.address), _FIELD, "has an invalid address")
        require(0 <= self.nonce < UINT64, _FIELD, "has an invalid nonce")

    def items(self) -> list[object]:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SetCodeTransaction(FeeMarketTransaction):
    """An unsigned transaction of type 4."""

    type: ClassVar[int] = 4
    may_create: ClassVar[bool] = False
    more_count: ClassVar[int] = 1

    authorization_list: tuple[Authorization, ...]

    def _check_more(self) -> None:
        is_list = len(self.authorization_list) > 0
        require(is_list, "authorization_list", "must not be empty")

    def _more_items(self) -> list[object]:
        return [[each.items() for each in self.authorization_list]]

    @classmethod
    def _take_more(cls, item: object) -> dict[str, Any]:  # type: ignore[override]
        return {"authorization_list": take_authorizations(item)}


_TEMPO_FIRST_V = 27

_FIRST_LANE = _NO_TIME = _NO_SPONSOR = b""
_NO_AUTHORIZATIONS: list[object] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class TempoTransaction(FeeMarketTransaction):
    """
    An unsigned transaction of type 0x76 of Tempo; fees are in 10**-18 of ``fee_token``.

    It is a part of https://docs.tempo.xyz/protocol/transactions/spec-tempo-transaction:
    one call, the first lane of nonces, no sponsor, no times, and no access keys.  What
    else a chain accepts is not decoded.  Tempo's chains have no coin, so that ``value``
    is 0 there::

        0x76 || rlp(chain_id, fees, gas, [[to, value, data]], access_list, nonce_key,
                    nonce, valid_before, valid_after, fee_token, sponsor,
                    authorizations, r || s || v)
    """

    type: ClassVar[int] = 0x76
    may_create: ClassVar[bool] = False

    fee_token: str

    def _check_more(self) -> None:
        is_token = is_address(self.fee_token)
        require(is_token, "fee_token", "must have its EIP-55 checksum")

    def serialise(self, signature: Signature) -> bytes:
        words = signature.to_bytes()[:-1]
        signed = b"%b%c" % (words, _TEMPO_FIRST_V + signature.y_parity)
        return self._prefix + encode([*self._items(), signed])

    def _items(self) -> list[object]:
        return [
            minimal(self.chain_id),
            *map(minimal, self._fees()),
            minimal(self.gas),
            [[address_bytes(self.to), minimal(self.value), self.data]],
            access_list_items(self.access_list),
            _FIRST_LANE,
            minimal(self.nonce),
            _NO_TIME,
            _NO_TIME,
            address_bytes(self.fee_token),
            _NO_SPONSOR,
            _NO_AUTHORIZATIONS,
        ]


def read_tempo(items: list[Any]) -> tuple[TempoTransaction, Signature]:
    """Return the transaction of RLP *items*, and its signature."""
    *numbers, calls, access_list, lane, nonce = take(items, 14)[:8]
    *unused, fee_token, sponsor, authorizations, signed = items[8:]
    empty = [_FIRST_LANE, _NO_TIME, _NO_TIME, _NO_SPONSOR, _NO_AUTHORIZATIONS]
    if [lane, *unused, sponsor, authorizations] != empty or len(take_list(calls)) != 1:
        raise EncodingError(
            "a transaction of type 0x76 with several calls, a lane, times, a sponsor or"
            " authorizations"
        )
    to, value, data = take(calls[0], 3)
    chain_id, priority_fee, max_fee, gas = map(take_number, numbers)
    transaction = TempoTransaction(
        chain_id=chain_id,
        nonce=take_number(nonce),
        max_priority_fee_per_gas=priority_fee,
        max_fee_per_gas=max_fee,
        gas=gas,
        to=take_address(to),
        value=take_number(value),
        data=take_bytes(data),
        access_list=take_access_list(access_list),
        fee_token=take_address(fee_token),
    )
    return transaction, _take_signature(signed)


def _take_signature(item: object) -> Signature:
    """Return the signature of *item*; other lengths are of other kinds of keys."""
    signed = take_bytes(item)
    if len(signed) != 2 * WORD_SIZE + 1:
        raise EncodingError("the signature is not one of secp256k1: 65 bytes")
    r, s = signed[:WORD_SIZE], signed[WORD_SIZE:-1]
    return Signature(int.from_bytes(r), int.from_bytes(s), signed[-1] - _TEMPO_FIRST_V)
