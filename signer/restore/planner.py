"""Finds what a restored ledger needs, without changing it."""

from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from hashlib import sha256
from typing import Any

from signer.chain.chain import Chain
from signer.config.tenants import TenantRegistry
from signer.errors import ConflictError, IdempotencyMismatchError
from signer.model.audit_record import Record
from signer.model.refund import Refund, Status
from signer.model.stop import EVERYTHING
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.restore.key_changes import (
    addresses_of,
    find_missing_changes,
    find_ring_problems,
    is_revoked,
)
from signer.restore.lost_changes import LostChanges, LostRefund, WalletId, rebuild
from signer.restore.plan import HighWaters, PlannedRefund, RestorePlan
from signer.restore.wallet_planner import WalletPlanner


class RestorePlanner:
    """Compares a restored ledger with the log and with the chains."""

    def __init__(
        self,
        store: Ledger,
        chains: Mapping[str, Chain],
        tenants: TenantRegistry,
        clock: Clock,
    ) -> None:
        self._store = store
        self._chains = chains
        self._tenants = tenants
        self._clock = clock

    def plan(
        self,
        records: Sequence[Record],
        stated: HighWaters,
        key_ids: Collection[str],
        *,
        has_log: bool,
    ) -> RestorePlan:
        """
        Return what the ledger needs.

        *records* are those of the log, sorted by their ids.  Without a log, *stated*
        must have the mark of every wallet that is in use.  *key_ids* are of the keys
        that the log may have rotations to.

        Raises:
            ChainError: A node does not answer.
            StoreError: The ledger does not answer.
        """
        missing = self._store.missing_records(records)
        lost = LostChanges(missing)
        ring = self._store.keys()
        changes = find_missing_changes(lost.key_changes, ring)
        problems = [*find_ring_problems(lost, ring, changes, key_ids)]
        problems += _find_unknown_wallets(stated, addresses_of(ring, changes))
        revoked = {
            address
            for address in addresses_of(ring, changes)
            if is_revoked(address, ring, changes)
        }
        refunds, incomplete = self._plan_refunds(lost, revoked)
        wallets = []
        for name, chain in self._chains.items():
            for address in addresses_of(ring, changes):
                each = WalletPlanner(self._store, name, chain, address, lost)
                each.held = _held(refunds, each.wallet_id)
                each.revoked = revoked
                plan = each.plan(stated.get((name, address)), has_log=has_log)
                problems += each.problems
                if plan is not None:
                    wallets.append(plan)
        return RestorePlan(
            changes,
            self._find_stops(lost),
            sorted(lost.blocked_tenants - self._blocked()),
            wallets,
            refunds,
            incomplete,
            problems,
            lost.administrative,
            _describe_basis(records, missing, stated),
        )

    def _find_stops(self, lost: LostChanges) -> Mapping[str | None, str]:
        """Return the stops to repeat: of everything, and of networks that exist."""
        in_force = {stop.chain_id for stop in self._store.stops() if stop.in_force}
        chain_ids: dict[str | None, int] = {
            name: chain.network.chain_id for name, chain in self._chains.items()
        }
        chain_ids[None] = EVERYTHING
        return {
            network: reason
            for network, reason in lost.stops.items()
            if network in chain_ids and chain_ids[network] not in in_force
        }

    def _blocked(self) -> AbstractSet[str]:
        return {block.tenant for block in self._store.tenant_blocks()}

    def _plan_refunds(
        self, lost: LostChanges, revoked: Container[str]
    ) -> tuple[Sequence[PlannedRefund], Sequence[str]]:
        """Return the refunds to change, and the ids of those that are incomplete."""
        planned, incomplete = [], []
        for refund_id, known in lost.refunds.items():
            stored, record = self._store.get(refund_id), None
            try:
                if stored is None:
                    stored, record = self._rebuild(known)
            except IdempotencyMismatchError:
                pass
            except ConflictError:
                continue  # The gateway has requested it again, with another key.
            if stored is None:
                if not known.is_filler:
                    incomplete.append(refund_id)
            elif stored.status is Status.QUEUED and (
                change := _plan_refund(stored, record, known, revoked)
            ):
                planned.append(change)
        return planned, incomplete

    def _rebuild(self, known: LostRefund) -> tuple[Refund | None, Record | None]:
        """
        Return the refund and the record of its acceptance.

        The record is None if the gateway has requested the refund again, and the refund
        is None if it cannot be processed without its request.

        Raises:
            ConflictError: As ``RefundStore.find_earlier``.
        """
        record = known.accepted
        refund = None if record is None else rebuild(record, self._clock())
        # A worker needs the signed request of such a tenant, which the log has not.
        if refund is None or self._tenants.request_keys(refund.tenant):
            return None, None
        if refund.network not in self._chains:
            return None, None
        earlier = self._store.find_earlier(refund, [refund.tenant])
        return (refund, record) if earlier is None else (earlier, None)


def _plan_refund(
    refund: Refund, record: Record | None, lost: LostRefund, revoked: Container[str]
) -> PlannedRefund | None:
    planned = PlannedRefund(refund, record)
    wallet = lost.find_wallet(revoked)
    if lost.ended is not None:
        if lost.refused is not None and refund.swept_from is not None:
            return None  # It moved nothing, and an administrator may sweep again.
        if refund.cancel_requested_at is None:
            return replace(planned, cancellation=lost.ended)
    elif wallet is not None:
        _, sender = wallet
        return replace(planned, sender=sender, nonce=lost.nonces[wallet])
    return None if record is None else planned


def _held(refunds: Sequence[PlannedRefund], wallet: WalletId) -> Collection[int]:
    return {
        each.nonce
        for each in refunds
        if each.nonce is not None and (each.refund.chain_id, each.sender) == wallet
    }


def _find_unknown_wallets(
    stated: HighWaters, addresses: Collection[str]
) -> Iterator[str]:
    for network, address in stated:
        if address not in addresses:
            yield (
                f"{network} {address}: the ring has no such key, so its high-water mark"
                " changes nothing: see `hotwallet keys list`"
            )


def _describe_basis(
    records: Sequence[Record], missing: Sequence[Record], stated: HighWaters
) -> dict[str, Any]:
    # Later records are those of the restore itself, which a log may have too.
    last = missing[-1].id if missing else ""
    known = [record.id for record in records if record.id <= last]
    digest = sha256("".join(known).encode())
    return {
        "records": len(known),
        "records_sha256": digest.hexdigest(),
        "high_water": {
            f"{network}:{address}": mark
            for (network, address), mark in sorted(stated.items())
        },
    }
