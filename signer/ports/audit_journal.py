"""What the core asks of the ledger about the audit log."""

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
    """The audit records, and the order in which they were sealed into the chain."""

    def append(
        self, records: Sequence[Record], *, standing: SigningCondition | None = None
    ) -> None:
        """
        Write *records*, all or none; they are durable when this returns.

        Raises:
            KeyRotatedError: No key of the ring meets the condition *standing*, or the
                address that it pays is not that of the active key.
            StoreError: The database cannot be written.
        """

    def seal(self, limit: int = 1000) -> int | None:
        """
        Append up to *limit* unsealed records to the hash chain, oldest first.

        Returns:
            How many were sealed; None while another process is sealing.
        """

    def head(self) -> tuple[int, bytes]:
        """Return the number of sealed records, and the hash of the last one."""

    def sealed(self, after: int, limit: int) -> Sequence[Sealed]:
        """Return up to *limit* sealed records, in order, after number *after*."""

    def oldest_unsealed(self) -> str | None:
        """Return the id of the oldest unsealed record, or None."""

    def keep_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Store *checkpoint*, unless there is one of the same size."""

    def checkpoints(self, after: int = 0) -> Sequence[Checkpoint]:
        """Return the checkpoints of more than *after* records, smallest first."""

    def excess_privileges(self) -> Sequence[str]:
        """
        Return the privileges of this process that allow it to change the audit log.

        Each is a verb phrase, such as "owns audit_records"; none means append-only.
        SQLite has no privileges: any process that can write the file can change every
        row, and the result is empty.
        """
