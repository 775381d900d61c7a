"""The doctor's checks of the wallets' nonces and of the worker."""

from datetime import timedelta

from api.doctor.context import NetworkContext
from signer.checks import Finding
from signer.errors import NotFoundError, StoreError, WalletPausedError
from signer.model.key import KeyState
from signer.model.refund import UNSENT, Status
from signer.refunds.wallet_reconciliation import WalletReconciler


_OVERDUE = timedelta(minutes=1)
_WORKER_STATES = UNSENT | {Status.BROADCAST}
_ALL_NONCES = 2**63 - 1
_MOST_REFUNDS = 100


class OverdueError(StoreError):
    """A refund has waited for a worker longer than it should."""

    code = "refund-overdue"


def check_nonces(context: NetworkContext) -> Finding:
    """Check every watched wallet: a former key's wallet pauses the network as well."""
    store = context.doctor.container.store
    if store.network_paused_at(context.network.chain_id) is not None:
        raise WalletPausedError(
            "an operator paused it; `hotwallet nonce resume` resumes it"
        )
    findings, paused = [], []
    for address, state in context.watched.items():
        try:
            findings.append(_check_wallet(context, address, state))
        except WalletPausedError as e:
            paused.append(str(e))
    if paused:
        raise WalletPausedError("; ".join(paused))
    cures = [each.cure for each in findings if each.cure is not None]
    return Finding("; ".join(each.detail for each in findings), *cures[:1])


def _check_wallet(context: NetworkContext, address: str, state: KeyState) -> Finding:
    """Compare one wallet with its chain, and change nothing."""
    name = address if state is KeyState.ACTIVE else f"{address} ({state})"
    container = context.doctor.container
    reconciler = WalletReconciler(container.store, container.clock)
    try:
        status = reconciler.status(context.chain, address)
    except NotFoundError:
        return _check_new_wallet(name, context.chain.client.pending_count(address))
    # Revoking a key pauses its wallet until every earlier transaction is known.  What
    # an attacker sends with the key afterwards does not pause the network.
    blocked = state is KeyState.BLOCKED
    if status.wallet.paused_by is not None and (status.unknown_count or not blocked):
        raise WalletPausedError(f"{name} is paused: {status.wallet.paused_by}")
    if status.unknown_count and not blocked:
        raise WalletPausedError(
            f"{name} has sent {status.unknown_count} transactions that the ledger lacks"
        )
    return Finding(
        f"the next nonce of {name} is {status.wallet.next_nonce},"
        f" the chain's {status.chain_nonce}"
    )


def _check_new_wallet(name: str, count: int) -> Finding:
    if count == 0:
        return Finding(f"{name} has sent no transaction here")
    return Finding(
        f"{name} has sent {count} transactions, and the ledger has none of them: its"
        " wallet starts paused",
        "if the service sent them, restore the database that has them",
    )


def check_worker(context: NetworkContext) -> Finding:
    """Check that no refund is overdue for the worker's next step."""
    container = context.doctor.container
    open_refunds = [
        refund
        for address, state in context.watched.items()
        if state is not KeyState.BLOCKED  # Its open refunds are left to an operator.
        for refund in container.store.open_below(
            context.network.chain_id, address, _ALL_NONCES, _MOST_REFUNDS
        )
    ]
    latest = container.clock() - _OVERDUE
    overdue = [
        refund
        for refund in open_refunds
        if refund.status in _WORKER_STATES and refund.due_at < latest
    ]
    if overdue:
        raise OverdueError(f"{overdue[0].id} has been due for over a minute")
    return Finding(f"{len(open_refunds)} open refunds, none overdue")
