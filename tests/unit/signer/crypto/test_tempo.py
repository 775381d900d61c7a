"""Transactions of type 0x76; ``tests/oracles`` compares them with those of ox."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import rlp

from signer.crypto.secp256k1 import Signature
from signer.crypto.transactions import SignedBytes, TempoTransaction
from signer.errors import EncodingError, InvalidInputError


TOKEN = "0x20C0000000000000000000000000000000000001"
TRANSACTION = TempoTransaction(
    chain_id=4217,
    nonce=7,
    gas=60_000,
    max_fee_per_gas=10**11,
    max_priority_fee_per_gas=10**9,
    to=TOKEN,
    value=0,
    data=b"\x01\x02",
    fee_token="0x20C0000000000000000000000000000000000002",
)
SIGNED = SignedBytes.of(TRANSACTION, Signature(5, 6, 1))


def test_what_is_signed_is_decoded_again() -> None:
    assert SignedBytes.decode(SIGNED.raw) == SIGNED
    assert SIGNED.raw[:1] == b"\x76"
    assert SIGNED.raw[-65:] == bytes(31) + b"\x05" + bytes(31) + b"\x06" + b"\x1c"


@pytest.mark.parametrize("fee_token", ["", TOKEN.lower()])
def test_the_token_of_the_fee_is_an_address(fee_token: str) -> None:
    with pytest.raises(InvalidInputError, match="fee_token"):
        replace(TRANSACTION, fee_token=fee_token)


def _set(place: int, value: Any) -> Callable[[list[Any]], object]:
    return lambda items: items.__setitem__(place, value)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda items: items[4].append(items[4][0]), id="two calls"),
        pytest.param(_set(4, []), id="no call"),
        pytest.param(_set(4, b""), id="calls are no list"),
        pytest.param(_set(4, [[b"", b"", b""]]), id="creation"),
        pytest.param(_set(6, b"\x01"), id="another lane"),
        pytest.param(_set(8, b"\x01"), id="valid before"),
        pytest.param(_set(9, b"\x01"), id="valid after"),
        pytest.param(_set(10, b""), id="no fee token"),
        pytest.param(_set(11, b"\x00"), id="to be sponsored"),
        pytest.param(_set(11, [b"\x01", b"\x01", b"\x01"]), id="sponsored"),
        pytest.param(_set(12, [[b"\x01"]]), id="authorization"),
        pytest.param(lambda items: items.insert(13, []), id="access key"),
        pytest.param(lambda items: items.pop(), id="not signed"),
        pytest.param(_set(13, b"\x01" + bytes(129)), id="P-256"),
        pytest.param(_set(13, SIGNED.raw[-65:-1] + b"\x01"), id="another v"),
    ],
)
def test_what_is_not_decoded(change: Callable[[list[Any]], object]) -> None:
    """Nothing that the class does not represent is lost."""
    items = rlp.decode(SIGNED.raw[1:])
    change(items)

    with pytest.raises(EncodingError):
        SignedBytes.decode(b"\x76" + rlp.encode(items))
