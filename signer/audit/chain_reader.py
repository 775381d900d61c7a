"""Reads the stored hash chain and verifies each link."""

from collections.abc import Callable, Iterator, Sequence

from signer.audit.checkpoints import Statement
from signer.audit.hash_chain import GENESIS, link
from signer.errors import HotWalletError
from signer.model.audit_record import Sealed
from signer.ports.audit_journal import Journal


BATCH = 1000
"""How many records are read at once."""


class BrokenChainError(HotWalletError):
    """The stored chain was changed; *sequence* is the first record that shows it."""

    code = "audit-chain-broken"

    def __init__(self, message: str, *, sequence: int) -> None:
        super().__init__(f"audit record {sequence} {message}")
        self.sequence = sequence


def batches(journal: Journal, after: int = 0) -> Iterator[Sequence[Sealed]]:
    """Yield the sealed records after the sequence number *after*, in order."""
    while batch := journal.sealed(after, BATCH):
        yield batch
        after = batch[-1].sequence


def require_agreement(journal: Journal, statement: Statement) -> None:
    """Raise ``BrokenChainError`` if the stored chain contradicts *statement*."""
    found = journal.sealed(statement.size - 1, 1)
    if not found or found[0].sequence != statement.size:
        raise BrokenChainError(
            "is covered by a checkpoint but missing", sequence=statement.size
        )
    if found[0].hash != statement.hash:
        raise BrokenChainError(
            "differs from the checkpoint that covers it", sequence=statement.size
        )


class ChainReader:
    """
    Verifies the stored chain link by link, in several steps if needed.

    ``size`` is the number of verified records, ``head`` the hash of the last one.  It
    starts after a chain of *size* records that ends with the hash *head*.
    """

    def __init__(self, journal: Journal, size: int = 0, head: bytes = GENESIS) -> None:
        self._journal = journal
        self.size = size
        self.head = head

    def advance(self, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """
        Verify records up to the end of the chain; return whether the end was reached.

        *should_stop* is asked after each batch.  A record that does not follow from the
        one before it raises ``BrokenChainError``.
        """
        for batch in batches(self._journal, self.size):
            for sealed in batch:
                self._verify(sealed)
            if len(batch) == BATCH and should_stop():
                return False
        return True

    def _verify(self, sealed: Sealed) -> None:
        expected = self.size + 1
        if sealed.sequence != expected:
            raise BrokenChainError("is missing", sequence=expected)
        head = link(self.head, expected, sealed.record)
        if head != sealed.hash:
            raise BrokenChainError("was changed", sequence=expected)
        self.size, self.head = expected, head
