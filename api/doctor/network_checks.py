"""The doctor's checks of each network, up to a mined transaction."""

from collections.abc import Iterator
from functools import partial

from api.doctor.context import DoctorContext, NetworkContext
from api.doctor.wallet_checks import check_nonces, check_worker
from signer.amounts import format_units
from signer.chain.chain import COIN_DECIMALS
from signer.checks import Check, Finding
from signer.errors import ChainUnavailableError, InsufficientFundsError
from signer.startup.guard import check_chain


_WALLET_EMPTY = "send funds to the address"
_RPC_DOWN = "check rpc_urls and the nodes"


def network_checks(context: DoctorContext) -> Iterator[Check]:
    """Yield the checks of all networks; iterate after the "networks" check has run."""
    for name in context.networks:
        yield from _checks_of(NetworkContext(context, name))


def _checks_of(context: NetworkContext) -> Iterator[Check]:
    name = context.name
    nodes, chain = f"{name} nodes", f"{name} chain"
    # The ring has the wallet's address; while it is empty, the device has.
    device = () if context.doctor.active is not None else ("device",)
    key = device and ("database", *device)
    yield Check(nodes, partial(_check_nodes, context), _RPC_DOWN)
    yield Check(
        chain,
        partial(_check_chain, context),
        "correct the networks file; run: hotwallet explain-code CODE",
        (nodes,),
    )
    yield Check(
        f"{name} gas", partial(_check_gas, context), _WALLET_EMPTY, (chain, *key)
    )
    for symbol in context.network.tokens:
        yield Check(
            f"{name} {symbol}",
            partial(_check_token, context, symbol),
            _WALLET_EMPTY,
            (chain, *key),
        )
    yield Check(
        f"{name} nonces",
        partial(check_nonces, context),
        "run: hotwallet nonce repair --dry-run",
        (chain, "database", *device),
    )
    yield Check(
        f"{name} worker",
        partial(check_worker, context),
        "start `hotwallet worker`",
        ("database", *device),
    )
    yield Check(
        f"{name} mined",
        partial(_check_mined, context),
        _RPC_DOWN,
        (chain, *key),
    )


def _check_nodes(context: NetworkContext) -> Finding:
    if not context.doctor.chains:
        context.doctor.chains = context.doctor.openers.chains(context.doctor.networks)
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
