"""
Reads the text of a policy: one rule after another, each with its line.

Cedar's parser and validator do not report where an error is, so each rule is given to
them alone.  Addresses are written with their checksum, as everywhere in the
configuration, and compared in lower case: a ``forbid`` with other letters would never
apply.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from eth_utils.address import is_checksum_address


_PART = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|;|\n|[^\s]', re.DOTALL)

_HEX = re.compile(r'(?<!:)"0[xX][0-9a-fA-F*]*"')  # No id, such as Tenant::"0xAB".
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """The *text* of a policy, and the *name* that errors show."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Statement:
    """One rule: its text, its file, and the line (from 1) that it starts on."""

    file: str
    line: int
    text: str

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.file}, line {self.line}"


def split_statements(file: PolicyFile) -> Iterator[Statement]:
    """
    Yield each rule of *file*.

    A rule ends with ``;``, which may also be in a string or a comment.  What follows
    the last one is a rule as well, if it is more than comments: Cedar then reports that
    it is incomplete.
    """
    line = first_line = 1
    start: int | None = None
    for match in _PART.finditer(file.text):
        part = match.group()
        if part != "\n" and not part.startswith("//") and start is None:
            start, first_line = match.start(), line
        line += part.count("\n")
        if part == ";" and start is not None:
            yield Statement(file.name, first_line, file.text[start : match.end()])
            start = None
    if start is not None:
        yield Statement(file.name, first_line, file.text[start:])


def find_wrong_address(text: str) -> str | None:
    """Return the first address in *text* with a wrong checksum; None without one."""
    for match in _HEX.finditer(text):
        written = match.group()[1:-1]
        if _ADDRESS.fullmatch(written) and not _is_correct(written):
            return written
    return None


def lower_addresses(text: str) -> str:
    """Return *text* with every string of hexadecimal digits in lower case."""
    return _HEX.sub(lambda match: match.group().lower(), text)


def _is_correct(address: str) -> bool:
    return address == address.lower() or is_checksum_address(address)
