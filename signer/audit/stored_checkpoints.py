"""
Finds the newest checkpoint among the stored ones.  Any of them may be forged.

A program with a role of the service can store any text as a checkpoint, and no row can
be deleted.  So only the signature shows what a checkpoint is, and the rest is ignored.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from signer.audit.checkpoint_notes import Statement, parse
from signer.errors import InvalidInputError
from signer.ports.audit_journal import Checkpoint, Journal


MAX_READ = 200
"""How many stored checkpoints are read at once, above and below the chain's head."""

MAX_SIZE = 2**63 - 1
"""The largest size of a checkpoint that the database can store."""

Verify = Callable[[Checkpoint], Statement | None]
"""A function that returns what a stored checkpoint states; None if it is not ours."""


@dataclass(frozen=True, slots=True)
class Newest:
    """
    The newest genuine checkpoint, and the others that were read before it.

    ``of_others`` agree with the chain, but another key signed them, perhaps an earlier
    key of this service.  ``forged`` are no checkpoints of this chain.
    """

    checkpoint: Checkpoint | None
    of_others: Sequence[Checkpoint]
    forged: Sequence[Checkpoint]

    @property
    def statement(self) -> Statement | None:
        """What the checkpoint states; None if there is none."""
        return None if self.checkpoint is None else statement_of(self.checkpoint)


def find_newest(journal: Journal, verify: Verify | None, after: int = 0) -> Newest:
    """
    Find the newest checkpoint of more than *after* records.

    Without *verify* (there is no key), each one that agrees with the chain counts.
    When ``MAX_READ`` others are newer, it is not found.  Then the whole chain is
    verified and signed again, which is safe.
    """
    size, _ = journal.head()
    above = journal.newest_checkpoints(max(size, after), MAX_SIZE, MAX_READ)
    of_others, forged = list[Checkpoint](), list[Checkpoint]()
    for stored in (*above, *journal.newest_checkpoints(after, size, MAX_READ)):
        is_ours = verify is not None and verify(stored) is not None
        is_true = is_ours or _agrees(journal, stored)
        if is_ours or (is_true and verify is None):
            return Newest(stored, of_others, forged)
        (of_others if is_true else forged).append(stored)
    return Newest(None, of_others, forged)


def statement_of(stored: Checkpoint, origin: str | None = None) -> Statement | None:
    """
    Return what *stored* states, without verifying it.

    None if it is malformed, states another size than it is stored with, or is not of
    *origin*.
    """
    try:
        statement = parse(stored.note).statement
    except InvalidInputError:
        return None
    is_copy = statement.size != stored.size
    is_foreign = origin is not None and statement.origin != origin
    return None if is_copy or is_foreign else statement


def _agrees(journal: Journal, stored: Checkpoint) -> bool:
    """Return whether *stored* states the hash of the last record that it covers."""
    statement = statement_of(stored)
    if statement is None:
        return False
    found = journal.sealed(statement.size - 1, 1)
    return [(each.sequence, each.hash) for each in found] == [
        (statement.size, statement.hash)
    ]
