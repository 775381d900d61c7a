"""
Moves everything from a former key's address to the active one: tokens first, coin last.

Each asset becomes a payment that is bound to the address: it has one row and one nonce,
and is audited, tracked, replaced and confirmed like any refund.  At most one sweep is
open per network and asset.  Its reference has a running number, so that administrators
who sweep at the same time move each asset once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from signer.addresses import parse_address, redact_address
from signer.audit.actions import AuditAction
from signer.audit.log import AuditLog
from signer.chain.chain import Chain
from signer.keys.admin_audit import AdminAudit, Facts
from signer.keys.keyring import KeyRing
from signer.model.acceptance import Acceptance
from signer.model.audit_record import Actor, Operation
from signer.model.payment import PaymentPurpose, PaymentState
from signer.model.refund import OPERATOR, Refund, RefundRequest, new_refund_id
from signer.outcomes import require
from signer.ports.clock import Clock
from signer.ports.key_store import KeyStore
from signer.ports.ledger import Ledger
from signer.refunds.sweep_plan import SweepItem, SweepPlanner
from signer.refunds.transaction_signer import describe_acceptance


class Sweeper:
    """Plans sweeps and stores them in the ledger, from which workers process them."""

    def __init__(
        self,
        store: Ledger,
        keys: KeyStore,
        ring: KeyRing,
        chains: Mapping[str, Chain],
        *,
        audit: AuditLog,
        clock: Clock,
    ) -> None:
        self._store = store
        self._ring = ring
        self._planner = SweepPlanner(store, keys, ring, chains)
        self._chains = chains
        self._admin_audit = AdminAudit(audit, Operation.KEY_SWEEP)
        self._clock = clock

    def plan(self, address: str) -> Sequence[SweepItem]:
        """
        Return what *address* holds, in the order in which it is moved.

        An asset that a sweep already moves has that sweep's refund.

        Raises:
            InvalidInputError: *address* is malformed.
            ConflictError, SigningError, ChainError: As ``SweepPlanner.plan``.
        """
        items, _ = self._planner.plan(parse_address(address, field="address"))
        return items

    def sweep(self, address: str, actor: Actor) -> Sequence[SweepItem]:
        """
        Accept a sweep of each asset that can be moved now, and return the plan.

        The plan has the refunds of the accepted sweeps.  Repeating the call is safe.
        It raises as ``plan``; sweeps accepted before the error stay accepted.
        """
        asked: Facts = {"address": redact_address(address)}
        with self._admin_audit.attempt(AuditAction.KEY_SWEEP, actor, **asked):
            address = parse_address(address, field="address")
            recipient = self._ring.active().key.address
            items, past_sweeps = self._planner.plan(address)
            return [
                item
                if item.waits_for
                else self._accept(item, address, recipient, past_sweeps, actor)
                for item in items
            ]

    def _accept(
        self,
        item: SweepItem,
        address: str,
        recipient: str,
        past_sweeps: Sequence[Refund],
        actor: Actor,
    ) -> SweepItem:
        row = item.refund
        if row is None:
            new = self._build_row(item, address, recipient, past_sweeps)
            (accepted,) = self._store.accept_all([Acceptance(new)])
            row, _ = require(accepted)
        self._admin_audit.write(
            AuditAction.KEY_SWEEP,
            actor,
            address=address,
            **describe_acceptance(row),
        )
        return replace(item, refund=row)

    def _build_row(
        self,
        item: SweepItem,
        address: str,
        recipient: str,
        past_sweeps: Iterable[Refund],
    ) -> Refund:
        chain_id = self._chains[item.network].network.chain_id
        asset = chain_id, item.symbol
        # Concurrent calls count the same number, and so find the same row.
        number = sum((row.chain_id, row.token) == asset for row in past_sweeps)
        name = f"{address}/{item.symbol}/{chain_id}/{number}"
        now = self._clock()
        request = RefundRequest(
            payment_session_id=PaymentPurpose.SWEEP,
            reference=name,
            network=item.network,
            token=item.symbol,
            # Not in the fingerprint: concurrent calls may read different values, and
            # the first one decides.
            recipient="",
            amount="",
        )
        return Refund(
            id=new_refund_id(now),
            tenant=OPERATOR,
            idempotency_key=name,
            fingerprint=request.fingerprint(),
            reference=name,
            payment_session_id=request.payment_session_id,
            network=item.network,
            chain_id=chain_id,
            token=item.symbol,
            token_address=item.token_address,
            decimals=item.decimals,
            recipient=recipient,
            amount=item.amount,
            reason="sweep",
            state=PaymentState.QUEUED,
            created_at=now,
            updated_at=now,
            due_at=now,
            purpose=PaymentPurpose.SWEEP,
            bound_sender=address,
        )
