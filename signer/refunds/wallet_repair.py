"""Reports paused wallets, and resumes them when an operator accepts what is foreign."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime

from signer.chain.chain import Chain
from signer.errors import HotWalletError, RowNotAuthenticError, WalletPausedError
from signer.model.approval import ApprovalUse
from signer.model.transaction import Transaction
from signer.model.wallet import UnrecordedTransaction
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
