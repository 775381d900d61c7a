"""Go along the stored chain, and believe nothing that does not follow."""

from collections.abc import Callable, Iterator, Sequence

from signer.audit.checkpoints import Statement
from signer.audit.hash_chain import GENESIS, link
from signer.errors import HotWalletError
from signer.model.audit_record import Sealed
from signer.ports import Checkpoint, Journal


BATCH = 1000
"""How many records are read at once."""

_STEP = 1000


class BrokenChainError(HotWalletError):
    """The chain is not what it was; *sequence* is the first place that shows it."""

    code = "audit-chain-broken"

    def __init__(self, message: str, *, sequence: int) -> None:
        super().__init__(f"{message} at record {sequence}")
        self.sequence = sequence


def batches(journal: Journal, after: int = 0) -> Iterator[Sequence[Sealed]]:
    """Yield the sealed records from behind place *after*, in their order."""
    while batch := journal.sealed(after, BATCH):
        yield batch
        after = batch[-1].sequence


def newest(journal: Journal) -> Checkpoint | None:
    """
    Return the checkpoint of the longest chain.

    The journal tells checkpoints from a size on.  Years of them are not read for the
    last one: it is looked for near the head, then further and further behind.
    """
    size, _ = journal.head()
    step = _STEP
    while True:
        after = max(0, size - step)
        if found := journal.checkpoints(after):
            return found[-1]
        if after == 0:
            return None
        step *= 8


def require_agreement(journal: Journal, statement: Statement) -> None:
    """
    Require that the stored chain has the hash that *statement* says, in its place.

    Raises:
        BrokenChainError: It has another one there, or is not as long.
    """
    found = journal.sealed(statement.size - 1, 1)
    if not found or found[0].sequence != statement.size:
        raise BrokenChainError("signed, and missing", sequence=statement.size)
    if found[0].hash != statement.hash:
        raise BrokenChainError("not what was signed", sequence=statement.size)


class ChainReader:
    """
    A way along the stored chain, each link done again; in pieces, if need be.

    ``size`` and ``head`` are how far it has come.
    """

    def __init__(self, journal: Journal, size: int = 0, head: bytes = GENESIS) -> None:
        self._journal = journal
        self.size = size
        self.head = head

    def go_on(self, is_over: Callable[[], bool] = lambda: False) -> bool:
        """
        Go on to the end of the chain, or until *is_over*; say whether it is the end.

        Between two questions to *is_over* a batch of records is read.

        Raises:
            BrokenChainError: A record does not follow from the one before it.
        """
        for batch in batches(self._journal, self.size):
            for each in batch:
                self._step(each)
            if len(batch) == BATCH and is_over():
                return False
        return True

    def _step(self, each: Sealed) -> None:
        due = self.size + 1
        if each.sequence != due:
            raise BrokenChainError("missing", sequence=due)
        head = link(self.head, due, each.record)
        if head != each.hash:
            raise BrokenChainError("changed", sequence=due)
        self.size, self.head = due, head
