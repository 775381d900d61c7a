"""A log that was shipped, as an auditor and a restore read it."""

from collections.abc import Iterator, Sequence
from typing import Protocol


class ShippedLog(Protocol):
    """
    The log at a place, whose other members are known once its lines were read.

    ``notes`` are its checkpoints, which are not verified.  ``replaced`` are the
    names of segments that have something above their first version, which counts.
    ``ignored`` are the names of what is no part of the log.
    """

    @property
    def notes(self) -> Sequence[str]: ...

    @property
    def replaced(self) -> Sequence[str]: ...

    @property
    def ignored(self) -> Sequence[str]: ...

    def lines(self) -> Iterator[bytes]:
        """
        Yield the lines of an export of what is there.

        Raises:
            HotWalletError: It cannot be read.
        """
