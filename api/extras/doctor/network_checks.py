"""The doctor's checks of each network: nodes, funds, nonces, worker and payments."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Self

from api.extras.doctor.key_checks import DoctorContext
from api.metrics.workers import read_head_ages
from backends.json_rpc.parsing import attempt
from backends.json_rpc.probe import find_differences, probe
from signer.alerts import Alert
from signer.amounts import COIN_DECIMALS, format_units
from signer.chain.chain import Chain
from signer.diagnostics import EXPLAIN, Check, Finding
from signer.errors import (
    ChainError,
    ChainUnavailableError,
    InsufficientFundsError,
    NotFoundError,
    StoreError,
    WalletPausedError,
)
from signer.model.key import WATCHED, KeyState
from signer.model.network_view import Funds
from signer.model.refund import UNSENT, Status
from signer.ports.refund_reports import OpenRefunds
from signer.refunds.wallet_monitor import (
    LATE_SECONDS,
    compare_nodes,
    find_oldest,
    read_funds,
    read_max_fee,
    waited_seconds,
)
from signer.refunds.wallet_reconciliation import WalletReconciler
from signer.startup.dependency_checks import check_chain, check_vault


_NETWORKS_FILE = f"correct the networks file; {EXPLAIN}"
_KIND = "compare with `hotwallet network probe`, and correct the networks file"
_VAULT = "run: hotwallet vault status"
_NO_WORKER = "start `hotwallet worker`"
_WALLET_PAUSED = "run: hotwallet nonce repair --dry-run"
_WALLET_EMPTY = "send funds to the address"
_WALLET_LOW = "top up: docs/how-to/incidents.md"
_DELEGATED = "the key is compromised: docs/how-to/key-compromise.md"
_LATE = "see docs/how-to/incidents.md"
_RPC_DOWN = "check rpc_urls and the nodes"

_OVERDUE = timedelta(minutes=1)
_WORKER_STATES = UNSENT | {Status.BROADCAST}
_ALL_NONCES = 2**63 - 1
_MOST_REFUNDS = 100


_PLACEHOLDER = "0x0000000000000000000000000000000000000001"
"""The address to ask nodes about while the wallet's is not known."""


@dataclass(frozen=True, slots=True)
class NetworkContext:
    """One network, beside what is known of everything else."""

    doctor: DoctorContext
    name: str

    def check(
        self, name: str, run: Callable[[Self], Finding], cure: str, *needs: str
    ) -> Check:
        return Check(f"{self.name} {name}", partial(run, self), cure, needs)

    @property
    def chain(self) -> Chain:
        return self.doctor.container.chains[self.name]

    @property
    def address(self) -> str:
        return self.doctor.address or _PLACEHOLDER

    @property
    def watched(self) -> Mapping[str, KeyState]:
        """Addresses, current or former, whose unknown transactions pause a network."""
        ring = self.doctor.container.store.keys()
        return {
            key.address: key.state for key in ring if key.state in WATCHED or key.epoch
        } or {self.address: KeyState.ACTIVE}


class OverdueError(StoreError, code="refund-overdue"):
    """A refund has waited for a worker longer than it should."""


def network_checks(context: DoctorContext) -> Iterator[Check]:
    """Yield the checks of all networks; iterate after the "networks" check has run."""
    # The ring has the wallet's address; while it is empty, the device has.
    device = () if context.active is not None else ("device",)
    key = device and ("database", *device)
    for name, section in context.networks.items():
        network = NetworkContext(context, name)
        chain = f"{name} chain"
        yield network.check("nodes", _check_nodes, _RPC_DOWN)
        yield network.check("chain", _check_chain, _NETWORKS_FILE, f"{name} nodes")
        yield network.check("kind", _check_kind, _NETWORKS_FILE, chain)
        yield network.check("gas", _check_gas, _WALLET_EMPTY, chain, *key)
        if section.vault is not None:
            yield network.check("vault", _check_vault, _VAULT, chain, "database")
        run = _check_delegation
        yield network.check("delegation", run, _DELEGATED, chain, *key)
        for symbol in section.tokens:
            run = partial(_check_token, symbol=symbol)
            yield network.check(symbol, run, _WALLET_EMPTY, chain, *key)
        needs = ("database", *device)
        yield network.check("runway", _check_runway, _WALLET_LOW, chain, *needs)
        yield network.check("nonces", _check_nonces, _WALLET_PAUSED, chain, *needs)
        yield network.check("worker", _check_worker, _NO_WORKER, *needs)
        yield network.check("mined", _check_mined, _RPC_DOWN, chain, *key)


def _check_nodes(context: NetworkContext) -> Finding:
    views = context.chain.client.node_statuses(context.address, ())
    detail = ", ".join(
        f"{view.node} {view.error or f'at block {view.head}'}" for view in views
    )
    failed = [view for view in views if view.error is not None]
    try:
        context.chain.client.transaction_count(context.address)
    except ChainUnavailableError:
        return Finding(detail, _RPC_DOWN, Alert.QUORUM_LOST, is_failed=True)
    nodes = compare_nodes(views)
    # A node that lags is often contradicted as well, and then does not count.
    if not failed and any(node.is_lagging for node in nodes):
        return Finding(detail, _RPC_DOWN, Alert.NODE_LAGGING)
    if any(node.is_down for node in nodes):
        return Finding(detail, _RPC_DOWN, Alert.NODE_DOWN)
    return Finding(detail)


def _check_chain(context: NetworkContext) -> Finding:
    check_chain(context.name, context.chain.network, context.chain.client)
    symbols = ", ".join(context.chain.network.tokens) or "no tokens"
    return Finding(f"chain {context.chain.network.chain_id}; {symbols} as configured")


def _check_kind(context: NetworkContext) -> Finding:
    """Compare the network's keys with what each node that answers shows."""
    network, found = context.chain.network, dict[str, int]()
    for position, url in enumerate(network.rpc_urls, 1):
        shown = attempt(partial(probe, url, network.rpc_timeout_ms / 1000))
        if not isinstance(shown, ChainError):  # The check "nodes" reports it.
            for difference in find_differences(network, shown):
                found.setdefault(difference, position)
    if found:
        detail = "; ".join(f"node-{found[each]}: {each}" for each in found)
        return Finding(detail, _KIND)
    return Finding(f"{network.kind or 'no kind'}, as the nodes show")


def _check_vault(context: NetworkContext) -> Finding:
    """Compare the vault with the configuration, and look for revoked operators."""
    container, chain = context.doctor.container, context.chain
    ring, is_production = container.store.keys(), container.settings.is_production
    check_vault(context.name, chain, ring, is_production=is_production)
    revoked = container.vault_operators.revoked(ring)
    found = [each for each in revoked if each.network == context.name]
    if found:
        return Finding("; ".join(each.problem.message for each in found), _VAULT)
    return Finding(f"{chain.network.vault} as configured")


def _check_gas(context: NetworkContext) -> Finding:
    balance = context.chain.client.balance(context.address)
    if balance == 0:
        raise InsufficientFundsError(f"{context.address} has nothing to pay for gas")
    return Finding(f"{format_units(balance, COIN_DECIMALS)} on {context.address}")


def _check_delegation(context: NetworkContext) -> Finding:
    """Look for code, which only a delegation (EIP-7702) gives to a key's address."""
    if context.chain.client.code(context.address):
        detail = f"{context.address} has code of others, which can move its funds"
        return Finding(detail, _DELEGATED, Alert.WALLET_DELEGATED)
    return Finding(f"{context.address} has no code")


def _check_token(context: NetworkContext, symbol: str) -> Finding:
    token = context.chain.network.tokens[symbol]
    holder = context.chain.network.token_holder(context.address)
    balance = context.chain.token_balance(token.address, holder)
    if balance == 0:
        return Finding(f"{holder} holds no {symbol}", _WALLET_EMPTY)
    detail = f"{format_units(balance, token.decimals)} on {holder}"
    if holder != context.address:
        unused = context.chain.token_balance(token.address, context.address)
        if unused:
            shown = format_units(unused, token.decimals)
            detail += f"; {shown} on {context.address}, from which no refund is paid"
    return Finding(detail)


def _check_runway(context: NetworkContext) -> Finding:
    """Say how long the balances last; a warning where the alert is raised."""
    chain = context.chain
    store = context.doctor.container.store
    found = read_funds(chain, context.address, store, read_max_fee(chain))
    detail = "; ".join(_describe_runway(each) for each in found)
    if any(each.is_low(chain.network) for each in found):
        return Finding(detail, _WALLET_LOW, Alert.LOW_BALANCE)
    return Finding(detail)


def _describe_runway(funds: Funds) -> str:
    if funds.refunds_left is None:
        return f"{funds.asset}: unknown before the first refund"
    hours = (
        "" if funds.hours_left is None else f", {math.floor(funds.hours_left)} hours"
    )
    return f"{funds.asset}: about {funds.refunds_left} refunds{hours}"


def _check_nonces(context: NetworkContext) -> Finding:
    """Check every watched wallet: a former key's wallet pauses the network as well."""
    store = context.doctor.container.store
    stop = store.find_stop(context.chain.network.chain_id)
    if stop is not None:
        raise stop.error()
    findings, paused = [], []
    for address, state in context.watched.items():
        try:
            findings.append(_check_wallet(context, address, state))
        except WalletPausedError as e:
            paused.append(str(e))
    if paused:
        raise WalletPausedError("; ".join(paused))
    cures = [each.cure for each in findings if each.cure is not None]
    detail = "; ".join(each.detail for each in findings)
    return Finding(detail, cures[0] if cures else None)


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
    if not status.wallet.is_authentic:
        raise status.wallet.error()
    if status.wallet.is_paused and (status.unknown_count or not blocked):
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


def _check_worker(context: NetworkContext) -> Finding:
    """Check that no refund is overdue, whatever it waits for, and blocks are made."""
    store, now = context.doctor.container.store, context.doctor.container.ledger_clock()
    groups = [each for each in store.open_refunds() if each.network == context.name]
    total = sum(each.number for each in groups)
    detail = f"{total} open refunds"
    oldest = find_oldest(groups).get(context.name)
    if oldest is not None:
        seconds = waited_seconds(oldest, now)
        because = f" ({oldest.blocked_by})" if oldest.blocked_by else ""
        detail += f"; the oldest is {oldest.status} for {seconds:.0f} s{because}"
        if seconds > LATE_SECONDS:
            return Finding(detail, _LATE, Alert.REFUNDS_LATE, is_failed=True)
    if any(_is_untouched(each, now) for each in groups):
        raise OverdueError(f"a refund has been queued for over a minute: {detail}")
    overdue = _find_overdue(context, now - _OVERDUE)
    if overdue is not None:
        raise OverdueError(f"{overdue} has been due for over a minute: {detail}")
    age = read_head_ages(store.workers(), now).get(context.name, 0.0)
    if 0 < context.chain.network.stalled_after_seconds < age:
        detail += f"; no new block for {age:.0f} s"
        return Finding(detail, _RPC_DOWN, Alert.CHAIN_STALLED)
    return Finding(f"{detail}, none overdue")


def _is_untouched(group: OpenRefunds, now: datetime) -> bool:
    """Whether no worker has looked at a queued refund: it has no reason to wait."""
    is_new = group.status is Status.QUEUED and group.blocked_by is None
    return is_new and now - group.since > _OVERDUE


def _find_overdue(context: NetworkContext, latest: datetime) -> str | None:
    """Return the id of a refund with a nonce whose next step was due at *latest*."""
    for address, state in context.watched.items():
        if state is KeyState.BLOCKED:
            continue  # Its open refunds are left to an operator.
        for each in context.doctor.container.store.open_below(
            context.chain.network.chain_id, address, _ALL_NONCES, _MOST_REFUNDS
        ):
            if Status(each.status) in _WORKER_STATES and each.due_at < latest:
                return next(iter(each.names.values()))
    return None


def _check_mined(context: NetworkContext) -> Finding:
    client = context.chain.client
    count = client.transaction_count(context.address)
    if count == 0:
        return Finding(
            f"no transaction of {context.address} has been mined yet",
            "send a test refund; docs/how-to/production.md shows how",
        )
    found = client.find_transaction(context.address, count - 1)
    if found is None:
        return Finding(
            f"nonce {count - 1} is mined, in a block that the nodes have pruned"
        )
    return Finding(f"{found.tx_hash} in block {found.block.number}")
