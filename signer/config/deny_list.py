"""
Reads the file of addresses that are never paid, and reads it again when it changes.

One address is on each line, in lower case or with its checksum (EIP-55).  ``#`` begins
a comment, and blank lines are allowed.  Anything else is an error: a line that is not
understood could be the one that matters, and a file without an address is more likely a
failed download than an empty list.
"""

import hashlib
import os
import re
from pathlib import Path

import structlog
from eth_utils.address import is_checksum_address

from signer.errors import ConfigurationError, Refusal, ScreeningUnavailableError


MAX_BYTES = 16 * 2**20
"""Bytes of the file: about 380,000 addresses."""

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")

_Version = tuple[int, int, int, int]


def parse_deny_list(text: str) -> frozenset[str]:
    """
    Return the addresses of *text*, in lower case.

    Raises:
        ValueError: A line is no address, or there is none; the message names the line.
    """
    found = set()
    for number, line in enumerate(text.splitlines(), start=1):
        address = line.partition("#")[0].strip()
        if not address:
            continue
        if not _ADDRESS.fullmatch(address):
            raise ValueError(f"line {number} is no address and no comment")
        if address != address.lower() and not is_checksum_address(address):
            raise ValueError(f"the address in line {number} has a wrong checksum")
        found.add(address.lower())
    if not found:
        raise ValueError("it has no address: unset the setting to have no list")
    return frozenset(found)


class DenyList:
    """The addresses of one file; safe to use from many threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = structlog.get_logger("screening")
        try:
            self._known = self._read()
        except (OSError, ValueError) as e:
            # Do not show the path: it may be a secret in the wrong variable.
            detail = f"DENY_LIST_FILE: {_describe(e)}"
            raise ConfigurationError(Refusal("deny-list-invalid", detail)) from None

    def addresses(self) -> frozenset[str]:
        """
        Return the addresses of the file as it is now, in lower case.

        Raises:
            ScreeningUnavailableError: The file was changed, and cannot be read or
                parsed: nothing may be paid until it can.
        """
        try:
            if self._known[0] != _version(self._path.stat()):
                self._known = self._read()
        except (OSError, ValueError) as e:
            message = f"the deny list cannot be used: {_describe(e)}"
            raise ScreeningUnavailableError(message) from None
        return self._known[1]

    def _read(self) -> tuple[_Version, frozenset[str]]:
        with self._path.open("rb") as file:
            # Before the content: a change during the reading is seen the next time.
            version = _version(os.fstat(file.fileno()))
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        found = parse_deny_list(content.decode())
        digest = hashlib.sha256(content).hexdigest()
        self._log.info("deny-list-loaded", addresses=len(found), sha256=digest)
        return version, found


def _version(status: os.stat_result) -> _Version:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _describe(error: OSError | ValueError) -> str:
    if isinstance(error, OSError | UnicodeDecodeError):
        return f"it cannot be read ({type(error).__name__})"
    return str(error)
