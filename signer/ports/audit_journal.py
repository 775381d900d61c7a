"""What the core asks of the ledger for the sake of the audit."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from signer.model.audit_record import Record, Sealed
from signer.model.key import SigningCondition


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """
    A signed statement about the chain's first ``size`` records.

    ``note`` is text: what was signed, and the signature (C2SP signed-note).
    """

    size: int
    note: str
    at: datetime


class Journal(Protocol):
    """The records of the audit, in the order in which they were sealed."""

    def append(
        self, records: Sequence[Record], *, standing: SigningCondition | None = None
    ) -> None:
        """
        Make *records* durable, all or none.

        Raises:
            KeyRotatedError: No key of the ring has this *standing*, or the address
                that it pays is not the active one's.
            StoreError: The database cannot be written.
        """

    def seal(self, limit: int = 1000) -> int | None:
        """
        Give the oldest unsealed records their places in the chain; return how many.

        None while another process is at it.
        """

    def head(self) -> tuple[int, bytes]:
        """Return the number of sealed records, and the hash of the last one."""

    def sealed(self, after: int, limit: int) -> Sequence[Sealed]:
        """Return sealed records from behind place *after*, in their order."""

    def oldest_unsealed(self) -> str | None:
        """Return the id of the record that has waited longest for its seal."""

    def keep_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Keep *checkpoint*, unless there is one of the same size."""

    def checkpoints(self, after: int = 0) -> Sequence[Checkpoint]:
        """Return the checkpoints of more than *after* records, smallest first."""

    def liberties(self) -> Sequence[str]:
        """
        Return what this process may do to the journal that it must not, in few words.

        Nobody can keep who may write SQLite's file from anything: it has no words.
        """
