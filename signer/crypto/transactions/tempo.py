"""
Type 0x76 of Tempo's chains: its fee is paid in a token, which the sender signs.

https://docs.tempo.xyz/protocol/transactions/spec-tempo-transaction.  This type is a
part of it: one call, the first lane of nonces, no sponsor, no times, and no access
keys.  What else a chain accepts is not decoded::

    0x76 || rlp(chain_id, fees, gas, [[to, value, data]], access_list, nonce_key, nonce,
                valid_before, valid_after, fee_token, sponsor, authorizations,
                r || s || v)
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from signer.crypto.secp256k1 import Signature
from signer.crypto.transactions.fields import (
    WORD_SIZE,
    access_list_items,
    address_bytes,
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
)
from signer.crypto.transactions.types import FeeMarketTransaction
from signer.errors import EncodingError


_FIRST_V = 27

_FIRST_LANE = _NO_TIME = _NO_SPONSOR = b""
_NO_AUTHORIZATIONS: list[object] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class TempoTransaction(FeeMarketTransaction):
    """
    An unsigned transaction of type 0x76; fees are in 10**-18 of ``fee_token``.

    Tempo's chains have no coin, so that ``value`` is 0 there.
    """

    type: ClassVar[int] = 0x76
    may_create: ClassVar[bool] = False

    fee_token: str

    def _check_more(self) -> None:
        is_token = is_address(self.fee_token)
        require(is_token, "fee_token", "must have its EIP-55 checksum")

    def serialise(self, signature: Signature) -> bytes:
        words = signature.to_bytes()[:-1]
        signed = b"%b%c" % (words, _FIRST_V + signature.y_parity)
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
    return Signature(int.from_bytes(r), int.from_bytes(s), signed[-1] - _FIRST_V)
