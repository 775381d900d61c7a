"""ERC-20: the calldata of a transfer, and the event that proves it."""

from dataclasses import replace

import pytest
from eth_abi.abi import decode, encode
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from signer.errors import EncodingError
from signer.ports import Log
from signer.refunds.erc20 import (
    DECIMALS,
    TRANSFER,
    TRANSFER_EVENT,
    decode_transfer,
    transfer_calldata,
    transferred,
)


TOKEN = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
WALLET = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"
CUSTOMER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"

addresses = st.binary(min_size=20, max_size=20).map(to_checksum_address)
amounts = st.integers(0, 2**256 - 1)


def test_selectors_are_those_that_eip_20_gives() -> None:
    """The four bytes and the topic are what every explorer shows."""
    assert TRANSFER.hex() == "a9059cbb"
    assert DECIMALS.hex() == "313ce567"
    assert (
        TRANSFER_EVENT.hex()
        == "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
    )


@given(recipient=addresses, amount=amounts)
def test_a_transfer_survives_the_round_trip(recipient: str, amount: int) -> None:
    """Recipient and amount come back, from 68 bytes that eth-abi also reads."""
    calldata = transfer_calldata(recipient, amount)

    assert decode_transfer(calldata) == (recipient, amount)
    assert len(calldata) == 68
    assert calldata[:4] == keccak(text="transfer(address,uint256)")[:4]
    assert decode(("address", "uint256"), calldata[4:]) == (recipient.lower(), amount)


@given(st.binary(max_size=150) | st.binary(max_size=80).map(lambda b: TRANSFER + b))
def test_noise_is_no_transfer(noise: bytes) -> None:
    """Arbitrary bytes are refused by our error, or say what they are."""
    try:
        recipient, amount = decode_transfer(noise)
    except EncodingError:
        return

    assert transfer_calldata(recipient, amount) == noise


GOOD = transfer_calldata(CUSTOMER, 5)


def test_every_slip_in_the_calldata_is_noticed() -> None:
    """One byte changed, cut or added: refused, or another transfer (T11)."""
    mutations = [
        GOOD[:i] + bytes([GOOD[i] ^ flip]) + GOOD[i + 1 :]
        for i in range(len(GOOD))
        for flip in (1, 0x80, 0xFF)
    ]
    mutations += [GOOD[:i] for i in range(len(GOOD))]
    mutations += [GOOD + b"\0", b"\0" + GOOD, GOOD + bytes(32)]

    for mutated in mutations:
        try:
            found = decode_transfer(mutated)
        except EncodingError:
            continue

        assert found != (CUSTOMER, 5)
        assert transfer_calldata(*found) == mutated


@pytest.mark.parametrize(
    "calldata",
    [
        b"",
        TRANSFER,
        keccak(text="approve(address,uint256)")[:4] + GOOD[4:],
        GOOD[:-1],
        GOOD + b"\0",
        TRANSFER + b"\x01" + GOOD[5:],
    ],
    ids=["nothing", "no arguments", "approve", "short", "long", "dirty address"],
)
def test_other_calldata_is_refused(calldata: bytes) -> None:
    """Only the exact calldata of a transfer is one."""
    with pytest.raises(EncodingError):
        decode_transfer(calldata)


def _topic(address: str) -> bytes:
    return bytes(12) + bytes.fromhex(address[2:])


EVENT = Log(
    TOKEN,
    (TRANSFER_EVENT, _topic(WALLET), _topic(CUSTOMER)),
    encode(("uint256",), (5,)),
)


def _paid(*logs: Log) -> bool:
    return transferred(logs, token=TOKEN, sender=WALLET, recipient=CUSTOMER, amount=5)


OTHERS = [
    replace(EVENT, address=WALLET),
    replace(EVENT, topics=(TRANSFER, *EVENT.topics[1:])),
    replace(EVENT, topics=(TRANSFER_EVENT, _topic(CUSTOMER), _topic(CUSTOMER))),
    replace(EVENT, topics=(TRANSFER_EVENT, _topic(WALLET), _topic(WALLET))),
    replace(EVENT, topics=EVENT.topics[:2]),
    replace(EVENT, topics=(*EVENT.topics, bytes(32))),
    replace(EVENT, topics=()),
]


def test_the_event_proves_the_transfer() -> None:
    """The token's own event, in any spelling of its address, among any others."""
    assert _paid(EVENT)
    assert _paid(replace(EVENT, address=TOKEN.lower()))
    assert _paid(*OTHERS, EVENT, *OTHERS)


@pytest.mark.parametrize("other", OTHERS, ids=range(len(OTHERS)))
def test_another_event_proves_nothing(other: Log) -> None:
    """Another contract, event, sender, recipient or shape is no proof (R21)."""
    assert not _paid(other)


@pytest.mark.parametrize(
    "data",
    [
        encode(("uint256",), (4,)),
        encode(("uint256",), (6,)),
        b"\x05",
        bytes(32) + encode(("uint256",), (5,)),
        encode(("uint256",), (5,)) + bytes(32),
        b"",
    ],
)
def test_another_amount_proves_nothing(data: bytes) -> None:
    """The event's data is exactly 32 bytes with the amount (R21: fee on transfer)."""
    assert not _paid(replace(EVENT, data=data))


def test_nothing_proves_nothing() -> None:
    """A receipt without events is no proof, whatever its status (R21)."""
    assert not _paid()


@pytest.mark.parametrize("amount", [0, 5, 1])
def test_two_transfers_are_as_wrong_as_none(amount: int) -> None:
    """A second transfer to the recipient in one receipt is a mismatch."""
    assert not _paid(EVENT, replace(EVENT, data=encode(("uint256",), (amount,))))
