"""ERC-20: calldata of transfers and balances, and the Transfer event."""

from dataclasses import replace

import pytest
from eth_abi.abi import decode, encode
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from signer.chain.erc20 import (
    BALANCE_OF,
    DECIMALS,
    MEMO_SIZE,
    TRANSFER,
    TRANSFER_EVENT,
    as_transfer,
    decode_transfer,
    encode_balance_of,
    encode_payment,
    encode_transfer,
    has_exact_transfer,
    read_memo,
)
from signer.errors import EncodingError
from signer.ports.chain import Log


TOKEN = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
WALLET = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"
CUSTOMER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"

addresses = st.binary(min_size=20, max_size=20).map(to_checksum_address)
amounts = st.integers(0, 2**256 - 1)


def test_selectors_and_topic() -> None:
    """The selectors and the event topic are those of EIP-20."""
    assert encode_balance_of(CUSTOMER) == BALANCE_OF + encode(("address",), (CUSTOMER,))

    assert TRANSFER.hex() == "a9059cbb"
    assert DECIMALS.hex() == "313ce567"
    assert BALANCE_OF.hex() == "70a08231"
    assert (
        TRANSFER_EVENT.hex()
        == "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
    )


def test_a_tip_20_has_a_function_for_the_memo() -> None:
    """It is decoded like the transfer of another token; other memos are not ours."""
    token, memo = "0x20C0000000000000000000000000000000000001", bytes(range(16))
    expected = keccak(text="transferWithMemo(address,uint256,bytes32)")[:4] + encode(
        ["address", "uint256", "bytes32"], [CUSTOMER, 7, memo + bytes(16)]
    )
    calldata = encode_payment(token, CUSTOMER, 7, memo)

    assert calldata == expected
    assert encode_payment(TOKEN, CUSTOMER, 7, memo) == as_transfer(calldata)
    assert decode_transfer(calldata) == (CUSTOMER.lower(), 7, memo)
    assert read_memo(calldata) == memo
    for other in (calldata[:-1], calldata + b"\0", calldata[:-1] + b"\1"):
        assert as_transfer(other) == other


memos = st.sampled_from([b""]) | st.binary(min_size=MEMO_SIZE, max_size=MEMO_SIZE)


@given(recipient=addresses, amount=amounts, memo=memos)
def test_a_transfer_survives_the_round_trip(
    recipient: str, amount: int, memo: bytes
) -> None:
    """
    Recipient, amount and memo are decoded again; eth-abi reads the first 68 bytes.
    """
    calldata = encode_transfer(recipient, amount, memo)

    assert decode_transfer(calldata) == (recipient.lower(), amount, memo)
    assert len(calldata) == 68 + len(memo)
    assert calldata[:4] == keccak(text="transfer(address,uint256)")[:4]
    assert decode(("address", "uint256"), calldata[4:]) == (recipient.lower(), amount)
    assert read_memo(calldata) == (memo or None)


@given(st.binary(max_size=150) | st.binary(max_size=80).map(lambda b: TRANSFER + b))
def test_random_bytes_are_not_a_transfer(noise: bytes) -> None:
    """Random bytes raise EncodingError, or are the encoding of what is decoded."""
    try:
        recipient, amount, memo = decode_transfer(noise)
    except EncodingError:
        return

    assert encode_transfer(recipient, amount, memo) == noise


GOOD = encode_transfer(CUSTOMER, 5)
MEMO = bytes(range(MEMO_SIZE))
WITH_MEMO = GOOD + MEMO


@pytest.mark.parametrize("good", [GOOD, WITH_MEMO], ids=["plain", "memo"])
def test_every_changed_byte_of_the_calldata_is_noticed(good: bytes) -> None:
    """One byte changed, removed or added: refused, or another transfer (T11)."""
    mutations = [
        good[:i] + bytes([good[i] ^ flip]) + good[i + 1 :]
        for i in range(len(good))
        for flip in (1, 0x80, 0xFF)
    ]
    mutations += [good[:i] for i in range(len(good))]
    mutations += [good + b"\0", b"\0" + good, good + bytes(32)]
    found_before = decode_transfer(good)

    for mutated in mutations:
        try:
            found = decode_transfer(mutated)
        except EncodingError:
            continue

        assert found != found_before
        assert encode_transfer(*found) == mutated


OTHER_CALLDATA: dict[str, bytes] = {
    "nothing": b"",
    "no arguments": TRANSFER,
    "approve": keccak(text="approve(address,uint256)")[:4] + GOOD[4:],
    "short": GOOD[:-1],
    "long": GOOD + b"\0",
    "dirty address": TRANSFER + b"\x01" + GOOD[5:],
    "dirty address, memo": TRANSFER + b"\x01" + WITH_MEMO[5:],
    "short memo": WITH_MEMO[:-1],
    "long memo": WITH_MEMO + b"\0",
}


@pytest.mark.parametrize("calldata", OTHER_CALLDATA.values(), ids=OTHER_CALLDATA)
def test_other_calldata_is_refused(calldata: bytes) -> None:
    """Only the exact calldata of a transfer is decoded."""
    with pytest.raises(EncodingError):
        decode_transfer(calldata)


WITHOUT_MEMO: dict[str, bytes] = {
    "nothing": b"",
    "no memo": GOOD,
    "short": WITH_MEMO[:-1],
    "long": WITH_MEMO + b"\0",
    "approve": keccak(text="approve(address,uint256)")[:4] + WITH_MEMO[4:],
}


@pytest.mark.parametrize("calldata", WITHOUT_MEMO.values(), ids=WITHOUT_MEMO)
def test_other_calldata_has_no_memo(calldata: bytes) -> None:
    """Sixteen bytes after other calldata are not a memo (R23)."""
    assert read_memo(calldata) is None
    assert read_memo(WITH_MEMO) == MEMO


def _topic(address: str) -> bytes:
    return bytes(12) + bytes.fromhex(address[2:])


EVENT = Log(
    TOKEN,
    (TRANSFER_EVENT, _topic(WALLET), _topic(CUSTOMER)),
    encode(("uint256",), (5,)),
)


def _paid(*logs: Log) -> bool:
    return has_exact_transfer(
        logs, token=TOKEN, sender=WALLET, recipient=CUSTOMER, amount=5
    )


OTHERS = [
    replace(EVENT, address=WALLET),
    replace(EVENT, topics=(TRANSFER, *EVENT.topics[1:])),
    replace(EVENT, topics=(TRANSFER_EVENT, _topic(CUSTOMER), _topic(CUSTOMER))),
    replace(EVENT, topics=(TRANSFER_EVENT, _topic(WALLET), _topic(WALLET))),
    replace(EVENT, topics=EVENT.topics[:2]),
    replace(EVENT, topics=(*EVENT.topics, bytes(32))),
    replace(EVENT, topics=()),
]


def test_an_exact_event_is_found() -> None:
    """The token's own event counts, with its address in any case, among others."""
    assert _paid(EVENT)
    assert _paid(replace(EVENT, address=TOKEN.lower()))
    assert _paid(*OTHERS, EVENT, *OTHERS)


AMOUNTS = [
    encode(("uint256",), (4,)),
    encode(("uint256",), (6,)),
    b"\x05",
    bytes(32) + encode(("uint256",), (5,)),
    encode(("uint256",), (5,)) + bytes(32),
    b"",
]


@pytest.mark.parametrize(
    "logs",
    [
        *((other,) for other in OTHERS),
        *((replace(EVENT, data=data),) for data in AMOUNTS),
        *(
            (EVENT, replace(EVENT, data=encode(("uint256",), (amount,))))
            for amount in (0, 5, 1)
        ),
        (),
    ],
    ids=range(len(OTHERS) + len(AMOUNTS) + 4),
)
def test_other_events_do_not_match(logs: tuple[Log, ...]) -> None:
    """
    Another contract, event, sender, recipient, shape or amount (R21: fee on transfer).

    Nor do a second transfer to the recipient, and a receipt without events.
    """
    assert not _paid(*logs)
