"""The stops of the kill switch."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from signer.model.approval import ApprovalUse
from signer.model.stop import Stop


class StopStore(Protocol):
    """
    The last stop of each network, and of everything.

    Reservations, intents to sign and signed bytes are committed only while none is in
    force: ``Store.reserve_all``, ``Store.save`` and ``Journal.append`` check it.  A
    stop of which another program changed the row is in force, and not authentic.
    """

    def stop(self, stop: Stop) -> bool:
        """
        Forbid signatures; return False if there is such a stop already, which stays.

        A stop that is not authentic is replaced.
        When this returns, no reservation and no intent to sign is in progress, except
        one that hangs for longer than a lock is waited for.
        """

    def resume_signing(
        self,
        chain_id: int,
        at: datetime,
        version: int | None = None,
        use: ApprovalUse | None = None,
    ) -> bool:
        """
        End the stop of *chain_id*, at *at*; return whether it was in force.

        *use* ends an approval in the same transaction.

        Raises:
            StaleStateError: The stop in force does not have the given *version*, or the
                approval has changed.
            RowNotAuthenticError: The stop is not authentic: ``stop`` first.
        """

    def stops(self) -> Sequence[Stop]:
        """Return the last stop of everything and of each chain, by chain id."""

    def find_stop(self, chain_id: int) -> Stop | None:
        """Return the stop that forbids signatures on *chain_id* now, if any."""

    def hold_changes(self) -> int:
        """
        Return how often stops and blocks have changed.

        Audit records of these changes have the number.  A process that starts takes no
        earlier state for the present one.
        """

    def raise_hold_changes(self, changes: int) -> None:
        """
        Count at least *changes* from now on.

        A restored ledger gets audit records of changes that its backup does not count.
        """
