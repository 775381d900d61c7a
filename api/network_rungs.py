"""What ``hotwallet doctor`` looks at on each network, up to a mined transaction."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from api.ladder import Finding, Step
from api.rungs import Patient
from signer.errors import (
    ChainUnavailableError,
    InsufficientFundsError,
    NotFoundError,
    StoreError,
    WalletPausedError,
)
from signer.guard import check_chain
from signer.networks import Network
from signer.ports import Call
from signer.refunds.erc20 import balance_calldata
from signer.refunds.refund import UNSENT, Refund, Status
from signer.refunds.units import format_units
from signer.refunds.watching import Chain, WalletWatch


_NOBODY = "0x0000000000000000000000000000000000000001"
_WEI_DECIMALS = 18
_OVERDUE = timedelta(minutes=1)
_WORKERS_DO = UNSENT | {Status.BROADCAST}
_EMPTY = "docs/operations/wallet-empty.md"


class OverdueError(StoreError):
    """A refund waits for a worker, for longer than it should."""

    code = "refund-overdue"


@dataclass(frozen=True, slots=True)
class Visit:
    """One network, as the doctor comes to it."""

    patient: Patient
    name: str

    @property
    def chain(self) -> Chain:
        """The way to it."""
        return self.patient.chains[self.name]

    @property
    def network(self) -> Network:
        """What the file says of it."""
        return self.patient.networks[self.name]

    @property
    def address(self) -> str:
        """Whose funds are looked at."""
        return self.patient.address or _NOBODY


def network_steps(patient: Patient) -> Iterator[Step]:
    """Yield the steps of every network; ask for them once "networks" was climbed."""
    for name in patient.networks:
        yield from _steps_of(Visit(patient, name))


def _steps_of(visit: Visit) -> Iterator[Step]:
    nodes, chain = f"{visit.name} nodes", f"{visit.name} chain"
    key = ("device",)  # Without it, nobody knows whose money it is.
    yield Step(nodes, partial(_nodes, visit), "docs/operations/rpc-down.md")
    yield Step(
        chain, partial(_chain, visit), "correct the TOML file; docs/guard.md", (nodes,)
    )
    yield Step(f"{visit.name} gas", partial(_gas, visit), _EMPTY, (chain, *key))
    for symbol in visit.network.tokens:
        yield Step(
            f"{visit.name} {symbol}",
            partial(_token, visit, symbol),
            _EMPTY,
            (chain, *key),
        )
    yield Step(
        f"{visit.name} nonces",
        partial(_nonces, visit),
        "hotwallet nonce repair; docs/operations/stuck-queue.md",
        (chain, "database", *key),
    )
    yield Step(
        f"{visit.name} worker",
        partial(_worker, visit),
        "start `hotwallet worker`; docs/operations/stuck-queue.md",
        ("database", *key),
    )
    yield Step(
        f"{visit.name} mined",
        partial(_mined, visit),
        "docs/operations/rpc-down.md",
        (chain, *key),
    )


def _nodes(visit: Visit) -> Finding:
    if not visit.patient.chains:
        visit.patient.chains = visit.patient.openers.chains(visit.patient.networks)
    views = visit.chain.client.views(visit.address, ())
    told = ", ".join(
        f"{view.node} {view.error or f'at block {view.head}'}" for view in views
    )
    silent = [view for view in views if view.error is not None]
    if len(silent) == len(views):
        raise ChainUnavailableError(told)
    if silent:
        return Finding(told, "docs/operations/rpc-down.md")
    return Finding(told)


def _chain(visit: Visit) -> Finding:
    check_chain(visit.name, visit.network, visit.chain.client)
    symbols = ", ".join(visit.network.tokens) or "no tokens"
    return Finding(f"chain {visit.network.chain_id}; {symbols} as configured")


def _gas(visit: Visit) -> Finding:
    balance = visit.chain.client.balance(visit.address)
    if balance == 0:
        raise InsufficientFundsError(f"{visit.address} has nothing to pay for gas")
    return Finding(f"{format_units(balance, _WEI_DECIMALS)} on {visit.address}")


def _token(visit: Visit, symbol: str) -> Finding:
    token = visit.network.tokens[symbol]
    calldata = balance_calldata(visit.address)
    answer = visit.chain.client.call(Call(None, token.address, calldata))
    balance = int.from_bytes(answer, "big")
    if balance == 0:
        return Finding(f"{visit.address} holds no {symbol}", _EMPTY)
    return Finding(f"{format_units(balance, token.decimals)} on {visit.address}")


def _nonces(visit: Visit) -> Finding:
    patient = visit.patient
    if patient.store.stopped(visit.network.chain_id) is not None:
        raise WalletPausedError("an operator stopped it: hotwallet nonce resume")
    try:
        standing = WalletWatch(patient.store, patient.clock).standing(
            visit.chain, visit.address
        )
    except NotFoundError:
        return Finding(f"{visit.address} never paid anything here")
    if standing.wallet.paused_by is not None:
        raise WalletPausedError(f"the wallet is paused: {standing.wallet.paused_by}")
    if standing.unseen:
        raise WalletPausedError(f"the ledger does not know {standing.unseen} of them")
    return Finding(
        f"the next is {standing.wallet.next_nonce}, the chain's {standing.counted}"
    )


def _worker(visit: Visit) -> Finding:
    """Look for a refund with a nonce that a worker should have taken up by now."""
    patient = visit.patient
    open_refunds = patient.store.open_below(
        visit.network.chain_id, visit.address, 2**63 - 1, 100
    )
    before = patient.clock() - _OVERDUE
    late = [
        refund for refund in open_refunds if _waits(refund) and refund.due_at < before
    ]
    if late:
        raise OverdueError(f"{late[0].id} should have been taken up over a minute ago")
    return Finding(f"{len(open_refunds)} refunds under way, none overdue")


def _waits(refund: Refund) -> bool:
    return refund.status in _WORKERS_DO


def _mined(visit: Visit) -> Finding:
    client = visit.chain.client
    count = client.transaction_count(visit.address)
    if count == 0:
        return Finding(
            f"nothing of {visit.address} has been mined yet",
            "try a refund; on a laptop: make demo",
        )
    found = client.find_transaction(visit.address, count - 1)
    if found is None:
        return Finding(f"nonce {count - 1} was mined, longer ago than the nodes know")
    return Finding(f"{found.tx_hash} in block {found.block.number}")
