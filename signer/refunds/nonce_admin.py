"""
Operator commands on nonces: repair and abandon wallets.

Each command is audited like a signature: the intent is durable before anything changes,
and the outcome is recorded afterwards, both with the operator's name.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from signer.addresses import parse_address, redact_address
from signer.audit.actions import AuditAction
from signer.chain.chain import Chain
from signer.errors import (
    ConflictError,
    HotWalletError,
    NotFoundError,
    RowNotAuthenticError,
    WalletPausedError,
)
from signer.keys.admin_audit import AdminAudit, Facts
from signer.model.approval import ApprovalUse
from signer.model.audit_record import Actor
from signer.model.key import is_blocked
from signer.model.transaction import Transaction
from signer.model.wallet import UnrecordedTransaction, Wallet
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.refunds.wallet_reconciliation import WalletReconciler, WalletStatus


@dataclass(frozen=True, slots=True)
class RepairResult:
    """
    The status of a wallet, and what the repair did.

    ``problem`` says why the wallet could not be resumed, and ``code`` is its error
    code.  ``accepted`` are the foreign transactions that were accepted.  ``stopped_at``
    is when signing was stopped, which a repair does not end.  ``fillers`` are those
    that are not final, of the wallet's first open transactions.
    """

    network: str
    wallet_status: WalletStatus
    resumed: bool = False
    problem: str | None = None
    code: str | None = None
    accepted: tuple[UnrecordedTransaction, ...] = ()
    stopped_at: datetime | None = None
    fillers: tuple[Transaction, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether something is left to repair."""
        return not self.wallet_status.is_reconciled


Authorize = Callable[[str, WalletStatus], AbstractContextManager[ApprovalUse | None]]
"""Wraps the acceptance of the foreign transactions of a wallet on a network."""


def _need_nothing(
    network: str, status: WalletStatus
) -> AbstractContextManager[ApprovalUse | None]:
    return nullcontext()


def repair_wallets(
    store: Ledger,
    chains: Mapping[str, Chain],
    clock: Clock,
    *,
    apply: bool,
    authorize: Authorize = _need_nothing,
) -> Iterator[RepairResult]:
    """
    Yield the status of each wallet on *chains*; with *apply*, resume if possible.

    Without it, ``problem`` says why that is not possible now.

    *authorize* may refuse to accept foreign transactions.
    """
    reconciler = WalletReconciler(store, clock)
    by_id = {chain.network.chain_id: name for name, chain in chains.items()}
    for wallet in store.wallets():
        if name := by_id.get(wallet.chain_id):
            chain, address = chains[name], wallet.sender
            result = (
                _repair(name, reconciler, chain, address, authorize)
                if apply
                else _preview(name, reconciler, chain, address)
            )
            stop = store.find_stop(wallet.chain_id)
            yield replace(
                result,
                stopped_at=stop.at if stop else None,
                fillers=reconciler.open_fillers(result.wallet_status.wallet),
            )


def _preview(
    name: str, reconciler: WalletReconciler, chain: Chain, address: str
) -> RepairResult:
    status = reconciler.status(chain, address)
    try:
        if status.wallet.is_paused:
            reconciler.require_resumable(status, chain)
    except (WalletPausedError, RowNotAuthenticError) as e:
        return RepairResult(name, status, problem=str(e), code=e.code)
    return RepairResult(name, status)


def _repair(
    name: str,
    reconciler: WalletReconciler,
    chain: Chain,
    address: str,
    authorize: Authorize,
) -> RepairResult:
    status = reconciler.status(chain, address)
    if status.is_reconciled:
        return RepairResult(name, status)
    before = None
    try:
        while status.unknown_count and status.unknown_count != before:
            # Each pass records a few transactions, until no further one is final.
            before = status.unknown_count
            status = reconciler.reconcile(chain, address)
        if status.wallet.is_paused and status.foreign:
            reconciler.require_resumable(status, chain)
            with authorize(name, status) as use:
                reconciler.resume(status, chain, use)
        elif status.wallet.is_paused:
            reconciler.resume(status, chain)
    except HotWalletError as e:
        return RepairResult(name, status, problem=str(e), code=e.code)
    accepted = status.foreign
    status = reconciler.status(chain, address)
    return RepairResult(name, status, resumed=True, accepted=accepted)


@dataclass(eq=False, repr=False)
class NonceAdmin:
    """
    Runs operator commands on the wallets of *chains*.

    Every method raises ``NotFoundError`` if the networks file has no such network, and
    another ``HotWalletError`` if the ledger or a chain does not answer.
    """

    store: Ledger
    chains: Mapping[str, Chain]
    admin_audit: AdminAudit
    clock: Clock

    def repair(self, network: str | None, actor: Actor) -> Sequence[RepairResult]:
        """Resume paused wallets if possible, and accept their foreign transactions."""
        action = AuditAction.NONCE_REPAIR
        done: list[RepairResult] = []
        for name in self._names(network):
            with self.admin_audit.attempt(action, actor, network=name):
                chains = {name: self._chain(name)}
                repairs = repair_wallets(
                    self.store,
                    chains,
                    self.clock,
                    apply=True,
                    authorize=partial(self._authorize, actor),
                )
                results = []
                for each in repairs:
                    self._audit_accepted(name, each.accepted, actor)
                    results.append(each)
                facts = _summarize(results)
                self.admin_audit.write(action, actor, network=name, **facts)
            done += results
        return done

    def abandon(
        self, address: str, network: str | None, actor: Actor
    ) -> Mapping[str, bool]:
        """
        Resume the wallet of a revoked key without waiting for pending transactions.

        The ledger must still know everything that is in a block.  The operator vouches
        that no pending transaction is a payment that the ledger has lost.  Return by
        network whether the wallet was paused.

        Raises:
            InvalidInputError: *address* is malformed.
            ConflictError: No key of the ring with this address is revoked.
            WalletPausedError: A block has a transaction that no worker recorded yet.
        """
        action = AuditAction.NONCE_ABANDON
        changed = {}
        for name in self._names(network):
            facts: Facts = {"network": name, "address": redact_address(address)}
            with self.admin_audit.attempt(action, actor, **facts):
                chain, revoked = self._chain(name), self._parse_revoked(address)
                accepted = self._resume_revoked(name, chain, revoked, actor)
                self._audit_accepted(name, accepted or (), actor)
                facts["changed"] = changed[name] = accepted is not None
                self.admin_audit.write(action, actor, **facts)
        return changed

    def waiting(self, address: str, network: str | None) -> Mapping[str, bool]:
        """Return by network whether ``abandon`` would end a wait; change nothing."""
        revoked = self._parse_revoked(address)
        chains = {name: self._chain(name) for name in self._names(network)}
        return {
            name: self._paused_wallet(chain, revoked) is not None
            for name, chain in chains.items()
        }

    def _parse_revoked(self, address: str) -> str:
        parsed = parse_address(address, field="address")
        if not is_blocked(self.store.keys(), parsed):
            raise ConflictError(
                "no key with this address is revoked: see `hotwallet keys list`"
            )
        return parsed

    def _resume_revoked(
        self, network: str, chain: Chain, address: str, actor: Actor
    ) -> Sequence[UnrecordedTransaction] | None:
        """Return the accepted transactions; None if the wallet is not paused."""
        wallet = self._paused_wallet(chain, address)
        if wallet is None:
            return None
        mined = chain.client.transaction_count(address)
        foreign = self.store.foreign_transactions(wallet.chain_id, address)
        reconciler = WalletReconciler(self.store, self.clock)
        if not reconciler.is_known(chain, wallet, mined):
            raise WalletPausedError(
                "a block has a transaction that the ledger does not know: try again"
                " when it is final and a worker has recorded it"
            )
        facts = _paused_facts(network, wallet, foreign)
        action = AuditAction.NONCE_ABANDON
        with self.admin_audit.authorize(action, actor, **facts) as use:
            reconciler.accept_and_resume(wallet, foreign, use)
        return foreign

    def _authorize(
        self, actor: Actor, network: str, status: WalletStatus
    ) -> AbstractContextManager[ApprovalUse | None]:
        """Require an approval of the foreign transactions in *status*."""
        facts = _paused_facts(network, status.wallet, status.foreign)
        action = AuditAction.FOREIGN_TRANSACTION_ACCEPT
        return self.admin_audit.authorize(action, actor, **facts)

    def _paused_wallet(self, chain: Chain, address: str) -> Wallet | None:
        wallet = self.store.wallet(chain.network.chain_id, address)
        if wallet is not None and not wallet.is_authentic:
            raise wallet.error()
        return wallet if wallet is not None and wallet.is_paused else None

    def _audit_accepted(
        self, network: str, accepted: Sequence[UnrecordedTransaction], actor: Actor
    ) -> None:
        for transaction in accepted:
            self.admin_audit.write(
                AuditAction.FOREIGN_TRANSACTION_ACCEPT,
                actor,
                network=network,
                address=transaction.sender,
                nonce=transaction.nonce,
                tx_hash=transaction.tx_hash,
            )

    def _names(self, network: str | None) -> Sequence[str]:
        return list(self.chains) if network is None else [network]

    def _chain(self, name: str) -> Chain:
        if name not in self.chains:
            raise NotFoundError("the networks file has no such network")
        return self.chains[name]


def _paused_facts(
    network: str, wallet: Wallet, foreign: Sequence[UnrecordedTransaction]
) -> Facts:
    """Return which pause ends, and which transactions are accepted with it."""
    return {
        "network": network,
        "chain_id": str(wallet.chain_id),
        "address": wallet.sender,
        "wallet_version": wallet.version,
        "accepted": [
            {"nonce": each.nonce, "tx_hash": each.tx_hash} for each in foreign
        ],
    }


def _summarize(results: Sequence[RepairResult]) -> Facts:
    """Return how many wallets resumed, how many did not, and the first error code."""
    resumed = [each for each in results if each.resumed]
    codes = [each.code for each in results if each.code is not None]
    facts: Facts = {"resumed": len(resumed), "still_paused": len(codes)}
    return facts | ({"outcome": codes[0]} if codes else {})
