"""The kill switch: stops of one network, or of everything, that forbid signatures."""

from dataclasses import dataclass, field
from datetime import datetime

from signer.errors import RowNotAuthenticError, SigningStoppedError
from signer.model.audit_record import Operation
from signer.model.row import FreeText, NotStored, PrimaryKey, Small, sealed


EVERYTHING = 0
"""The chain id of a stop of everything; no network has it."""

EVERY_CHAIN = -1
"""In place of the chain id of a signature that may be valid on every chain."""

_LARGEST_ID = 2**63 - 1

UNSTOPPABLE = frozenset(
    {Operation.SELF_TEST, Operation.KEY_ROTATION, Operation.KEY_RELOCATION}
)
"""Operations that a stop allows: their signatures authorise nothing.

An administrator must be able to replace a stolen key while everything is stopped."""


@sealed("stop")
@dataclass(frozen=True, slots=True)
class Stop:
    """
    A stop of *chain_id*, or of everything.

    ``requested_by`` is the actor, as audit records name it.  ``resumed_at`` is when an
    operator ended the stop, None while it is in force.  ``version`` counts the changes:
    each is a compare-and-set on it.  ``is_authentic`` is not stored: it is False if the
    MAC of the stored row is not valid.  No other field of such a row can be trusted.
    """

    chain_id: PrimaryKey[int]
    at: datetime
    reason: FreeText
    requested_by: str
    resumed_at: datetime | None = None
    version: Small = 0
    mac: str | None = field(default=None, compare=False, repr=False)
    is_authentic: NotStored[bool] = True

    @property
    def in_force(self) -> bool:
        """Whether nothing may be signed: another program cannot end a stop."""
        return self.resumed_at is None or not self.is_authentic

    def error(self) -> SigningStoppedError | RowNotAuthenticError:
        """Return the error of what the stop forbids."""
        if not self.is_authentic:
            return RowNotAuthenticError(
                "another program changed or deleted the row of the stop of chain"
                f" {self.chain_id} (`stops`), or MAC_KEY_FILE has other keys:"
                f" `hotwallet stop --chain-id {self.chain_id}` replaces the row, and"
                " `hotwallet resume` ends that"
            )
        since = self.at.isoformat(timespec="seconds")
        scope = "all networks" if self.chain_id == EVERYTHING else "the network"
        return SigningStoppedError(
            f"signing for {scope} was stopped at {since}: `hotwallet resume` ends that"
        )


def stopped_by(operation: Operation, chain_id: int | None) -> int | None:
    """
    Return the chain id whose stop forbids a signature of *operation*.

    A stop of everything forbids it as well, and alone if *chain_id* is None.  Each stop
    forbids it if that is ``EVERY_CHAIN``.  Return None if no stop does.
    """
    if operation in UNSTOPPABLE:
        return None
    # No network has a larger id, and the databases cannot store one.
    return EVERYTHING if chain_id is None or chain_id > _LARGEST_ID else chain_id
