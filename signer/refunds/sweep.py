"""
Empties a former key's address into the active one: tokens first, the coin last.

Each piece is a refund in all but its client: one row, one nonce, recorded, audited,
watched, replaced and confirmed like any other.  Of each network's each asset one sweep
is open at a time, and its reference counts them, so that operators who sweep at once
move everything once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from signer.addresses import parse_address, shown_address
from signer.alerts import Alerts
from signer.amounts import format_units
from signer.audit.log import AuditAction, AuditLog
from signer.chain.chain import Chain
from signer.errors import HotWalletError
from signer.keys.admin_audit import AdminAudit, Facts
from signer.keys.keyring import KeyRing
from signer.model.audit_record import Actor, Operation
from signer.model.refund import (
    SWEEPER,
    Refund,
    RefundRequest,
    Status,
    new_refund_id,
)
from signer.ports import Clock, KeyStore, Store
from signer.refunds.sweep_plan import SweepItem, SweepPlanner


class Sweeper:
    """Plans sweeps, and hands them to the ledger; workers do the rest."""

    def __init__(
        self,
        store: Store,
        keys: KeyStore,
        ring: KeyRing,
        chains: Mapping[str, Chain],
        *,
        audit: AuditLog,
        alerts: Alerts,
        clock: Clock,
    ) -> None:
        self._store = store
        self._ring = ring
        self._leftovers = SweepPlanner(store, keys, ring, chains)
        self._chains = chains
        self._minutes = AdminAudit(audit, alerts, Operation.KEY_SWEEP)
        self._clock = clock

    def plan(self, address: str) -> Sequence[SweepItem]:
        """
        Return what is left at *address*, in the order in which it is moved.

        What a sweep that is not final moves has its refund.

        Raises:
            InvalidInputError: It is no address.
            KeyUnusableError: It is not a former key's.
            ConflictError: Refunds with its nonces are still open.
            ChainError: A node does not answer.
        """
        return self._leftovers.of(parse_address(address, field="address")).pieces

    def sweep(self, address: str, actor: Actor) -> Sequence[SweepItem]:
        """
        Accept what can be moved now, and return the plan; again is fine.

        Raises:
            HotWalletError: As ``plan``; what was accepted before stays accepted.
        """
        asked: Facts = {"address": shown_address(address)}
        try:
            asked["address"] = address = parse_address(address, field="address")
            self._minutes.request(AuditAction.KEY_SWEEP, actor, **asked)
            recipient = self._ring.active().key.address
            pieces, past = self._leftovers.of(address)
            return [
                piece
                if piece.waits_for
                else self._accepted(piece, address, recipient, past, actor)
                for piece in pieces
            ]
        except HotWalletError as e:
            self._minutes.refuse(AuditAction.KEY_SWEEP, e, actor, **asked)
            raise

    def _accepted(
        self,
        piece: SweepItem,
        address: str,
        recipient: str,
        past: Sequence[Refund],
        actor: Actor,
    ) -> SweepItem:
        row = piece.refund
        if row is None:
            row, _ = self._store.accept(self._row(piece, address, recipient, past))
        self._minutes.write(
            AuditAction.KEY_SWEEP,
            actor,
            network=row.network,
            address=address,
            recipient=row.recipient,
            token_symbol=row.token,
            amount=format_units(row.amount, row.decimals),
            refund_id=row.id,
        )
        return replace(piece, refund=row)

    def _row(
        self, piece: SweepItem, address: str, recipient: str, past: Iterable[Refund]
    ) -> Refund:
        chain_id = self._chains[piece.network].network.chain_id
        asset = (chain_id, piece.symbol)
        # Whoever looks at the same time counts as many, and finds the same row.
        number = sum((row.chain_id, row.token) == asset for row in past)
        name = f"{address}/{piece.symbol}/{chain_id}/{number}"
        now = self._clock()
        request = RefundRequest(
            payment_session_id=address,
            reference=name,
            network=piece.network,
            token=piece.symbol,
            # Of what is there, and to whom, the first one to ask decides.
            recipient="",
            amount="",
        )
        return Refund(
            id=new_refund_id(now),
            client=SWEEPER,
            idempotency_key=name,
            fingerprint=request.fingerprint(),
            reference=name,
            payment_session_id=address,
            network=piece.network,
            chain_id=chain_id,
            token=piece.symbol,
            token_address=piece.token_address,
            decimals=piece.decimals,
            recipient=recipient,
            amount=piece.amount,
            reason="sweep",
            status=Status.QUEUED,
            created_at=now,
            updated_at=now,
            due_at=now,
        )
