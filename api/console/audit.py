"""What the ledger shows of the audit log: its chain and its newest checkpoint."""

from dataclasses import dataclass
from datetime import timedelta

from api.container import Container
from api.health.readiness import unsealed_seconds
from signer.audit.checkpoint_notes import Statement
from signer.audit.stored_checkpoints import find_newest


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


def read_audit(container: Container) -> AuditState:
    """Return the state; StoreError if the ledger does not answer."""
    store, signing = container.store, container.checkpoint_settings
    newest = find_newest(store, None if signing is None else signing.verify)
    statement, agrees = newest.statement, None
    if statement is not None:
        found = store.sealed(statement.size - 1, 1)
        agrees = [each.hash for each in found] == [statement.hash]
    seconds = unsealed_seconds(store.oldest_unsealed(), container.ledger_clock)
    return AuditState(
        sealed=store.head()[0],
        unsealed=timedelta(seconds=seconds),
        is_signed=signing is not None,
        statement=statement,
        note=None if newest.checkpoint is None else newest.checkpoint.note,
        agrees=agrees,
        forged=len(newest.forged),
    )
