"""What a restored ledger needs: the plan, which changes nothing."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from signer.model.audit_record import Record
from signer.model.refund import Refund
from signer.model.wallet import Pause, Wallet
from signer.restore.lost_changes import KeyChange


HighWaters = Mapping[tuple[str, str], int]
"""By network and address, the mark that an operator states."""


@dataclass(frozen=True, slots=True)
class WalletPlan:
    """
    A wallet, and what is known of its nonces.

    ``wallet`` is as the ledger has it, or as it will be opened: if the ledger does not
    have it, or another program changed it.  ``counted`` is the chain's next nonce, and
    ``mined`` the one of its newest block.  Every nonce below ``high_water`` will be
    final before the wallet pays anything new.  ``fillers`` are the nonces for which a
    no-op is signed.  ``has_gaps``: the ledger misses other nonces below the mark, which
    are mined, or which a revoked key may have signed.  ``is_stated``: an operator
    stated the mark.
    """

    network: str
    wallet: Wallet
    counted: int
    mined: int
    high_water: int
    fillers: Sequence[int] = ()
    has_gaps: bool = False
    is_revoked: bool = False
    is_stated: bool = False

    @property
    def is_done(self) -> bool:
        """Whether the ledger has this mark and its fillers already, or needs none."""
        if self.fillers:
            return False
        if not self.wallet.is_authentic:
            return False
        if self.wallet.paused_by is Pause.RESTORED:
            return self.wallet.high_water == self.high_water
        return self.high_water <= self.wallet.next_nonce and not self.has_gaps


@dataclass(frozen=True, slots=True)
class PlannedRefund:
    """
    A refund as the ledger has it, or as it will be created from ``record``.

    With ``nonce`` it is held for the refund, in the wallet of ``sender``.
    ``cancellation`` is the record of a request to cancel it, or of its refusal: the
    gateway has the answer that it is not paid.
    """

    refund: Refund
    record: Record | None = None
    sender: str | None = None
    nonce: int | None = None
    cancellation: Record | None = None


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """
    Everything that a restore changes.

    ``problems`` are reasons why it cannot be executed yet; each says what to do.
    ``incomplete`` are ids of refunds that the log does not describe completely: the
    gateway must request them again.  ``records`` are stored at the end, so that their
    changes are not repeated by a later restore.

    ``basis`` names the records of the log and the stated marks.  An approval is given
    for it: it stays the same while a restore that was interrupted is completed.
    """

    key_changes: Sequence[KeyChange] = ()
    stops: Mapping[str | None, str] = field(default_factory=dict)
    blocked_tenants: Collection[str] = ()
    wallets: Sequence[WalletPlan] = ()
    refunds: Sequence[PlannedRefund] = ()
    incomplete: Sequence[str] = ()
    problems: Sequence[str] = ()
    records: Sequence[Record] = ()
    basis: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether the ledger has everything."""
        changes = self.key_changes, self.stops, self.blocked_tenants, self.records
        return not any((*changes, self.wallets, self.refunds))

    def facts(self) -> dict[str, Any]:
        """Return what the audit log keeps."""
        return {
            "wallets": [
                {
                    "network": each.network,
                    "address": each.wallet.sender,
                    "high_water": each.high_water,
                    "stated": each.is_stated,
                }
                for each in self.wallets
            ],
            "created": sum(each.record is not None for each in self.refunds),
            "nonces": sum(each.nonce is not None for each in self.refunds),
            "cancelled": sum(each.cancellation is not None for each in self.refunds),
            "key_changes": len(self.key_changes),
        }
