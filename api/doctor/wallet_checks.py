"""What ``hotwallet doctor`` looks at of the wallets: their nonces, and who works."""

from datetime import timedelta

from api.doctor.checks import Finding
from api.doctor.context import NetworkContext
from signer.errors import NotFoundError, StoreError, WalletPausedError
from signer.model.key import KeyState
from signer.model.refund import UNSENT, Refund, Status
from signer.refunds.wallet_reconciliation import WalletReconciler


_OVERDUE = timedelta(minutes=1)
_WORKERS_DO = UNSENT | {Status.BROADCAST}


class OverdueError(StoreError):
    """A refund waits for a worker, for longer than it should."""

    code = "refund-overdue"


def nonces(visit: NetworkContext) -> Finding:
    """Look at each watched key's: a former one's stops the network as well."""
    patient = visit.patient
    if patient.store.network_paused_at(visit.network.chain_id) is not None:
        raise WalletPausedError("an operator stopped it: hotwallet nonce resume")
    found, paused = [], []
    for address, state in visit.watched.items():
        try:
            found.append(_wallet(visit, address, state))
        except WalletPausedError as e:
            paused.append(str(e))
    if paused:
        raise WalletPausedError("; ".join(paused))
    cures = [each.cure for each in found if each.cure is not None]
    return Finding("; ".join(each.said for each in found), *cures[:1])


def _wallet(visit: NetworkContext, address: str, state: KeyState) -> Finding:
    """Compare one key's wallet with its chain, and change nothing."""
    name = address if state is KeyState.ACTIVE else f"{address} ({state})"
    reconciler = WalletReconciler(visit.patient.store, visit.patient.clock)
    try:
        standing = reconciler.status(visit.chain, address)
    except NotFoundError:
        return _unopened(name, visit.chain.client.pending_count(address))
    # To give a key up pauses its wallet, until all is known that was sent by then.
    # Whoever goes on sending with it stops nobody.
    blocked = state is KeyState.BLOCKED
    is_paused = standing.wallet.paused_by is not None
    if is_paused and (standing.unknown_count or not blocked):
        raise WalletPausedError(f"{name} is paused: {standing.wallet.paused_by}")
    if standing.unknown_count and not blocked:
        raise WalletPausedError(
            f"{name} has sent {standing.unknown_count} that the ledger does not know"
        )
    return Finding(
        f"the next of {name} is {standing.wallet.next_nonce},"
        f" the chain's {standing.chain_nonce}"
    )


def _unopened(name: str, counted: int) -> Finding:
    if counted == 0:
        return Finding(f"{name} never paid anything here")
    return Finding(
        f"{name} has sent {counted}, and the ledger knows of none: it begins paused",
        "docs/operations/restore.md, if it was the service that sent them",
    )


def worker(visit: NetworkContext) -> Finding:
    """Look for a refund with a nonce that a worker should have taken up by now."""
    patient = visit.patient
    open_refunds = [
        refund
        for address, state in visit.watched.items()
        if state is not KeyState.BLOCKED  # What it left open is for a person.
        for refund in patient.store.open_below(
            visit.network.chain_id, address, 2**63 - 1, 100
        )
    ]
    before = patient.clock() - _OVERDUE
    late = [
        refund for refund in open_refunds if _waits(refund) and refund.due_at < before
    ]
    if late:
        raise OverdueError(f"{late[0].id} should have been taken up over a minute ago")
    return Finding(f"{len(open_refunds)} refunds under way, none overdue")


def _waits(refund: Refund) -> bool:
    return refund.status in _WORKERS_DO
