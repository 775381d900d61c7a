"""The audit tables of the ledger."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from signer.model.audit_record import AuditShipping, Record, Sealed
from signer.model.sealed_fields import PrimaryKey


if TYPE_CHECKING:  # They need pydantic, which an auditor does not.
    from signer.model.key import SigningCondition
    from signer.ports.refund_store import Topic, Watch


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """
    A C2SP signed note (``note``) about the first ``size`` records of the chain.

    A stored one may be forged: only its signature shows that it is a checkpoint.
    """

    size: PrimaryKey[int]
    note: PrimaryKey[str]


DeclareForged = Callable[[Sequence[str]], Record]
"""A function that drafts the record which declares the records of these ids forged."""


@dataclass(frozen=True, slots=True)
class Sealing:
    """
    How many waiting records were sealed, and the ids of the forged ones found.

    ``records`` are those with a valid MAC that were sealed.
    """

    count: int
    forged: Sequence[str] = ()
    records: Sequence[Record] = field(default=(), compare=False, repr=False)


class Journal(Protocol):
    """The audit records, in the order in which they were sealed."""

    def watch(self, topic: "Topic") -> "AbstractContextManager[Watch]":
        """Return a context whose value waits for changes of *topic*."""

    def authenticate(self, record: Record) -> Record:
        """Return *record*, which need not be stored, with its MAC."""

    def append(
        self, records: Sequence[Record], *, condition: "SigningCondition | None" = None
    ) -> None:
        """
        Write *records*, all or none; they are durable when this returns.

        Raises:
            KeyRotatedError: No key of the ring meets *condition*, or the
                address that it pays is not that of the active key.
            SigningStoppedError: A stop that *condition* names is in force.
            StoreError: The database cannot be written.
        """

    def seal(self, limit: int, declare: DeclareForged) -> Sealing | None:
        """
        Seal the oldest *limit* records; None while another process is sealing.

        Another program may have written a record: its MAC is not valid.  No record can
        be deleted, so it is sealed as well, and a record by *declare* follows.  Such a
        program may also have sealed its record: before the chain is extended, the MACs
        of all records since the last call are verified, at first of the last ones.
        """

    def head(self) -> tuple[int, bytes]:
        """Return the number of sealed records, and the hash of the last one."""

    def sealed(self, after: int, limit: int) -> Sequence[Sealed]:
        """
        Return up to *limit* sealed records after sequence *after*, in order.

        They have the MACs that are stored, which are not verified.
        """

    def missing_records(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return those of *records* that are not stored, in their order."""

    def oldest_unsealed(self) -> str | None:
        """Return the id of the oldest unsealed record; None if all are sealed."""

    def last_configuration(self, process: str) -> Record | None:
        """
        Return the newest ``configuration-loaded`` of the kind *process*, if any.

        A record without a valid MAC does not count.
        """

    def keep_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Store *checkpoint* beside those of the same size, which may be forged."""

    def checkpoints(
        self, after: Checkpoint | None = None, limit: int = 1000
    ) -> Sequence[Checkpoint]:
        """Return up to *limit* stored checkpoints after *after*, in order of size."""

    def newest_checkpoints(
        self, after: int, upto: int, limit: int
    ) -> Sequence[Checkpoint]:
        """
        Return up to *limit* stored checkpoints, the largest size first.

        Their sizes are above *after*, and *upto* at most.
        """

    def shipping(self) -> AuditShipping | None:
        """Return how much is shipped; None if nothing ever was."""

    def keep_shipping(
        self, before: AuditShipping | None, after: AuditShipping
    ) -> AuditShipping:
        """
        Replace *before* by *after*, and return it as it is stored.

        Raises:
            StaleStateError: Another process changed the row.
        """

    def excess_privileges(self, role: str) -> Sequence[str]:
        """
        Return the privileges that this process has and one of *role* must not have.

        *role* is ``all``, ``refunds``, ``worker`` or ``admin``.  Each privilege is a
        short phrase for a message.  SQLite has no privileges: any process that can
        write the file can change every row, and the result is empty.
        """
