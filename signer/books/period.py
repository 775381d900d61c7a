"""The blocks of a period of time."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from signer.errors import InvalidInputError
from signer.ports.chain_history import ChainHistory, Header


LATE_SECONDS = 3600
"""How long a worker may take to see that a transaction is final."""

REORGANISED = "the chain was reorganised while it was read: run the command again"

_WINDOW = 2000
"""Blocks of one window; nodes may return fewer at once."""


@dataclass(frozen=True, slots=True)
class Period:
    """A period from *start* up to, and without, *end*; both are in UTC."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        """Raise ``InvalidInputError`` if the period is empty."""
        if self.start >= self.end:
            raise InvalidInputError("must be later than --from", field="--to")


@dataclass(frozen=True, slots=True)
class BlockRange:
    """
    The final blocks of a period, from *first* to *last*, both included.

    ``final`` is the height of the newest final block.  Refunds in blocks before
    ``late_before`` have been final for so long that the ledger should know.
    """

    first: Header
    last: Header
    final: int
    late_before: int

    @property
    def numbers(self) -> tuple[int, int]:
        """The numbers of both blocks."""
        return self.first.block.number, self.last.block.number

    @property
    def count(self) -> int:
        """How many blocks there are."""
        first, last = self.numbers
        return last - first + 1


def find_blocks(
    history: ChainHistory, period: Period, confirmations: int
) -> BlockRange:
    """
    Return the blocks of *period* that have *confirmations*.

    The genesis block is left out: it has no block before it, whose state is the opening
    one, and no transactions.

    Raises:
        InvalidInputError: No block of the period is final yet.
        ChainUnavailableError: As ``ChainHistory``.
    """
    final = history.latest_block().number - confirmations + 1

    def find_first(timestamp: float) -> int:
        return bisect_left(
            range(final + 1),
            timestamp,
            key=lambda number: header_at(history, number).timestamp,
        )

    first = max(1, find_first(period.start.timestamp()))
    last = find_first(period.end.timestamp()) - 1
    if last < first:
        raise InvalidInputError(
            "has no final block yet: choose an earlier --from, or wait",
            field="the period",
        )
    newest = header_at(history, final)
    return BlockRange(
        header_at(history, first),
        header_at(history, last),
        final,
        find_first(newest.timestamp - LATE_SECONDS),
    )


def windows(first: int, last: int) -> Iterator[tuple[int, int]]:
    """
    Yield the first and last block of each part of the blocks from *first* to *last*.

    >>> list(windows(1, 2001))
    [(1, 2000), (2001, 2001)]
    """
    for start in range(first, last + 1, _WINDOW):
        yield start, min(start + _WINDOW - 1, last)


def header_at(history: ChainHistory, number: int) -> Header:
    """Return the canonical block at height *number*."""
    (header,) = history.headers([number])
    return header
