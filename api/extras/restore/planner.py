"""Finds what a restored ledger has lost: key changes, nonces and refunds."""

from collections import defaultdict
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from api.extras.restore.plan import (
    HighWaters,
    KeyChange,
    LostChanges,
    LostRefund,
    PlannedRefund,
    RestorePlan,
    StopOf,
    WalletId,
    WalletPlan,
    rebuild,
)
from signer.audit.actions import AuditAction
from signer.chain.chain import Chain, final_height
from signer.config.tenants import TenantRegistry
from signer.errors import ConflictError, IdempotencyMismatchError
from signer.model.audit_record import Record
from signer.model.hold import EVERYTHING
from signer.model.key import Key, KeyState, find_key
from signer.model.payment import PaymentPurpose
from signer.model.refund import Refund, Status
from signer.model.wallet import Wallet
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.redact import key_prefix
from signer.refunds.wallet_reconciliation import HISTORY


def find_missing_changes(
    changes: Sequence[KeyChange], ring: Sequence[Key]
) -> Sequence[KeyChange]:
    """Return those of *changes*, in their order, that *ring* does not have yet."""
    keys = {key.address: key for key in ring if key.epoch}
    rotations = [each for each in changes if each.action is AuditAction.KEY_ROTATE]
    replicas = {
        each.address: each.key
        for each in changes
        if each.action is AuditAction.KEY_FAILOVER
    }

    def is_missing(change: KeyChange) -> bool:
        key = keys.get(change.address)
        if change.action is AuditAction.KEY_FAILOVER:
            # Of several failovers of a key, the last one counts.
            return key is None or key_prefix(key.key_id) != replicas[key.address]
        return key is None or key.state is not KeyState.BLOCKED

    left = iter([False] * _count_done(rotations, keys) + [True] * len(rotations))
    return [
        each
        for each in changes
        if (next(left) if each.action is AuditAction.KEY_ROTATE else is_missing(each))
    ]


def _count_done(rotations: Sequence[KeyChange], keys: Mapping[str, Key]) -> int:
    """Return how many of *rotations* the ring has: a restore repeats them in order."""
    done = 0
    for number, rotation in enumerate(rotations, 1):
        key = keys.get(rotation.address)
        if key is None or (rotation.compromised and not _is_blocked(rotation, keys)):
            break
        if key.state is KeyState.ACTIVE:
            done = number
    return done


def _is_blocked(rotation: KeyChange, keys: Mapping[str, Key]) -> bool:
    previous = keys.get(str(rotation.previous))
    return previous is not None and previous.state is KeyState.BLOCKED


def find_ring_problems(
    lost: LostChanges,
    ring: Sequence[Key],
    changes: Sequence[KeyChange],
    key_ids: Collection[str],
) -> Iterator[str]:
    """
    Yield why *changes* cannot be made to *ring* yet, and what to do.

    *key_ids* are of the keys that an operator named.
    """
    if not ring:
        yield (
            "the ledger has no key: configure the wallet's first key, and run"
            " `hotwallet guard`"
        )
    for address in sorted(lost.addresses() - set(addresses_of(ring, changes))):
        yield (
            f"{address} has signed, and the ring does not have it: repeat its rotation"
            " with `hotwallet keys rotate`, then run the command again"
        )
    prefixes = {key_prefix(key_id) for key_id in key_ids}
    for change in changes:
        if change.action is not AuditAction.KEY_REVOKE and change.key not in prefixes:
            yield (
                f"the key of {change.address} is needed to repeat its {change.action}:"
                f" --key KEY_ID, an id that begins with {change.key}"
            )


def addresses_of(ring: Sequence[Key], changes: Sequence[KeyChange]) -> Sequence[str]:
    """Return the addresses of *ring* after *changes*."""
    known = {key.address for key in ring if key.epoch}
    return sorted(known | {change.address for change in changes})


def is_revoked(address: str, ring: Sequence[Key], changes: Sequence[KeyChange]) -> bool:
    """Return whether the key of *address* is revoked after *changes*."""
    key = find_key(ring, address)
    is_blocked = key is not None and key.state is KeyState.BLOCKED
    return is_blocked or address in _revoked(changes)


def _revoked(changes: Sequence[KeyChange]) -> Iterator[str]:
    for change in changes:
        if change.action is AuditAction.KEY_REVOKE:
            yield change.address
        elif change.compromised and change.previous is not None:
            yield change.previous


MOST_FILLERS = 1000
"""How many nonces of one wallet are filled at most: each costs the gas of a no-op."""


class WalletPlanner:
    """
    Plans the wallet of *address* on *network*; ``problems`` are why it cannot be done.

    ``held`` are the nonces that are held for refunds of the plan, and ``revoked`` the
    addresses whose keys sign nothing any more.
    """

    def __init__(
        self, store: Ledger, network: str, chain: Chain, address: str, lost: LostChanges
    ) -> None:
        self._store = store
        self._network = network
        self._chain = chain
        self._address = address
        self.wallet_id = chain.network.chain_id, address
        self._lost = lost
        self.held: Collection[int] = ()
        self.revoked: Container[str] = ()
        self.problems: list[str] = []

    @property
    def is_revoked(self) -> bool:
        """Whether the key signs nothing any more."""
        return self._address in self.revoked

    def plan(self, stated: int | None, *, has_log: bool) -> WalletPlan | None:
        """Return the plan; None if the wallet needs none."""
        client = self._chain.client
        counted = client.pending_count(self._address)
        stored = self._store.wallet(*self.wallet_id)
        is_logged = self._lost.high_water(self.wallet_id) > 0
        if stored is None and not (counted or is_logged or stated):
            return None
        first = max(0, counted - HISTORY)
        wallet = stored or Wallet(*self.wallet_id, first, first)
        if not wallet.is_authentic:
            # Nothing of a changed row counts; it is replaced.
            wallet = Wallet(*self.wallet_id, first, first, is_authentic=False)
        known = self._find_known(wallet, counted, has_log=has_log)
        self._check_stated(stated, known, has_log=has_log)
        mark = max(known, stated or 0)
        mined = client.transaction_count(self._address)
        unknown = self._find_unknown(stored, wallet, mined, mark)
        unmined = [nonce for nonce in unknown if nonce >= mined]
        gaps = len(unknown) - len(unmined)
        if self.is_revoked and not has_log:
            gaps = len(unknown)
        plan = WalletPlan(
            self._network,
            wallet,
            counted=counted,
            mined=mined,
            high_water=mark,
            fillers=self._find_fillers(unmined, mark),
            has_gaps=gaps > 0,
            is_revoked=self.is_revoked,
            is_stated=stated is not None,
        )
        if plan.is_done:
            return None
        if (final := self._final_count()) < mined:
            self._object(
                f"{mined - final} of its transactions are not final yet: run the"
                " command again when they are"
            )
        return plan

    def _find_known(self, wallet: Wallet, counted: int, *, has_log: bool) -> int:
        """Return the highest mark that ledger, chain or log shows."""
        logged = self._lost.high_water(self.wallet_id)
        earlier = wallet.high_water or 0
        if self.is_revoked and has_log:
            # Nothing fills its gaps any more, so a mark must not be too high.
            logged, earlier = (
                self._lost.kept_high_water(self.wallet_id, self.revoked),
                0,
            )
        return max(wallet.next_nonce, counted, logged, earlier)

    def _check_stated(self, stated: int | None, known: int, *, has_log: bool) -> None:
        if stated is None and not has_log:
            self._object(
                f"state how many transactions it has signed, {known} or more:"
                f" --high-water {self._network}:{self._address}=NONCE"
            )
        if stated is not None and stated < known:
            self._object(f"its high-water mark must be {known} or more")

    def _find_unknown(
        self, stored: Wallet | None, wallet: Wallet, mined: int, mark: int
    ) -> Sequence[int]:
        """Return nonces without a row: all mined ones, and one too many others."""
        first = wallet.first_nonce
        limit = max(mined - first, 0) + len(self.held) + MOST_FILLERS + 1
        unknown: Sequence[int] = range(first, mark)[:limit]
        if stored is not None:
            unknown = self._store.unknown_nonces(*self.wallet_id, mark, limit)
        return [nonce for nonce in unknown if nonce not in self.held]

    def _find_fillers(self, unmined: Sequence[int], mark: int) -> Sequence[int]:
        if self.is_revoked:
            return ()  # Its key signs nothing any more.
        if len(unmined) > MOST_FILLERS:
            self._object(
                f"its high-water mark {mark} needs more than {MOST_FILLERS} no-ops,"
                " which are not signed: check the mark"
            )
            return ()
        return unmined

    def _final_count(self) -> int:
        """Return how many transactions have the confirmations that they need."""
        network, client = self._chain.network, self._chain.client
        block = final_height(network, client, client.latest_block())
        return client.transaction_count(self._address, max(block, 0))

    def _object(self, problem: str) -> None:
        self.problems.append(f"{self._network} {self._address}: {problem}")


@dataclass(eq=False, repr=False)
class RestorePlanner:
    """Compares a restored ledger with the log and with the chains."""

    store: Ledger
    chains: Mapping[str, Chain]
    tenants: TenantRegistry
    clock: Clock

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
        missing = self.store.missing_records(records)
        lost = LostChanges(missing)
        ring = self.store.keys()
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
        for name, chain in self.chains.items():
            for address in addresses_of(ring, changes):
                each = WalletPlanner(self.store, name, chain, address, lost)
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

    def _find_stops(self, lost: LostChanges) -> Mapping[StopOf, str]:
        """Return the stops to repeat: of everything, and of networks that exist."""
        in_force = {
            (stop.chain_id, stop.token or None)
            for stop in self.store.stops()
            if stop.in_force
        }
        chain_ids: dict[str | None, int] = {
            name: chain.network.chain_id for name, chain in self.chains.items()
        }
        chain_ids[None] = EVERYTHING
        return {
            (network, token): reason
            for (network, token), reason in lost.stops.items()
            if network in chain_ids and (chain_ids[network], token) not in in_force
        }

    def _blocked(self) -> AbstractSet[str]:
        return {block.tenant for block in self.store.blocks()}

    def _plan_refunds(
        self, lost: LostChanges, revoked: Container[str]
    ) -> tuple[Sequence[PlannedRefund], Sequence[str]]:
        """Return the refunds to change, and the ids of those that are incomplete."""
        planned, incomplete = [], []
        for refund_id, known in lost.refunds.items():
            stored, record = self.store.get(refund_id), None
            try:
                if stored is None:
                    stored, record = self._rebuild(known)
            except IdempotencyMismatchError:
                pass
            except ConflictError:
                continue  # The gateway has requested it again, with another key.
            if stored is None:
                incomplete.append(refund_id)
            elif stored.status is Status.QUEUED and (
                change := _plan_refund(stored, record, known, revoked)
            ):
                planned.append(change)
        return [*_find_batches(planned, lost)], incomplete

    def _rebuild(self, known: LostRefund) -> tuple[Refund | None, Record | None]:
        """
        Return the refund and the record of its acceptance.

        The record is None if the gateway has requested the refund again, and the refund
        is None if it cannot be processed without its request.

        Raises:
            ConflictError: As ``RefundStore.find_earlier``.
        """
        record = known.accepted
        refund = None if record is None else rebuild(record, self.clock())
        # A worker needs the signed request of such a tenant, which the log has not.
        if refund is None or self.tenants.request_keys(refund.tenant):
            return None, None
        if refund.network not in self.chains:
            return None, None
        earlier = self.store.find_earlier(refund, [refund.tenant])
        return (refund, record) if earlier is None else (earlier, None)


def _plan_refund(
    refund: Refund, record: Record | None, lost: LostRefund, revoked: Container[str]
) -> PlannedRefund | None:
    planned = PlannedRefund(refund, record)
    wallet = lost.find_wallet(revoked)
    if lost.ended is not None:
        if lost.refused is not None and refund.purpose is PaymentPurpose.SWEEP:
            return None  # It moved nothing, and an administrator may sweep again.
        if refund.cancel_requested_at is None:
            return replace(planned, cancellation=lost.ended)
    elif wallet is not None:
        _, sender = wallet
        return replace(planned, sender=sender, nonce=lost.nonces[wallet])
    return None if record is None else planned


def _find_batches(
    planned: Sequence[PlannedRefund], lost: LostChanges
) -> Iterator[PlannedRefund]:
    """
    Yield *planned*, those of a batch with that.

    A batch has its payments for life.  Without one of them, its nonce is held for none:
    the chain shows which were paid, or a filler takes the nonce.
    """
    held: dict[tuple[WalletId, int], set[str]] = defaultdict(set)
    for each in planned:
        if each.nonce is not None:
            held[(each.refund.chain_id, str(each.sender)), each.nonce].add(
                each.refund.id
            )
    for each in planned:
        wallet = each.refund.chain_id, str(each.sender)
        batch = None
        if each.nonce is not None:
            batch = lost.batches.get((wallet, each.nonce))
        if batch is None or each.refund.id not in batch.payments:
            yield each
        elif held[wallet, each.nonce or 0] >= {*batch.payments}:
            yield replace(each, batch=batch)
        elif each.record is not None:
            yield replace(each, sender=None, nonce=None)


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
