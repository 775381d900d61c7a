"""Compares two logs record by record, by their hashes, while both are verified."""

from collections.abc import Iterable, Iterator

from signer.audit.export import read_place
from signer.audit.verify import BadRecord


_BYTES = 32

_SHIPPED = "; compare with another copy, and follow docs/how-to/key-compromise.md"


class Comparison:
    """The first difference of a log from a shipped one, whose hashes it keeps."""

    def __init__(self) -> None:
        self._hashes = bytearray()  # In the order of the chain.
        self._compared = 0
        self._fork: BadRecord | None = None

    @property
    def unshipped(self) -> int:
        """How many records follow after the last one that was shipped."""
        return max(0, self._compared - self._shipped)

    @property
    def _shipped(self) -> int:
        return len(self._hashes) // _BYTES

    def remember(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the *lines* of the shipped log, and remember its hashes."""
        for line in lines:
            place = read_place(line)
            if place is not None and place[0] == self._shipped + 1:
                self._hashes += place[1]
            yield line

    def compare(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the *lines* of the other log, and compare them."""
        for number, line in enumerate(lines, 1):
            place = read_place(line)
            if place is not None and place[0] == self._compared + 1:
                self._compare(*place, number)
            yield line

    def difference(self) -> BadRecord | None:
        """Return the first difference, once all lines were read."""
        if self._fork is None and self._compared < self._shipped:
            first, last = self._compared + 1, self._shipped
            problem = f"it is missing: records up to {last} were shipped{_SHIPPED}"
            return BadRecord("missing", first, 0, problem)
        return self._fork

    def _compare(self, sequence: int, seal: bytes, line: int) -> None:
        self._compared = sequence
        known = self._hashes[(sequence - 1) * _BYTES : sequence * _BYTES]
        if known and known != seal and self._fork is None:
            problem = f"another record was shipped in its place{_SHIPPED}"
            self._fork = BadRecord("forked", sequence, line, problem)
