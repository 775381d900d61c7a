"""Go along the stored chain, and believe nothing that does not follow."""

from collections.abc import Iterator, Sequence

from signer.audit.chain import GENESIS, link
from signer.audit.checkpoints import Statement
from signer.audit.record import Sealed
from signer.errors import HotWalletError
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


def followed(
    journal: Journal, size: int = 0, head: bytes = GENESIS
) -> tuple[int, bytes]:
    """
    Return the chain's size and last hash, each link from *size* on done again.

    Raises:
        BrokenChainError: A record does not follow from the one before it.
    """
    for batch in batches(journal, size):
        for each in batch:
            if each.sequence != size + 1:
                raise BrokenChainError("missing", sequence=size + 1)
            size, head = each.sequence, link(head, each.sequence, each.record)
            if head != each.hash:
                raise BrokenChainError("changed", sequence=size)
    return size, head
