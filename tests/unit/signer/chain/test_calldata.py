"""Calldata of known functions is decoded only from its one canonical encoding."""

import re
from random import Random
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from signer.chain.calldata import (
    BY_SELECTOR,
    BY_SIGNATURE,
    MAX_CALLS,
    MAX_SIZE,
    DecodedCall,
    Function,
    decode_call,
)
from signer.chain.erc20 import encode_transfer
from signer.errors import EncodingError


TO = "0x70997970c51812dc3a010c7d01b50e0d17dc79c8"
TRANSFER = encode_transfer(TO, 5)

# Facts from block explorers and the contracts' ABIs.
SELECTORS = {
    "transfer(address,uint256)": "a9059cbb",
    "transferFrom(address,address,uint256)": "23b872dd",
    "approve(address,uint256)": "095ea7b3",
    "increaseAllowance(address,uint256)": "39509351",
    "decreaseAllowance(address,uint256)": "a457c2d7",
    "permit(address,address,uint256,uint256,uint8,bytes32,bytes32)": "d505accf",
    "permit(address,address,uint256,uint256,bool,uint8,bytes32,bytes32)": "8fcbaf0c",
    "approve(address,address,uint160,uint48)": "87517c45",
    "setApprovalForAll(address,bool)": "a22cb465",
    "safeTransferFrom(address,address,uint256)": "42842e0e",
    "safeTransferFrom(address,address,uint256,uint256,bytes)": "f242432a",
    "deposit()": "d0e30db0",
    "withdraw(uint256)": "2e1a7d4d",
    "mint(address,uint256)": "40c10f19",
    "burn(uint256)": "42966c68",
    "multicall(bytes[])": "ac9650d8",
    "multicall(uint256,bytes[])": "5ae401dc",
}


def test_each_function_has_a_selector_and_names() -> None:
    """No two functions of the table share a selector, and each type has a name."""
    assert len(BY_SELECTOR) == len(BY_SIGNATURE)
    for signature, known in SELECTORS.items():
        assert BY_SIGNATURE[signature].selector.hex() == known
    for selector, function in BY_SELECTOR.items():
        assert selector == keccak(text=function.signature)[:4]
        assert len(function.types) == len(function.names) == len(set(function.names))
        assert function.signature == f"{function.name}({','.join(function.types)})"


def _value(random: Random, type_: str) -> Any:
    if type_.endswith("[]"):
        return tuple(_value(random, type_[:-2]) for _ in range(random.randrange(3)))
    if type_.startswith("("):
        items = re.findall(r"\([^()]*\)(?:\[\])?|[^(),]+", type_[1:-1])
        return tuple(_value(random, item) for item in items)
    if type_.startswith("uint"):
        return random.choice([0, 2 ** int(type_[4:]) - 1, 7])
    atomic = {
        "address": "0x" + random.randbytes(20).hex(),
        "bool": random.random() < 0.5,
        "bytes": random.randbytes(random.choice([0, 1, 32, 65])),
        "bytes32": random.randbytes(32),
    }
    return atomic[type_]


def _encoded(function: Function, random: Random) -> tuple[tuple[Any, ...], bytes]:
    arguments = tuple(_value(random, type_) for type_ in function.types)
    return arguments, function.selector + encode(function.types, arguments)


@pytest.mark.parametrize("function", BY_SELECTOR.values(), ids=lambda f: f.signature)
def test_functions_are_decoded(function: Function) -> None:
    """Every known function comes back with its arguments, and with what follows."""
    random = Random(function.signature)
    for _ in range(5):
        arguments, data = _encoded(function, random)

        call = decode_call(data)

        assert call == DecodedCall(function.name, function.signature, arguments)
        assert call.named() == dict(zip(function.names, arguments, strict=True))
        assert decode_call(data + b"extra") == DecodedCall(
            function.name, function.signature, arguments, b"extra"
        )


@pytest.mark.parametrize("function", BY_SELECTOR.values(), ids=lambda f: f.signature)
def test_short_calldata_is_refused(function: Function) -> None:
    """Contracts would read zeros, or bytes that a later call left, for the rest."""
    _, data = _encoded(function, Random(1))
    for size in range(4, len(data)):
        with pytest.raises(EncodingError, match=re.escape(function.signature)):
            decode_call(data[:size])


@pytest.mark.parametrize("function", BY_SELECTOR.values(), ids=lambda f: f.signature)
def test_changed_bytes_never_hide(function: Function) -> None:
    """A changed byte is refused, or the decoded arguments encode to these bytes."""
    random = Random(2)
    _, data = _encoded(function, random)
    for at in random.sample(range(4, len(data)), min(len(data) - 4, 60)):
        changed = bytearray(data)
        changed[at] ^= random.choice([1, 0x80, 0xFF])
        try:
            call = decode_call(bytes(changed))
        except EncodingError:
            continue

        assert call is not None
        encoded = encode(function.types, call.arguments)
        assert function.selector + encoded + call.extra == changed


@pytest.mark.parametrize(
    "word", ["01" + "00" * 11 + TO[2:], "00" * 11 + "01" + TO[2:], "ff" * 32]
)
def test_dirty_upper_bytes_of_an_address_are_refused(word: str) -> None:
    """Old contracts mask them, so that the recipient would be another one."""
    data = TRANSFER[:4] + bytes.fromhex(word) + TRANSFER[36:]

    with pytest.raises(EncodingError, match="canonical"):
        decode_call(data)


def test_a_boolean_is_0_or_1() -> None:
    data = BY_SIGNATURE["setApprovalForAll(address,bool)"].selector
    data += encode(["address", "uint256"], [TO, 2])

    with pytest.raises(EncodingError):
        decode_call(data)


@pytest.mark.parametrize(
    "data", [b"", b"\xa9", b"\xa9\x05\x9c", b"\x12\x34\x56\x78", bytes(100)], ids=repr
)
def test_unknown_functions(data: bytes) -> None:
    """Without a known selector there is no guess."""
    assert decode_call(data) is None


def _multicall(calls: list[bytes]) -> bytes:
    return BY_SIGNATURE["multicall(bytes[])"].selector + encode(["bytes[]"], [calls])


def test_inner_calls() -> None:
    """The calls of a multicall are decoded, and an unknown one is None."""
    call = decode_call(_multicall([TRANSFER, b"\x12\x34\x56\x78", _multicall([])]))

    assert call is not None
    transfer, unknown, inner = call.inner_calls()
    assert transfer == decode_call(TRANSFER)
    assert unknown is None
    assert inner is not None
    assert list(inner.inner_calls()) == []
    assert transfer is not None
    assert list(transfer.inner_calls()) == []
    malformed = decode_call(_multicall([TRANSFER[:-1]]))
    assert malformed is not None
    with pytest.raises(EncodingError):
        list(malformed.inner_calls())


def _words(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(32, "big") for number in numbers)


@pytest.mark.parametrize(
    "body",
    [
        _words(0x40, 0, 0),  # A gap before the array.
        _words(0x20, 2, 0x40, 0x40, 0),  # Two offsets to one item.
        _words(0x20, 1, 0x20, 1, 1),  # Padding that is not zero.
        _words(0x20, 2**255),
        _words(2**255, 0),
        _words(0x20, 1, 2**64),
        _words(0x20, 1, 0x20, 2**64),
        _words(0x20, 1, 0x20, 2**255),
    ],
)
def test_other_encodings_of_an_array_are_refused(body: bytes) -> None:
    """Offsets that a contract would follow, and huge lengths."""
    with pytest.raises(EncodingError):
        decode_call(BY_SIGNATURE["multicall(bytes[])"].selector + body)


def test_calldata_uses_little_memory() -> None:
    """Each item would be copied: 2,000 times 60 kB."""
    count = 2000
    offsets = [count * 32] * count
    body = _words(0x20, count, *offsets, 60_000) + bytes(60_000)

    with pytest.raises(EncodingError, match="items"):
        decode_call(BY_SIGNATURE["multicall(bytes[])"].selector + body)
    assert decode_call(_multicall([b""] * MAX_CALLS)) is not None
    with pytest.raises(EncodingError, match="items"):
        decode_call(_multicall([b""] * (MAX_CALLS + 1)))
    # What no node accepts is not decoded, unless the function is unknown.
    with pytest.raises(EncodingError, match="bytes"):
        decode_call(TRANSFER + bytes(MAX_SIZE))
    assert decode_call(bytes(MAX_SIZE + 1)) is None
