"""What ``hotwallet doctor`` looks at on each network, up to a mined transaction."""

from collections.abc import Iterator
from functools import partial

from api.doctor.checks import Check, Finding
from api.doctor.context import DoctorContext, NetworkContext
from api.doctor.wallet_checks import nonces, worker
from signer.amounts import format_units
from signer.chain.erc20 import balance_calldata
from signer.errors import ChainUnavailableError, InsufficientFundsError
from signer.ports import Call
from signer.startup.guard import check_chain


_WEI_DECIMALS = 18
_EMPTY = "docs/operations/wallet-empty.md"


def network_steps(patient: DoctorContext) -> Iterator[Check]:
    """Yield the steps of every network; ask for them once "networks" was climbed."""
    for name in patient.networks:
        yield from _steps_of(NetworkContext(patient, name))


def _steps_of(visit: NetworkContext) -> Iterator[Check]:
    nodes, chain = f"{visit.name} nodes", f"{visit.name} chain"
    # Whose money it is, the ring knows; while it has no key, the device does.
    device = () if visit.patient.active is not None else ("device",)
    key = device and ("database", *device)
    yield Check(nodes, partial(_nodes, visit), "docs/operations/rpc-down.md")
    yield Check(
        chain, partial(_chain, visit), "correct the TOML file; docs/guard.md", (nodes,)
    )
    yield Check(f"{visit.name} gas", partial(_gas, visit), _EMPTY, (chain, *key))
    for symbol in visit.network.tokens:
        yield Check(
            f"{visit.name} {symbol}",
            partial(_token, visit, symbol),
            _EMPTY,
            (chain, *key),
        )
    yield Check(
        f"{visit.name} nonces",
        partial(nonces, visit),
        "hotwallet nonce repair; docs/operations/stuck-queue.md",
        (chain, "database", *device),
    )
    yield Check(
        f"{visit.name} worker",
        partial(worker, visit),
        "start `hotwallet worker`; docs/operations/stuck-queue.md",
        ("database", *device),
    )
    yield Check(
        f"{visit.name} mined",
        partial(_mined, visit),
        "docs/operations/rpc-down.md",
        (chain, *key),
    )


def _nodes(visit: NetworkContext) -> Finding:
    if not visit.patient.chains:
        visit.patient.chains = visit.patient.openers.chains(visit.patient.networks)
    views = visit.chain.client.node_statuses(visit.address, ())
    told = ", ".join(
        f"{view.node} {view.error or f'at block {view.head}'}" for view in views
    )
    silent = [view for view in views if view.error is not None]
    if len(silent) == len(views):
        raise ChainUnavailableError(told)
    if silent:
        return Finding(told, "docs/operations/rpc-down.md")
    return Finding(told)


def _chain(visit: NetworkContext) -> Finding:
    check_chain(visit.name, visit.network, visit.chain.client)
    symbols = ", ".join(visit.network.tokens) or "no tokens"
    return Finding(f"chain {visit.network.chain_id}; {symbols} as configured")


def _gas(visit: NetworkContext) -> Finding:
    balance = visit.chain.client.balance(visit.address)
    if balance == 0:
        raise InsufficientFundsError(f"{visit.address} has nothing to pay for gas")
    return Finding(f"{format_units(balance, _WEI_DECIMALS)} on {visit.address}")


def _token(visit: NetworkContext, symbol: str) -> Finding:
    token = visit.network.tokens[symbol]
    calldata = balance_calldata(visit.address)
    answer = visit.chain.client.call(Call(None, token.address, calldata))
    balance = int.from_bytes(answer, "big")
    if balance == 0:
        return Finding(f"{visit.address} holds no {symbol}", _EMPTY)
    return Finding(f"{format_units(balance, token.decimals)} on {visit.address}")


def _mined(visit: NetworkContext) -> Finding:
    client = visit.chain.client
    count = client.transaction_count(visit.address)
    if count == 0:
        return Finding(
            f"nothing of {visit.address} has been mined yet",
            "try a refund; README.md has one for a laptop",
        )
    found = client.find_transaction(visit.address, count - 1)
    if found is None:
        return Finding(f"nonce {count - 1} was mined, longer ago than the nodes know")
    return Finding(f"{found.tx_hash} in block {found.block.number}")
