"""The doctor's checks of each network, up to a mined transaction."""

from collections.abc import Iterator
from functools import partial

from api.doctor.context import EXPLAIN, DoctorContext, NetworkContext
from api.doctor.wallet_checks import check_nonces, check_worker
from signer.amounts import format_units
from signer.chain.chain import COIN_DECIMALS
from signer.checks import Check, Finding
from signer.errors import ChainUnavailableError, InsufficientFundsError
from signer.startup.guard import check_chain


_NETWORKS_FILE = f"correct the networks file; {EXPLAIN}"
_NO_WORKER = "start `hotwallet worker`"
_WALLET_PAUSED = "run: hotwallet nonce repair --dry-run"
_WALLET_EMPTY = "send funds to the address"
_RPC_DOWN = "check rpc_urls and the nodes"


def network_checks(context: DoctorContext) -> Iterator[Check]:
    """Yield the checks of all networks; iterate after the "networks" check has run."""
    # The ring has the wallet's address; while it is empty, the device has.
    device = () if context.active is not None else ("device",)
    key = device and ("database", *device)
    for name in context.networks:
        network = NetworkContext(context, name)
        chain = f"{name} chain"
        yield network.check("nodes", _check_nodes, _RPC_DOWN)
        yield network.check("chain", _check_chain, _NETWORKS_FILE, f"{name} nodes")
        yield network.check("gas", _check_gas, _WALLET_EMPTY, chain, *key)
        for symbol in network.network.tokens:
            run = partial(_check_token, symbol=symbol)
            yield network.check(symbol, run, _WALLET_EMPTY, chain, *key)
        needs = ("database", *device)
        yield network.check("nonces", check_nonces, _WALLET_PAUSED, chain, *needs)
        yield network.check("worker", check_worker, _NO_WORKER, *needs)
        yield network.check("mined", _check_mined, _RPC_DOWN, chain, *key)


def _check_nodes(context: NetworkContext) -> Finding:
    views = context.chain.client.node_statuses(context.address, ())
    detail = ", ".join(
        f"{view.node} {view.error or f'at block {view.head}'}" for view in views
    )
    failed = [view for view in views if view.error is not None]
    if len(failed) == len(views):
        raise ChainUnavailableError(detail)
    return Finding(detail, _RPC_DOWN if failed else None)


def _check_chain(context: NetworkContext) -> Finding:
    check_chain(context.name, context.network, context.chain.client)
    symbols = ", ".join(context.network.tokens) or "no tokens"
    return Finding(f"chain {context.network.chain_id}; {symbols} as configured")


def _check_gas(context: NetworkContext) -> Finding:
    balance = context.chain.client.balance(context.address)
    if balance == 0:
        raise InsufficientFundsError(f"{context.address} has nothing to pay for gas")
    return Finding(f"{format_units(balance, COIN_DECIMALS)} on {context.address}")


def _check_token(context: NetworkContext, symbol: str) -> Finding:
    token = context.network.tokens[symbol]
    balance = context.chain.token_balance(token.address, context.address)
    if balance == 0:
        return Finding(f"{context.address} holds no {symbol}", _WALLET_EMPTY)
    return Finding(f"{format_units(balance, token.decimals)} on {context.address}")


def _check_mined(context: NetworkContext) -> Finding:
    client = context.chain.client
    count = client.transaction_count(context.address)
    if count == 0:
        return Finding(
            f"no transaction of {context.address} has been mined yet",
            "send a test refund; README.md shows how",
        )
    found = client.find_transaction(context.address, count - 1)
    if found is None:
        return Finding(
            f"nonce {count - 1} is mined, in a block that the nodes have pruned"
        )
    return Finding(f"{found.tx_hash} in block {found.block.number}")
