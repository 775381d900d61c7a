"""What the ledger shows of the audit log: its chain and its newest checkpoint."""

from dataclasses import dataclass
from datetime import timedelta

from api.container import Container
from api.health.readiness import unsealed_seconds
from signer.audit.chain_reader import BrokenChainError, ChainReader
from signer.audit.checkpoints import Statement, Verify, find_newest
from signer.audit.hash_chain import GENESIS
from signer.ports.audit_journal import Journal
from signer.row_macs import RowMACs


VERIFIED = 1_000
"""How many of the newest records a page verifies."""


def verify_with(container: Container) -> Verify | None:
    """Return what verifies stored checkpoints; None if this process has no key."""
    signing = container.checkpoint_settings
    return None if signing is None else signing.verify


@dataclass(frozen=True, slots=True)
class AuditState:
    """
    How far the audit log is sealed and signed.

    ``is_signed`` is whether this process has the key that verifies checkpoints.
    ``agrees`` is whether the chain still has the hash that the newest one states; None
    without a checkpoint.
    """

    sealed: int
    unsealed: timedelta
    is_signed: bool
    statement: Statement | None
    note: str | None
    agrees: bool | None
    forged: int
    chain: "ChainState"

    @property
    def is_verified(self) -> bool:
        """Whether all that this page compares agrees, with a signed checkpoint."""
        has_signature = self.is_signed and self.agrees is True
        return has_signature and self.chain.broken_at is None and not self.forged


@dataclass(frozen=True, slots=True)
class ChainState:
    """
    What was found when the hashes and MACs of the newest records were computed again.

    ``broken_at`` is the first record that does not follow from the one before it.
    ``foreign`` counts the records without a valid MAC: another program wrote them.
    """

    records: int
    broken_at: int | None
    foreign: int


def verify_newest(journal: Journal, macs: RowMACs) -> ChainState:
    """Compute the hashes and MACs of the newest records again."""
    size = journal.head()[0]
    start = max(0, size - VERIFIED)
    first = journal.sealed(start - 1, 1) if start else ()
    reader = ChainReader(journal, start, first[0].hash if first else GENESIS)
    broken_at = None
    try:
        reader.advance()
    except BrokenChainError as e:
        broken_at = e.sequence
    newest = journal.sealed(start, VERIFIED)
    foreign = sum(not macs.is_valid(each.record.mac, each.record) for each in newest)
    return ChainState(len(newest), broken_at, foreign)


def read_audit(container: Container) -> AuditState:
    """Return the state; StoreError if the ledger does not answer."""
    store, verify = container.store, verify_with(container)
    newest = find_newest(store, verify)
    statement, agrees = newest.statement, None
    if statement is not None:
        found = store.sealed(statement.size - 1, 1)
        agrees = [each.hash for each in found] == [statement.hash]
    seconds = unsealed_seconds(store.oldest_unsealed(), container.ledger_clock)
    return AuditState(
        sealed=store.head()[0],
        unsealed=timedelta(seconds=seconds),
        is_signed=verify is not None,
        statement=statement,
        note=None if newest.checkpoint is None else newest.checkpoint.note,
        agrees=agrees,
        forged=len(newest.forged),
        chain=verify_newest(store, container.row_macs),
    )
