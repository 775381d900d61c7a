"""What a restored ledger has lost, and the plan of its restore."""

from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from signer.amounts import parse_units
from signer.audit.actions import SUCCESS, AuditAction
from signer.model.audit_record import Operation, Record
from signer.model.payment import PaymentPurpose, PaymentState
from signer.model.refund import OPERATOR, RECORDED, Refund
from signer.model.wallet import Pause, Wallet
from signer.redact import REDACTED


WalletId = tuple[int, str]
"""Chain id and address of a wallet."""

_SWEPT = AuditAction.KEY_SWEEP.event_for(SUCCESS)
_OF_REFUNDS = {
    AuditAction.REFUND_ACCEPT.event_for(SUCCESS): "accepted",
    _SWEPT: "accepted",
    AuditAction.REFUND_CANCEL.requested: "cancelled",
    AuditAction.REFUND_CANCEL.event_for(SUCCESS): "cancelled",
    AuditAction.REFUND_REFUSE.event_for(SUCCESS): "refused",
}
# What the gateway chose; the log may have redacted it.
_TEXTS = {
    **{name: name for name in ("tenant", "idempotency_key", "fingerprint")},
    **RECORDED,
}
_INTENT = AuditAction.DIGEST_SIGN.requested
_SIGNATURES = frozenset(
    {
        _INTENT,
        AuditAction.DIGEST_SIGN.event_for(SUCCESS),
        AuditAction.DIGEST_SIGN.event_for("refused"),
    }
)
_KEY_CHANGES = {
    action.event_for(SUCCESS): action
    for action in (
        AuditAction.KEY_ROTATE,
        AuditAction.KEY_REVOKE,
        AuditAction.KEY_FAILOVER,
    )
}
_STOPPED = AuditAction.SIGNING_STOP.event_for(SUCCESS)
_RESUMED = AuditAction.SIGNING_RESUME.event_for(SUCCESS)
_BLOCKED = AuditAction.TENANT_BLOCK.event_for(SUCCESS)
_UNBLOCKED = AuditAction.TENANT_UNBLOCK.event_for(SUCCESS)
_REINSTATED = AuditAction.KEY_REINSTATE.event_for(SUCCESS)
_ADMINISTRATIVE = frozenset(
    {*_KEY_CHANGES, _REINSTATED, _STOPPED, _RESUMED, _BLOCKED, _UNBLOCKED}
)


@dataclass(slots=True)
class LostRefund:
    """
    What the log has of one refund, or of a sweep.

    ``accepted``, ``cancelled`` and ``refused`` are the records of its acceptance, of
    the first request to cancel it, and of its refusal by a worker.  ``nonces`` has the
    highest one that it had in each wallet: a refund that a vault did not pay gets a
    higher one.
    """

    accepted: Record | None = None
    cancelled: Record | None = None
    refused: Record | None = None
    nonces: dict[WalletId, int] = field(default_factory=dict)

    @property
    def ended(self) -> Record | None:
        """
        The record that it is not paid, if there is one.

        Only a queued refund is cancelled or refused: a revocation has taken the nonces
        away that it had before.
        """
        return self.cancelled or self.refused

    def find_wallet(self, revoked: Container[str]) -> WalletId | None:
        """
        Return the wallet that it is bound to; None if it had no nonce.

        A refund gets a nonce of another wallet only when its key is in *revoked*.  The
        order of the records is no evidence of that: a slow signature may be recorded
        after the next reservation, and the clocks of hosts differ.
        """
        bound = [wallet for wallet in self.nonces if wallet[1] not in revoked]
        return next(reversed(bound or [*self.nonces]), None)


@dataclass(frozen=True, slots=True)
class LostBatch:
    """The refunds of a batch in their order, by their ids, and the vault that pays."""

    payments: tuple[str, ...]
    vault: str


@dataclass(frozen=True, slots=True)
class KeyChange:
    """
    A change of the key ring: a rotation, a revocation or a failover to a replica.

    ``key`` is the start of the key's id.  ``previous`` is the address of the key that a
    rotation replaced, and revoked if ``compromised``.
    """

    action: AuditAction
    address: str
    key: str
    previous: str | None = None
    compromised: bool = False


StopOf = tuple[str | None, str | None]
"""The network of a stop, and the address of the token; None is everything."""


class LostChanges:
    """
    The changes in *records*, which the ledger does not have, sorted by their ids.

    All of them were written by processes of the service: their MACs are verified.
    ``administrative`` are the records of changes of keys, stops and blocks, and
    ``batches`` the batches by wallet and nonce.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.refunds: dict[str, LostRefund] = defaultdict(LostRefund)
        self.batches: dict[tuple[WalletId, int], LostBatch] = {}
        self.key_changes: list[KeyChange] = []
        self.stops: dict[StopOf, str] = {}
        self.blocked_tenants: set[str] = set()
        self.administrative: list[Record] = []
        self._high_waters: dict[WalletId, int] = {}
        for record in records:
            self._add(record)

    def high_water(self, wallet: WalletId) -> int:
        """Return one more than the highest nonce that *wallet* was to sign, or 0."""
        return self._high_waters.get(wallet, 0)

    def kept_high_water(self, wallet: WalletId, revoked: Container[str]) -> int:
        """
        Return ``high_water`` without the nonces that a revocation took away.

        It takes them from refunds that were never sent, which then get other ones.
        """
        kept = (
            refund.nonces[wallet] + 1
            for refund in self.refunds.values()
            if refund.ended is None and refund.find_wallet(revoked) == wallet
        )
        return max(kept, default=0)

    def addresses(self) -> AbstractSet[str]:
        """Return the addresses that were to sign a transaction."""
        return {address for _, address in self._high_waters}

    def _add(self, record: Record) -> None:
        fields = record.fields
        event, details = str(fields.get("event")), fields.get("details") or {}
        if event in _SIGNATURES:
            self._sign(fields, details)
        elif event in _OF_REFUNDS:
            name = _OF_REFUNDS[event]
            refund = self.refunds[details["refund_id"]]
            setattr(refund, name, getattr(refund, name) or record)
        elif event in _ADMINISTRATIVE:
            self.administrative.append(record)
            self._administrate(event, details)

    def _administrate(self, event: str, details: Mapping[str, Any]) -> None:
        if event in _KEY_CHANGES:
            self._change_keys(_KEY_CHANGES[event], details)
        elif event == _REINSTATED:
            self._forget_revocation(details["key_address"])
        elif event in {_STOPPED, _RESUMED} and "chain_id" not in details:
            # With a chain id, no network has the chain.
            stopped = details.get("network"), details.get("contract")
            self.stops.pop(stopped, None)
            if event == _STOPPED:
                self.stops[stopped] = str(details.get("reason"))
        elif event == _BLOCKED:
            self.blocked_tenants.add(details["tenant"])
        elif event == _UNBLOCKED:
            self.blocked_tenants.discard(details["tenant"])

    def _sign(self, fields: Mapping[str, Any], details: Mapping[str, Any]) -> None:
        refund_id, chain_id = fields.get("refund_id"), details.get("chain_id")
        if chain_id is None:
            return  # A message, or a test of the key.
        wallet, nonce = (chain_id, fields["address"]), details.get("nonce")
        if nonce is None:
            return  # Of a release before this one; its outcome has the nonce.
        # A filler is no refund, also of a release that gave it an id of one.
        if fields.get("operation") != Operation.NONCE_FILL:
            payments = details.get("payments") or []
            if refund_id is None and payments:
                batch = LostBatch(tuple(payments), details["vault"])
                self.batches[wallet, nonce] = batch
            elif refund_id is None:
                return
            for each in payments or [refund_id]:
                nonces = self.refunds[each].nonces
                nonces[wallet] = max(nonce, nonces.get(wallet, nonce))
        self._high_waters[wallet] = max(nonce + 1, self.high_water(wallet))

    def _forget_revocation(self, address: str) -> None:
        """Leave out that the key with *address* was revoked: that was undone."""
        self.key_changes = [
            replace(change, compromised=False)
            if change.compromised and change.previous == address
            else change
            for change in self.key_changes
            if (change.action, change.address) != (AuditAction.KEY_REVOKE, address)
        ]

    def _change_keys(self, action: AuditAction, details: Mapping[str, Any]) -> None:
        self.key_changes.append(
            KeyChange(
                action,
                address=details["key_address"],
                key=details["key"],
                previous=details.get("previous_key_address"),
                compromised=details.get("compromised") is True,
            )
        )


def rebuild(record: Record, now: datetime) -> Refund | None:
    """
    Return the queued refund whose acceptance *record* has; None if it is incomplete.

    A record of an earlier release is incomplete, and so is one whose texts were
    redacted.
    """
    fields = record.fields
    details = fields["details"]
    bound_sender, purpose = None, PaymentPurpose.REFUND
    if fields["event"] == _SWEPT:
        details = {**details, "tenant": OPERATOR}
        bound_sender, purpose = details.get("bound_sender"), PaymentPurpose.SWEEP
    elif "calldata" in details:
        purpose = PaymentPurpose.CALL
    needed = {"created_at", *_TEXTS.values()}
    if not needed <= details.keys() or any(
        REDACTED in str(details[own]) for own in _TEXTS.values()
    ):
        return None
    calldata = details.get("calldata")
    return Refund(
        id=details["refund_id"],
        **{name: details[own] for name, own in _TEXTS.items()},
        chain_id=details["chain_id"],
        token_address=details["token_address"],
        decimals=details["decimals"],
        amount=parse_units(
            details["amount"],
            details["decimals"],
            may_be_zero=calldata is not None,
        ),
        reason=None,
        state=PaymentState.QUEUED,
        created_at=datetime.fromisoformat(details["created_at"]),
        updated_at=now,
        due_at=now,
        calldata=None if calldata is None else bytes.fromhex(calldata[2:]),
        purpose=purpose,
        bound_sender=bound_sender,
    )


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

    With ``nonce`` it is held for the refund, in the wallet of ``sender``; with
    ``batch``, for all refunds of that.  ``cancellation`` is the record of a request to
    cancel it, or of its refusal: the gateway has the answer that it is not paid.
    """

    refund: Refund
    record: Record | None = None
    sender: str | None = None
    nonce: int | None = None
    cancellation: Record | None = None
    batch: LostBatch | None = None


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
    stops: Mapping[StopOf, str] = field(default_factory=dict)
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
