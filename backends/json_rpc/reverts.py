"""Decodes why a contract reverted: pure functions over its return data."""

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError


NO_REASON = "the contract gave no reason"

# Solidity, "Panic via assert and Error via require".
_PANICS = {
    0x01: "assertion failed",
    0x11: "arithmetic overflow or underflow",
    0x12: "division by zero",
    0x21: "invalid enum value",
    0x22: "invalid encoded byte array in storage",
    0x31: "pop of an empty array",
    0x32: "array index out of bounds",
    0x41: "out of memory",
    0x51: "call of an uninitialised function",
}

_ERROR_STRING = bytes.fromhex("08c379a0")
_PANIC = bytes.fromhex("4e487b71")
_SELECTOR_LENGTH = 4
_LONGEST_REASON = 200


def revert_reason(data: bytes) -> str:
    """
    Return the reason for a revert as text.

    *data* is the return data of the contract: empty, ``Error(string)``,
    ``Panic(uint256)``, or a custom error, of which only the selector is returned.

    >>> revert_reason(bytes.fromhex("75e91ce7"))
    'custom error 0x75e91ce7'
    """
    selector, arguments = data[:_SELECTOR_LENGTH], data[_SELECTOR_LENGTH:]
    if len(selector) < _SELECTOR_LENGTH:
        return NO_REASON
    try:
        if selector == _ERROR_STRING:
            return printable(_decode_text(arguments))
        if selector == _PANIC:
            (number,) = decode(["uint256"], arguments)
            return f"panic 0x{number:02x}: {_PANICS.get(number, 'unknown')}"
    except (DecodingError, OverflowError):
        pass
    return f"custom error 0x{selector.hex()}"


def printable(text: str) -> str:
    """Return *text* on one line, without control characters, 200 characters at most."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(clean.split())[:_LONGEST_REASON] or NO_REASON


def _decode_text(arguments: bytes) -> str:
    # As bytes and without checking the padding: contracts may use other encodings.
    (text,) = decode(["bytes"], arguments, strict=False)
    return bytes(text).decode(errors="replace")
