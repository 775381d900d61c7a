"""Executes the plan of a restore."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, replace

import structlog

from api.container import Container
from api.extras.restore.plan import KeyChange, PlannedRefund, RestorePlan, WalletPlan
from signer.audit.actions import AuditAction
from signer.chain.vault import batch_gas
from signer.config.networks import NOOP_GAS, Network
from signer.crypto.transactions import MAX_GAS
from signer.deadline import Deadlines
from signer.errors import ConflictError, NotFoundError, StaleStateError, require
from signer.keys.admin_audit import AdminAudit
from signer.keys.balances import BalanceReader
from signer.keys.failover import Failover
from signer.keys.revocation import Revocation
from signer.keys.rotation import Rotation, RotationOptions
from signer.model.acceptance import Acceptance
from signer.model.audit_record import Actor, Record
from signer.model.key import find_key
from signer.model.payment import PaymentPurpose
from signer.model.refund import Refund, Status
from signer.model.transaction import (
    Transaction,
    TransactionKind,
    TransactionStatus,
    compose,
)
from signer.model.wallet import Pause
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.redact import key_prefix
from signer.refunds.hold_admin import Holds
from signer.refunds.payment_checks import max_gas


def open_restorer(container: Container) -> Restorer:
    """Return what restores; one approval is for all that it repeats."""
    store, audit, clock = container.store, container.audit, container.clock
    return Restorer(
        store,
        container.networks,
        rotation=Rotation(
            store,
            container.signers,
            read_balances=BalanceReader(container.chains, Deadlines()),
            # It repeats rotations, after which a guardian may have removed the key.
            require_operator=lambda address: None,
            alerts=container.alerts,
            clock=clock,
        ),
        revocation=Revocation(store, audit=audit, clock=clock),
        failover=container.failover,
        holds=container.holds,
        admin_audit=container.administration,
        clock=container.ledger_clock,
    )


@dataclass(eq=False, repr=False)
class Restorer:
    """
    Gives a restored ledger back what it has lost.

    Wallets are paused before anything else changes.  So a process that dies between any
    two steps leaves wallets that pay nothing new, and the same command completes the
    restore.  No other process should run meanwhile.

    *rotation*, *revocation* and *failover* must not ask for approvals.
    """

    store: Ledger
    networks: Mapping[str, Network]
    _: KW_ONLY
    rotation: Rotation
    revocation: Revocation
    failover: Failover
    holds: Holds
    admin_audit: AdminAudit
    clock: Clock

    def __post_init__(self) -> None:
        self._log = structlog.get_logger("restore")

    def restore(
        self,
        plan: RestorePlan,
        key_ids: Collection[str],
        actor: Actor,
        plan_again: Callable[[], RestorePlan],
    ) -> None:
        """
        Execute *plan*, which has no problems and was made with *key_ids*.

        A change of the keys changes what is left to do: *plan_again* is called after
        it.

        Raises:
            ConflictError: *plan* has problems, or the gateway requested one of its
                refunds meanwhile: make a new plan.
            ApprovalRequiredError: Another administrator must approve it first.
            StaleStateError: Another process changed a wallet: make a new plan.
            SigningError, StoreError: A repeated call continues.
        """
        _require_possible(plan)
        action, facts = AuditAction.LEDGER_RESTORE, plan.facts()
        with self.admin_audit.attempt(action, actor, **facts):
            with self.admin_audit.authorize(action, actor, **plan.basis) as use:
                self._pause(plan)
                for change in plan.key_changes:
                    self._repeat(change, key_ids, actor)
                if plan.key_changes:
                    # A revocation takes the nonces of unsigned refunds away.
                    plan = _require_possible(plan_again())
                    self._pause(plan)
                self._complete(plan, actor)
                if use is not None:
                    self.store.put_approval(use.approval, use.done, use.record)
            self.admin_audit.write(action, actor, **facts)

    def _pause(self, plan: RestorePlan) -> None:
        for wallet in plan.wallets:
            self._pause_wallet(wallet)

    def _complete(self, plan: RestorePlan, actor: Actor) -> None:
        """Do what needs the keys as they are now."""
        for (network, token), reason in plan.stops.items():
            self.holds.stop(network, actor.because(reason), token=token)
        for refund in plan.refunds:
            self._restore_refund(refund)
        for batch in {each.batch: each for each in plan.refunds if each.batch}.values():
            self._hold_batch(batch)
        # After the refunds: without a tenants file, a tenant exists by its refunds.
        for tenant in plan.blocked_tenants:
            with suppress(NotFoundError):  # It left the file since.
                self.holds.block(tenant, actor)
        for wallet in plan.wallets:
            self._fill(wallet)
        # First: a register that counts fewer changes than the records is not valid.
        self.store.raise_hold_changes(max(map(_hold_changes, plan.records), default=0))
        self.store.append(plan.records)

    def _pause_wallet(self, plan: WalletPlan) -> None:
        """Pause the wallet until every nonce below its mark is final."""
        wallet, now = plan.wallet, self.clock()
        stored = self.store.wallet(wallet.chain_id, wallet.sender)
        if stored is None or not stored.is_authentic:
            self.store.open_wallet(
                replace(
                    wallet,
                    paused_by=Pause.RESTORED,
                    paused_at=now,
                    high_water=plan.high_water,
                    is_authentic=True,
                )
            )
        else:
            self.store.pause(wallet, Pause.RESTORED, now, plan.high_water)
        self._log.warning(
            "wallet-paused",
            chain_id=wallet.chain_id,
            reason=str(Pause.RESTORED),
            next_nonce=wallet.next_nonce,
            high_water=plan.high_water,
        )

    def _repeat(
        self, change: KeyChange, key_ids: Collection[str], actor: Actor
    ) -> None:
        if change.action is AuditAction.KEY_REVOKE:
            self.revocation.revoke(change.address, actor)
            return
        # The plan has a problem if none of them fits.
        name = next(each for each in key_ids if key_prefix(each) == change.key)
        if change.action is AuditAction.KEY_FAILOVER:
            self.failover.fail_over(name, actor)
            return
        options = RotationOptions(
            compromised=change.compromised,
            active_address=change.previous,
            without_funds=change.compromised,
        )
        self.rotation.rotate(name, actor, options)

    def _restore_refund(self, planned: PlannedRefund) -> None:
        refund = planned.refund
        if planned.record is not None:
            new = Acceptance(refund, planned.record, is_restored=True)
            (accepted,) = self.store.accept_all([new])
            refund, _ = require(accepted)
        if refund.status is not Status.QUEUED:
            return
        if planned.batch is not None:
            return  # It gets its nonce with the others.
        if planned.nonce is not None:
            self._hold(refund, str(planned.sender), planned.nonce)
        elif planned.cancellation is not None:
            self.store.request_cancellation(refund, self.clock(), planned.cancellation)

    def _hold(self, refund: Refund, sender: str, nonce: int) -> None:
        """Give *refund* the nonce that it had."""
        held = refund.assigned(
            Transaction.draft(
                [refund],
                self.clock(),
                sender=sender,
                key_id=self._key_id(sender),
                nonce=nonce,
                gas_limit=self._max_gas(refund),
            )
        )
        try:
            self.store.adopt(refund, held)
        except StaleStateError:
            # Another row has the nonce, for example a filler of an earlier restore.  A
            # payment of the refund is found by its memo.
            self._log.warning("nonce-not-restored", refund_id=refund.id, nonce=nonce)

    def _hold_batch(self, planned: PlannedRefund) -> None:
        """Give all refunds of a batch the nonce that they had."""
        batch, nonce = planned.batch, planned.nonce
        if batch is None or nonce is None:
            return
        sender = str(planned.sender)
        stored = [self.store.get(each) for each in batch.payments]
        payments = [e for e in stored if e is not None and e.status is Status.QUEUED]
        if len(payments) < len(stored):
            return  # A restore that was interrupted gave them the nonce.
        gas_limit = batch_gas(self._max_gas(each) for each in payments)
        draft = Transaction.draft(
            payments,
            self.clock(),
            sender=sender,
            key_id=self._key_id(sender),
            nonce=nonce,
            gas_limit=min(gas_limit, MAX_GAS),
            vault=batch.vault,
        )
        try:
            self.store.adopt_batch(payments, draft)
        except StaleStateError:
            # As for one refund; the chain has how each item ended.
            self._log.warning(
                "nonce-not-restored", transaction=draft.id, refunds=len(payments)
            )

    def _max_gas(self, refund: Refund) -> int:
        network = self.networks[refund.network]
        is_call = refund.purpose is PaymentPurpose.CALL
        if is_call or refund.token in network.tokens:
            return max_gas(refund, network)
        return NOOP_GAS

    def _fill(self, plan: WalletPlan) -> None:
        if not plan.fillers:
            return
        address, now = plan.wallet.sender, self.clock()
        key_id = self._key_id(address)
        for nonce in plan.fillers:
            filler = Transaction(
                plan.wallet.chain_id,
                address,
                nonce,
                plan.network,
                TransactionKind.FILLER,
                compose(()),
                key_id,
                self.networks[plan.network].noop_gas,
                now,
                TransactionStatus.RESERVED,
                now,
                due_at=now,
            )
            with suppress(StaleStateError):  # Another process restores it as well.
                self.store.fill(filler)

    def _key_id(self, address: str) -> str:
        key = find_key(self.store.keys(), address)
        if key is None:
            raise StaleStateError(f"the key of {address} left the ring")
        return key.key_id


def _hold_changes(record: Record) -> int:
    details = record.fields.get("details") or {}
    return int(details.get("hold_changes", 0))


def _require_possible(plan: RestorePlan) -> RestorePlan:
    """Return *plan*; raises ``ConflictError`` if it has problems."""
    if plan.problems:
        raise ConflictError(f"the restore is not possible yet: {plan.problems[0]}")
    return plan
