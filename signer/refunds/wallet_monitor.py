"""
Looks at the wallet and at the nodes, and alerts before the wallet is empty.

Code of others at the wallet's address is an alert too: the key signed a delegation to
it (EIP-7702), which this service never does, and the code can move all funds.

A scrape of the metrics must not wait for nodes, so a worker looks in a thread of its
own.  One worker looks: the one that has run for the longest time.  It also alerts when
a network does not work: no quorum, no new block, or a refund that waits for too long.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from datetime import datetime
from types import MappingProxyType

import structlog
from eth_abi.encoding import encode_uint_256
from eth_utils.crypto import keccak

from signer.alerts import Alert, Alerts
from signer.amounts import COIN_DECIMALS
from signer.chain.chain import OP_STACK_ORACLE, Chain
from signer.chain.fees import quote_fees
from signer.chain.vault import VaultRules
from signer.errors import (
    ChainUnavailableError,
    ConfigurationError,
    ExecutionRevertedError,
    HotWalletError,
)
from signer.loops import Wait, repeat
from signer.model.key import KeyState
from signer.model.network_view import Funds, NetworkView, NodeView
from signer.model.refund import COIN, OPEN, Status
from signer.model.worker_row import find_running
from signer.ports.chain import Call, NodeStatus
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.ports.meter import Meter
from signer.ports.refund_reports import (
    GAS,
    OpenRefunds,
    RecentPayment,
    RefundReports,
    SpentLately,
)
from signer.refunds.wallet_reconciliation import read_nonces


LATE_SECONDS = 900.0
"""How long a refund may have one status.  One that awaits an approval may wait."""

WAITING = OPEN - {Status.AWAITING_APPROVAL}


def find_oldest(groups: Iterable[OpenRefunds]) -> Mapping[str, OpenRefunds]:
    """Return the group with the oldest waiting refund, by network."""
    oldest: dict[str, OpenRefunds] = {}
    for each in groups:
        if each.status in WAITING:
            known = oldest.setdefault(each.network, each)
            oldest[each.network] = min(known, each, key=lambda group: group.since)
    return oldest


def waited_seconds(group: OpenRefunds, now: datetime) -> float:
    """Return for how long the oldest refund of *group* has had its status."""
    return (now - group.since).total_seconds()


FINE_SECONDS = 60.0
"""How long a node must be fine before its next problem is another alert."""

OF_NODE = (Alert.NODE_DOWN, Alert.NODE_LAGGING)
OF_NETWORK = (Alert.QUORUM_LOST, Alert.CHAIN_STALLED, Alert.REFUNDS_LATE)

Facts = Mapping[str, str | int | None]
_Subject = tuple[Alert, str, str]


class NodeAlarm:
    """
    Raises ``node-down`` and ``node-lagging``, at the second look that finds the same.

    A request that is lost is no alert.  A node that fails every minute is one alert.
    The same holds for the alerts ``OF_NETWORK``.
    """

    def __init__(
        self, alerts: Alerts, timer: Callable[[], float] = time.monotonic
    ) -> None:
        """Measure time with *timer*, in seconds."""
        self._alerts = alerts
        self._timer = timer
        self._seen: set[_Subject] = set()
        self._fine_since: dict[_Subject, float] = {}

    def look(
        self,
        network: str,
        nodes: Sequence[NodeView],
        problems: Mapping[Alert, Facts] = MappingProxyType({}),
    ) -> bool:
        """
        Return whether there is a new problem, which a next look confirms.

        *problems* are those of the whole *network*, with the facts of their alerts.
        """
        found: dict[tuple[Alert, str], Facts] = {
            (alert, node.name): {"node": node.name, "lag": node.lag}
            for node in nodes
            for alert in _problems(node)
        } | {(alert, ""): facts for alert, facts in problems.items()}
        looked_at = [
            *((alert, node.name) for node in nodes for alert in OF_NODE),
            *((alert, "") for alert in OF_NETWORK),
        ]
        is_new = False
        for alert, name in looked_at:
            subject, facts = (alert, network, name), found.get((alert, name))
            if facts is None:
                self._pass(subject)
            elif subject in self._seen:
                self._report(subject, facts)
            else:
                self._seen.add(subject)
                is_new = True
        return is_new

    def _pass(self, subject: _Subject) -> None:
        self._seen.discard(subject)
        now = self._timer()
        if now - self._fine_since.setdefault(subject, now) >= FINE_SECONDS:
            alert, network, node = subject
            self._alerts.resolve(alert, network=network, node=node or None)

    def _report(self, subject: _Subject, facts: Facts) -> None:
        alert, network, _ = subject
        self._fine_since.pop(subject, None)
        self._alerts.remind(alert, network=network, **facts)


def _problems(node: NodeView) -> Iterator[Alert]:
    if node.is_down:
        yield Alert.NODE_DOWN
    if node.is_lagging:
        yield Alert.NODE_LAGGING


# Of the oracle: an upper bound of the fee for so many bytes.
_L1_FEE = keccak(text="getL1FeeUpperBound(uint256)")[:4]
_REFUND_BYTES = 200  # A signed transfer with its memo, EIP-1559.

_LAST_PAYMENTS = 200
_HOURS = 24


def read_max_fee(chain: Chain) -> int:
    """Return the max fee of a first transaction, in wei; raises ``ChainError``."""
    return quote_fees(chain.client.fees(), chain.network)[0]


def read_funds(
    chain: Chain, address: str, statistics: RefundReports, max_fee: int
) -> Sequence[Funds]:
    """
    Return what *address* holds of the coin and of each token, and how long it lasts.

    The tokens are those of the vault, if the network has one.
    A refund is taken to be like the average of the last ones, and an hour like the
    average of the last 24.  The coin is counted at the max fee, which nodes require to
    be available, so it lasts longer.  If it is one of the tokens, it pays both.

    Raises:
        ChainError: The nodes do not answer.
        StoreError: The ledger does not answer.
    """
    network, client = chain.network, chain.client
    addresses = [token.address for token in network.tokens.values()]
    spent = statistics.spent_lately(network.chain_id, [GAS, *addresses])
    payments = statistics.last_payments(network.chain_id, _LAST_PAYMENTS)
    data_fee = read_data_fee(chain) if payments else 0
    costs = [payment.gas * max_fee + data_fee for payment in payments]
    # What a unit of gas of the last payments costs, with the data fee.
    used = sum(payment.gas for payment in payments)
    price = sum(costs) // used if used else max_fee
    daily = spent.get(GAS, SpentLately()).day * price
    holder, shared = network.token_holder(address), network.token_of_coin
    if shared is not None:
        costs = [
            cost
            + shared.in_coin(payment.amount) * (payment.token_address == shared.address)
            for cost, payment in zip(costs, payments, strict=True)
        ]
        daily += shared.in_coin(spent.get(shared.address, SpentLately()).day)
    balance, refunds, hours = _runway(client.balance(address), costs, daily)
    if balance == 0:
        refunds = 0  # Also before the first refund, whose cost is unknown.
    found = [Funds(COIN, balance, COIN_DECIMALS, refunds, hours)]
    by_token = _amounts(payments)
    for symbol, token in network.tokens.items():
        held = chain.token_balance(token.address, holder)
        if token is not shared:
            amounts = by_token.get(token.address, ())
            day = spent.get(token.address, SpentLately()).day
            _, refunds, hours = _runway(held, amounts, day)
        else:
            refunds, hours = found[0].refunds_left, found[0].hours_left
        found.append(Funds(symbol, held, token.decimals, refunds, hours))
    return found


def read_data_fee(chain: Chain) -> int:
    """Return what a rollup charges for the data of a refund, in wei; 0 on others."""
    if chain.network.data_fee is None:
        return 0
    asked = _L1_FEE + encode_uint_256(_REFUND_BYTES)
    try:
        return int.from_bytes(
            chain.client.call(Call(None, OP_STACK_ORACLE, asked)), "big"
        )
    except ExecutionRevertedError:
        return 0  # An older oracle: the forecast must not keep a network from use.


def _amounts(payments: Sequence[RecentPayment]) -> Mapping[str, Sequence[int]]:
    amounts: dict[str, list[int]] = {}
    for payment in payments:
        amounts.setdefault(payment.token_address, []).append(payment.amount)
    return amounts


def _runway(
    balance: int, costs: Sequence[int], spent: int
) -> tuple[int, int | None, float | None]:
    """Return *balance*, and the refunds and hours that it lasts; None if unknown."""
    total = sum(costs)
    refunds = balance * len(costs) // total if total else None
    hours = balance * _HOURS / spent if spent else None
    return balance, refunds, hours


LOOK_SECONDS = 22.0
"""How often each node is asked for its head: one call.  With ``AGAIN_SECONDS`` a node
that lags or is down is reported within 25 seconds."""

_FUNDS_SECONDS = 300.0
"""How often balances, fees and code are read: calls cost money, and a payment needs
none of these.  While something is wrong, each look reads them."""

IDLE_AFTER_SECONDS = 600.0
"""How long no refund has been open when the looks become rare: nothing depends on the
nodes then, and each call costs money."""

IDLE_LOOK_SECONDS, _IDLE_FUNDS_SECONDS = 60.0, 900.0
"""The pauses of an idle service."""

_TOKENS_SECONDS = 3600.0
"""How often chain id and tokens are compared with the configuration."""

WAIT_SECONDS = 3.0
"""How often a worker asks whether it is its turn to look."""

AGAIN_SECONDS = 3.0
"""How soon it looks again at a node that seems to be down, or to lag, and while no
quorum answers: ``/readyz`` reads what it saw."""

_Read = tuple[str, str, frozenset[str]]
"""A network, the active key's address, and those of revoked keys."""

_PAIR = 2  # Of so many nodes, one that answers decides.

"""How often alerts are repeated: a top-up takes hours."""


@dataclass(eq=False, repr=False)
class WalletMonitor:
    """
    Measures each network; raises alerts about the wallet and about nodes.

    It looks while the worker *name* is the one that has run for the longest time.
    *check* raises an error if a network is not as the configuration says.
    """

    ledger: Ledger
    chains: Mapping[str, Chain]
    alerts: Alerts
    _: KW_ONLY
    name: str
    clock: Clock
    meter: Meter
    check: Callable[[str, Chain], None] = lambda name, chain: None
    timer: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._read: dict[_Read, tuple[float, NetworkView]] = {}
        self._checked: dict[str, float] = {}
        self._nodes = NodeAlarm(self.alerts, self.timer)
        self._heads: dict[str, tuple[int, float]] = {}  # And since when.
        self._open_at = self.timer()  # When a refund was open, or this began.
        self._log = structlog.get_logger("wallets")

    def run(self, wait: Wait) -> None:
        """Look until *wait* returns true; it gets the seconds until the next look."""
        if not wait(WAIT_SECONDS):
            event = "wallet-look-failed"
            repeat(
                self.look, wait, LOOK_SECONDS, log=self._log, event=event, at_once=True
            )

    def look(self) -> float:
        """
        Look at every network once, if it is this worker's turn.

        Returns:
            The seconds until the next look.
        """
        running = find_running(self.ledger.workers(), self.clock())
        is_ours = bool(running) and running[0].name == self.name
        active = self.ledger.active_key() if is_ours else None
        oldest = find_oldest(self.ledger.open_refunds()) if is_ours else {}
        if oldest:
            self._open_at = self.timer()
        pause = IDLE_LOOK_SECONDS if self._is_idle() else LOOK_SECONDS
        pause = pause if is_ours else WAIT_SECONDS
        for name, chain in self.chains.items():
            view = None
            if active is None:
                self._read.clear()
            else:
                view = self._view(name, chain, active.address)
                self._warn(name, chain, view.funds)
                self._check_code(name, active.address, view.is_delegated)
                problems = dict(self._problems(chain, view, oldest.get(name)))
                if self._nodes.look(name, view.nodes, problems) or not view.has_quorum:
                    pause = AGAIN_SECONDS
            self.meter.looked(name, view)
        return pause

    def _is_idle(self) -> bool:
        return self.timer() - self._open_at >= IDLE_AFTER_SECONDS

    def _view(self, name: str, chain: Chain, address: str) -> NetworkView:
        statuses = chain.client.node_statuses(None, ())
        nodes, age = compare_nodes(statuses), self._head_age(name, statuses)
        key = name, address, self._find_revoked(chain)
        at, view = self._read.get(key, (-math.inf, NetworkView(nodes)))
        now = self.timer()
        rarely = _IDLE_FUNDS_SECONDS if self._is_idle() else _FUNDS_SECONDS
        is_due = now - at >= rarely or _is_worrying(view, chain)
        if is_due or self._has_first_payment(chain, view):
            view = self._read_all(*key, chain)
            self._read[key] = now, view
        view = replace(view, nodes=nodes, head_age=age, at=self.clock())
        if view.problem is not None or _has_quorum(nodes):
            return view
        return replace(view, has_quorum=False, problem=ChainUnavailableError.code)

    def _has_first_payment(self, chain: Chain, view: NetworkView) -> bool:
        """Return whether the wallet has paid, and *view* is from before that."""
        unknown = [each for each in view.funds if each.refunds_left is None]
        if not any(each.asset == COIN for each in unknown):
            return False
        return bool(self.ledger.last_payments(chain.network.chain_id, 1))

    def _find_revoked(self, chain: Chain) -> frozenset[str]:
        """Return the addresses of revoked keys, if the network has a vault."""
        ring = [] if chain.network.vault is None else self.ledger.keys()
        return frozenset(key.address for key in ring if key.state is KeyState.BLOCKED)

    def _read_all(
        self, name: str, address: str, revoked: frozenset[str], chain: Chain
    ) -> NetworkView:
        try:
            if self.timer() - self._checked.get(name, -math.inf) >= _TOKENS_SECONDS:
                self.check(name, chain)
                self._checked[name] = self.timer()
            fee = read_max_fee(chain)
            funds = read_funds(chain, address, self.ledger, fee)
            nonce = chain.client.transaction_count(address)
            missing = self._count_missing(chain, address, nonce)
            is_delegated = chain.client.code(address) != b""
            operators = _count_operators(chain, revoked)
        except HotWalletError as e:
            code = e.refusals[0].code if isinstance(e, ConfigurationError) else e.code
            self._log.warning("wallet-look-failed", network=name, code=code)
            has_quorum = code != ChainUnavailableError.code
            return NetworkView((), has_quorum=has_quorum, problem=code)
        return NetworkView((), funds, fee, nonce, missing, is_delegated, operators)

    def _head_age(self, name: str, statuses: Sequence[NodeStatus]) -> float | None:
        """
        Return for how many seconds the newest block has not changed.

        It is that of the median of the nodes, since one could lie about it.
        """
        heads = [
            each.head for each in statuses if each.trusted and each.head is not None
        ]
        if not heads:
            return None
        head, now = statistics.median_low(heads), self.timer()
        known, since = self._heads.get(name, (None, now))
        if known != head:
            self._heads[name] = head, now
            return 0.0
        return now - since

    def _problems(
        self, chain: Chain, view: NetworkView, oldest: OpenRefunds | None
    ) -> Iterator[tuple[Alert, Facts]]:
        """Yield what is wrong with a whole network, and its facts."""
        limit = chain.network.stalled_after_seconds
        if not view.has_quorum:
            yield Alert.QUORUM_LOST, {}
        elif view.head_age is not None and 0 < limit < view.head_age:
            yield Alert.CHAIN_STALLED, {"seconds": int(view.head_age)}
        if oldest is not None:
            seconds = waited_seconds(oldest, self.clock())
            if seconds > LATE_SECONDS:
                facts = {"status": str(oldest.status), "code": oldest.blocked_by}
                yield Alert.REFUNDS_LATE, {**facts, "seconds": int(seconds)}

    def _count_missing(self, chain: Chain, address: str, nonce: int) -> int:
        wallet = self.ledger.wallet(chain.network.chain_id, address)
        return (
            0 if wallet is None else len(read_nonces(self.ledger, wallet, nonce).gaps)
        )

    def _check_code(self, name: str, address: str, is_delegated: bool | None) -> None:
        if is_delegated is False:
            self.alerts.resolve(Alert.WALLET_DELEGATED, network=name, address=address)
        elif is_delegated:
            self.alerts.remind(Alert.WALLET_DELEGATED, network=name, address=address)

    def _warn(self, name: str, chain: Chain, funds: Sequence[Funds]) -> None:
        for each in funds:
            if not each.is_low(chain.network):
                self.alerts.resolve(Alert.LOW_BALANCE, network=name, asset=each.asset)
            else:
                hours = each.hours_left
                self.alerts.remind(
                    Alert.LOW_BALANCE,
                    network=name,
                    asset=each.asset,
                    refunds_left=each.refunds_left,
                    hours_left=None if hours is None else math.floor(hours),
                )


def _is_worrying(view: NetworkView, chain: Chain) -> bool:
    """Return whether *view* shows something that may end soon."""
    is_low = any(each.is_low(chain.network) for each in view.funds)
    is_open = bool(view.is_delegated or view.revoked_operators)
    return is_low or view.problem is not None or is_open


def _count_operators(chain: Chain, addresses: Iterable[str]) -> int | None:
    """Return how many of *addresses* may pay from the vault; None without one."""
    if chain.network.vault is None:
        return None
    rules = VaultRules(chain.client, chain.network.vault)
    return sum(map(rules.is_operator, addresses))


def _has_quorum(nodes: Sequence[NodeView]) -> bool:
    """Return whether so many of *nodes* answer that they may decide."""
    down = sum(node.is_down for node in nodes)
    return down * 2 < len(nodes) if len(nodes) > _PAIR else down < len(nodes)


def compare_nodes(statuses: Sequence[NodeStatus]) -> Sequence[NodeView]:
    """Return the nodes, each with its lag to the highest head."""
    highest = max((each.head for each in statuses if each.head is not None), default=0)
    return [
        NodeView(
            each.node,
            None if each.head is None else highest - each.head,
            each.trusted and each.error is None,
            not each.trusted,
        )
        for each in statuses
    ]
