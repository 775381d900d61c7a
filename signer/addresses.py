"""Addresses that people type or configure: of accounts, and of hosts."""

import re
from ipaddress import ip_address

from eth_utils.address import is_checksum_address, to_checksum_address

from signer.errors import InvalidInputError
from signer.redact import key_prefix


_LOWER = re.compile(r"0x[0-9a-f]{40}")

_ANY = re.compile(r"0x[0-9a-fA-F]{40}")

_EXPECTED = (
    "must be an address: 0x and 40 hex digits, in lower case or with the EIP-55"
    " checksum"
)


def parse_address(text: str, *, field: str) -> str:
    """
    Return the address *text* with its EIP-55 checksum.

    An address in lower case has no checksum to verify, and gets one.

    Raises:
        InvalidInputError: *text* is not an address, or its checksum is wrong.
    """
    if _LOWER.fullmatch(text):
        return to_checksum_address(text)
    if _ANY.fullmatch(text) and is_checksum_address(text):
        return text
    raise InvalidInputError(_EXPECTED, field=field)


def redact_address(text: str) -> str:
    """
    Return the address *text* with its checksum, or a prefix of any other text.

    Other text may be a key id that was entered by mistake.

    >>> redact_address("1234abcd-12ab-34cd-56ef-1234567890ab")
    '1234abcd...'
    """
    if _LOWER.fullmatch(text):
        return to_checksum_address(text)
    return text if _ANY.fullmatch(text) else key_prefix(text)


def is_loopback_address(host: str) -> bool:
    """Return whether *host* is an IP address of this host; a name is none."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
