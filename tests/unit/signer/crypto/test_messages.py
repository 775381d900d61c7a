"""Personal messages (EIP-191): what is read as hex or text, and the digest."""

import pytest
from eth_account.messages import encode_defunct
from hypothesis import given
from hypothesis import strategies as st

from signer.crypto.messages import MAX_MESSAGE_SIZE, PersonalMessage, message_digest
from signer.errors import InvalidInputError
from tests.support.vectors import load


def test_example_of_web3_js() -> None:
    """A message of web3.js has its digest, as text, hex and bytes."""
    example = load("eips")["eip191"]
    text: str = example["text"]

    for message in (text, "0x" + text.encode().hex(), text.encode()):
        parsed = PersonalMessage.parse(message)
        assert "0x" + parsed.digest().hex() == example["digest"]
        assert parsed.text == text


@given(body=st.binary(max_size=200))
def test_digest_equals_eth_accounts(body: bytes) -> None:
    """Any bytes have the digest of eth-account's message."""
    message = PersonalMessage.parse(body)

    assert message.digest() == message_digest(encode_defunct(body))
    assert PersonalMessage.parse("0x" + body.hex()) == message


@pytest.mark.parametrize(
    ("message", "body"),
    [
        ("0x", b""),
        ("", b""),
        ("0xabCD", b"\xab\xcd"),
        ("hello", b"hello"),
        ("abc", b"abc"),
        ("ab cd", b"ab cd"),
        ("ß\n\0", "ß\n\0".encode()),
        ("0X12", b"0X12"),
    ],
    ids=repr,
)
def test_hex_has_0x(message: str, body: bytes) -> None:
    """A text that begins with 0x is hex, and others are UTF-8."""
    assert PersonalMessage.parse(message).body == body


@pytest.mark.parametrize(
    "message",
    ["0xabc", "0xzz", "0x 12", "abcd", "1234", "\ud800", None, 5, True, [], {}],
    ids=repr,
)
def test_ambiguous_messages_are_refused(message: object) -> None:
    """Hex that is malformed, and hex without 0x, mean different bytes to wallets."""
    with pytest.raises(InvalidInputError) as caught:
        PersonalMessage.parse(message)

    assert caught.value.field == "message"


def test_size_is_limited() -> None:
    """A message has at most 64 KiB, and its repr does not show it."""
    message = PersonalMessage.parse(bytes(MAX_MESSAGE_SIZE))

    assert repr(message) == "PersonalMessage()"
    assert PersonalMessage(b"\xff").text is None

    with pytest.raises(InvalidInputError, match="at most"):
        PersonalMessage.parse(bytes(MAX_MESSAGE_SIZE + 1))
