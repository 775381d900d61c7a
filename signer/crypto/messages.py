"""
Signed messages (EIP-191): what is valid, and the digests.

The leading 0x19 ensures that no message is a valid transaction.
"""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from signer.crypto.keccak import keccak
from signer.errors import InvalidInputError


# eth-account takes 5 MB, and few processes sign messages: it is imported by the first.
if TYPE_CHECKING:
    from eth_account.messages import SignableMessage


MAX_MESSAGE_SIZE = 2**16
"""Bytes of a personal message."""

VALIDATOR = b"\x00"
TYPED_DATA = b"\x01"
PERSONAL = b"E"
"""The versions of EIP-191: for a contract, EIP-712, and ``personal_sign``."""

_PERSONAL_HEADER = b"thereum Signed Message:\n"

_ADDRESS_SIZE = 20
_HASH_SIZE = 32

_HEX = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
_HEX_WITHOUT_PREFIX = re.compile(r"(?:[0-9a-fA-F]{2})+")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class PersonalMessage:
    """A message of ``personal_sign``: EIP-191, version 0x45."""

    body: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.body) > MAX_MESSAGE_SIZE:
            raise _invalid(f"must have at most {MAX_MESSAGE_SIZE} bytes")

    @classmethod
    def parse(cls, message: object) -> Self:
        """
        Return the message *message*: bytes, their hex with 0x, or any other text.

        ethers, viem and geth send hex.  A text that is all hex digits, without 0x, is
        refused: MetaMask reads it as hex, and others as text.

        Raises:
            InvalidInputError: *message* is neither, or too large; ``field`` is
                ``message``.
        """
        if isinstance(message, bytes):
            return cls(bytes(message))
        if not isinstance(message, str):
            raise _invalid("must be a string")
        if message.startswith("0x"):
            if not _HEX.fullmatch(message):
                raise _invalid("has 0x and must then have two hex digits for each byte")
            return cls(bytes.fromhex(message[2:]))
        if _HEX_WITHOUT_PREFIX.fullmatch(message):
            raise _invalid("could be text or hex: send it as hex, with 0x")
        if _SURROGATE.search(message):
            raise _invalid("has half a surrogate pair, which has no UTF-8")
        return cls(message.encode())

    @property
    def text(self) -> str | None:
        """The message as text; None if it is not UTF-8."""
        try:
            return self.body.decode()
        except UnicodeDecodeError:
            return None

    def signable(self) -> "SignableMessage":
        """Return the message as eth-account writes it."""
        from eth_account.messages import encode_defunct  # noqa: PLC0415

        return encode_defunct(self.body)

    def digest(self) -> bytes:
        return message_digest(self.signable())


def message_digest(message: "SignableMessage") -> bytes:
    """
    Return keccak256(0x19 || version || header || body) (EIP-191).

    EIP-712 data has version 0x01; ``eth_account.messages`` builds all kinds.

    Raises:
        InvalidInputError: *message* has another version, or its header or body has not
            the size that the version requires.
    """
    _require_valid(message)
    return keccak(b"\x19" + message.version + message.header + message.body)


def _require_valid(message: object) -> None:
    from eth_account.messages import SignableMessage  # noqa: PLC0415

    if not isinstance(message, SignableMessage) or not all(
        isinstance(part, bytes) for part in message
    ):
        raise _invalid("must be a SignableMessage of eth_account.messages")
    version, header, body = message
    if version == VALIDATOR:
        is_valid = len(header) == _ADDRESS_SIZE
    elif version == TYPED_DATA:
        is_valid = len(header) == len(body) == _HASH_SIZE
    else:
        expected = _PERSONAL_HEADER + str(len(body)).encode()
        is_valid = version == PERSONAL and header == expected
    if not is_valid:
        raise _invalid("is not a message of EIP-191 version 0x00, 0x01 or 0x45")


def _invalid(text: str) -> InvalidInputError:
    return InvalidInputError(text, field="message")
