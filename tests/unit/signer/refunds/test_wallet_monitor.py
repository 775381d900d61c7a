"""A worker looks at funds and nodes, and alerts before the wallet is empty."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from signer.alerts import LASTING, Alert, Alerts
from signer.chain.chain import Chain
from signer.chain.erc20 import encode_balance_of
from signer.chain.vault import encode_call
from signer.errors import (
    ChainError,
    ChainUnavailableError,
    ConfigurationError,
    ExecutionRevertedError,
    Refusal,
    StoreUnavailableError,
)
from signer.model.network_view import LAGGING_BLOCKS, Funds, NetworkView, NodeView
from signer.model.refund import Status
from signer.model.worker_row import WorkerRow
from signer.ports.chain import Call, NodeStatus
from signer.ports.meter import Meter
from signer.ports.refund_reports import OpenRefunds
from signer.refunds.wallet_monitor import (
    AGAIN_SECONDS,
    FINE_SECONDS,
    IDLE_LOOK_SECONDS,
    LATE_SECONDS,
    LOOK_SECONDS,
    OF_NETWORK,
    WAIT_SECONDS,
    Facts,
    NodeAlarm,
    WalletMonitor,
    find_oldest,
    read_funds,
    read_max_fee,
)
from tests.fixtures.ledger import unrecorded
from tests.support.refunds import AMOUNT, SECOND, World, altered, altered_chain


class _Views(Meter):
    """Keeps the views of the only network."""

    def __init__(self) -> None:
        self.seen: list[NetworkView | None] = []

    def looked(self, network: str, view: NetworkView | None) -> None:
        assert network == "local"
        self.seen.append(view)


@dataclass
class System:
    """A worker whose row is in the ledger."""

    world: World
    views: _Views = field(default_factory=_Views)

    def pay(self, count: int) -> None:
        """Pay refunds to their end."""
        self.world.chain.balance_left = 10**12
        for _ in range(count):
            self.world.accepted()
        worker = self.world.worker
        worker.work()
        self.world.chain.mine()
        self.world.chain.mine_empty(5)
        for _ in range(3):
            worker.work()

    def record(self, *names: str) -> None:
        """Record a pass of each worker, in the order of their starts."""
        for name in names:
            now = self.world.clock()
            self.world.store.record_pass(WorkerRow(name, now, now))
            self.world.clock.advance(seconds=1)

    def record_later(self) -> None:
        """Record a pass when everything is read again."""
        self.world.clock.advance(minutes=16)
        self.record("a")

    def look_after(self, seconds: float, monitor: WalletMonitor) -> float:
        """Let *monitor* look after a pass of its worker; return its pause."""
        self.world.clock.advance(seconds=seconds)
        now = self.world.clock()
        self.world.store.record_pass(WorkerRow("a", now, now))
        return monitor.look()

    def monitor(
        self, name: str = "a", stalled_after: int = 300, **changes: Any
    ) -> WalletMonitor:
        """Return the monitor of the worker *name*; *changes* are of the chain."""
        settings = {"stalled_after_seconds": stalled_after}
        network = self.world.network.model_copy(update=settings)
        chain = Chain(network, altered_chain(self.world.chain, **changes))
        return WalletMonitor(
            self.world.store,
            {"local": chain},
            Alerts(self.world.store, clock=self.world.clock),
            name=name,
            clock=self.world.clock,
            meter=self.views,
            timer=lambda: self.world.clock().timestamp(),
        )

    @property
    def raised(self) -> int:
        """How many alerts were raised."""
        return self.world.store.alert_counts().get(Alert.LOW_BALANCE, 0)


@pytest.fixture
def system(world: World) -> System:
    assert world.ring
    return System(world)


def _funds(system: System) -> dict[str, Funds]:
    chain = system.world.chains["local"]
    address = system.world.signer.address
    fee = read_max_fee(chain)
    found = read_funds(chain, address, system.world.store, fee)
    return {each.asset: each for each in found}


def test_the_runway_of_a_new_wallet_is_unknown(system: System) -> None:
    funds = _funds(system)

    assert (funds["TUSD"].refunds_left, funds["TUSD"].hours_left) == (None, None)
    assert (funds["coin"].refunds_left, funds["coin"].hours_left) == (None, None)
    assert not any(each.is_low(system.world.network) for each in funds.values())


def test_a_wallet_without_coin_pays_nothing(system: System) -> None:
    system.world.chain.coin = 0

    assert _funds(system)["coin"] == Funds("coin", 0, 18, 0, None)


def test_the_runway_is_that_of_recent_refunds(system: System) -> None:
    """Of 12.50 each; four were paid in the last day."""
    system.pay(4)
    system.world.chain.balance_left = 10 * AMOUNT + 1
    funds = _funds(system)

    assert funds["TUSD"] == Funds("TUSD", 10 * AMOUNT + 1, 6, 10, 60 + 24 / 4 / AMOUNT)
    coin = funds["coin"]
    assert coin.refunds_left is not None
    assert coin.hours_left == pytest.approx(coin.refunds_left * 6, rel=0.01)


def test_the_data_fee_of_a_rollup_shortens_the_runway(system: System) -> None:
    """It is what the oracle says for the bytes of a refund; old ones do not say it."""
    system.pay(2)
    answers = [False, True]
    before, world = _funds(system)["coin"], system.world
    payment = world.store.last_payments(world.network.chain_id, 1)[0]
    fee = payment.gas * read_max_fee(world.chains["local"])

    def call(call: Call) -> bytes:
        is_oracle = call.to == "0x420000000000000000000000000000000000000F"
        if is_oracle and not answers.pop(0):
            raise ExecutionRevertedError
        amount = 3 * fee if is_oracle else world.chain.balance_left
        return amount.to_bytes(32, "big")

    world.client = altered_chain(world.chain, call=call)
    world.network = world.network.model_copy(update={"data_fee": "op-stack"})
    assert _funds(system)["coin"].refunds_left == before.refunds_left
    after = _funds(system)["coin"]

    assert after.refunds_left == (before.refunds_left or 0) // 4
    assert after.hours_left == pytest.approx((before.hours_left or 0) / 4, rel=0.01)


def test_a_coin_that_is_a_token_pays_both(system: System) -> None:
    """Of 12.50 each, and the gas; both names have the same runway."""
    system.pay(2)
    world = system.world
    world.network = world.network.model_copy(update={"coin_is": "TUSD"})
    world.chain.coin = 10 * AMOUNT * 10**12
    funds = _funds(system)

    coin, token = funds["coin"], funds["TUSD"]
    assert coin.refunds_left == 9  # The gas takes less than a tenth.
    assert (token.refunds_left, token.hours_left) == (9, coin.hours_left)


def test_a_vault_is_low_and_the_wallet_has_its_coin(system: System) -> None:
    """The wallet holds no token, and needs none."""
    vault = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"

    def call(call: Call) -> bytes:
        amount = 5 * AMOUNT if call.data == encode_balance_of(vault) else 0
        return amount.to_bytes(32, "big")

    system.pay(2)
    world = system.world
    world.network = world.network.model_copy(update={"vault": vault})
    world.client = altered_chain(world.chain, call=call)
    funds = _funds(system)

    assert (funds["TUSD"].balance, funds["TUSD"].refunds_left) == (5 * AMOUNT, 5)
    assert funds["coin"].balance == world.chain.coin


def test_revoked_keys_that_may_pay_are_counted(system: System) -> None:
    """At the next look after the revocation, and again while there is one."""
    vault = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
    world, operators = system.world, {system.world.signer.address}

    def call(call: Call) -> bytes:
        asked = next((each for each in operators if is_about(call, each)), None)
        return int(asked is not None).to_bytes(32, "big")

    def is_about(call: Call, address: str) -> bool:
        return call.data == encode_call("isOperator(address)", address)

    world.network = world.network.model_copy(update={"vault": vault})
    monitor = system.monitor(call=call)

    def look() -> int | None:
        world.clock.advance(seconds=LOOK_SECONDS)
        system.record("a")
        monitor.look()
        view = system.views.seen[-1]
        return None if view is None else view.revoked_operators

    counts = [look()]
    world.rotate(SECOND, block=True)
    counts += [look(), look()]
    operators.clear()
    counts += [look()]

    assert counts == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("refunds", "hours", "is_low"),
    [(50, 12, False), (51, 12, True), (50, 13, True), (0, 0, False)],
)
def test_either_bound_is_enough(
    world: World, refunds: int, hours: int, is_low: bool
) -> None:
    bounds = {"low_balance_refunds": refunds, "low_balance_hours": hours}
    network = world.network.model_copy(update=bounds)

    assert Funds("TUSD", 1, 6, 50, 12.5).is_low(network) is is_low


def test_a_delegated_wallet_is_reported_once_in_six_hours(system: System) -> None:
    """T7: and at once when it is delegated again; an outage proves nothing."""
    address = system.world.signer.address
    chain = system.world.chain
    monitor = system.monitor()

    def look() -> int:
        system.record_later()
        with capture_logs() as logs:
            monitor.look()
        found = [
            (each["network"], each["address"])
            for each in logs
            if (each["event"], each.get("alert")) == ("alert", "wallet-delegated")
        ]
        assert found in ([], [("local", address)])
        return len(found)

    raised = [look()]
    chain.delegated.add(address)
    raised += [look(), look()]
    chain.fail("code", ChainUnavailableError("down"))
    raised += [look(), look()]
    system.world.clock.advance(hours=6)
    raised += [look()]
    chain.delegated.clear()
    raised += [look()]
    chain.delegated.add(address)
    raised += [look()]

    assert raised == [0, 1, 0, 0, 0, 1, 0, 1]
    seen = [None if each is None else each.is_delegated for each in system.views.seen]
    assert seen == [False, True, True, None, True, True, False, True]


def test_a_low_balance_is_reported_once_in_six_hours(system: System) -> None:
    system.pay(2)
    system.world.chain.balance_left = 49 * AMOUNT
    monitor = system.monitor()
    with capture_logs() as logs:
        for _ in range(44):
            system.record_later()
            monitor.look()
        raised = system.raised
        for balance in (50, 49):  # A top-up ends it.
            system.world.chain.balance_left = balance * AMOUNT
            system.record_later()
            monitor.look()

    (first, second, *_) = [each for each in logs if each.get("alert") == "low-balance"]
    expected = {"alert": "low-balance", "network": "local", "asset": "TUSD"}
    assert first.items() >= (expected | {"refunds_left": 49, "hours_left": 588}).items()
    assert second["refunds_left"] == 49
    assert (raised, system.raised) == (2, 3)


def test_the_view_has_nodes_fees_and_the_nonce(system: System) -> None:
    system.pay(1)
    system.record("a")
    statuses = [
        NodeStatus("node-1", trusted=True, head=12),
        NodeStatus("node-2", trusted=False, head=9),
        NodeStatus("node-3", trusted=True, error="chain-unavailable"),
    ]
    monitor = system.monitor(node_statuses=lambda *_: statuses)

    assert monitor.look() == AGAIN_SECONDS
    (view,) = system.views.seen
    assert view is not None
    assert view.nodes == [
        NodeView("node-1", 0, is_trusted=True),
        NodeView("node-2", 3, is_trusted=False, disagrees=True),
        NodeView("node-3", None, is_trusted=False),
    ]
    assert view.chain_nonce == 1
    assert view.max_fee == read_max_fee(system.world.chains["local"])
    assert [each.asset for each in view.funds] == ["coin", "TUSD"]


def test_missing_nonces_are_counted(system: System) -> None:
    """The chain has a transaction that this service did not make, above a gap."""
    system.record_later()
    monitor = system.monitor()
    monitor.look()
    system.pay(1)
    store, address = system.world.store, system.world.signer.address
    wallet = store.wallet(system.world.network.chain_id, address)
    assert wallet is not None
    store.add_unrecorded(wallet, [unrecorded(nonce=4, sender=address)])
    system.record_later()
    monitor.look()

    counts = [view.missing_nonces for view in system.views.seen if view]
    assert counts == [0, 3]


def test_nodes_are_reported_while_they_do_not_answer(system: System) -> None:
    system.record("a")
    monitor = system.monitor(fees=ChainUnavailableError("gone"))
    with capture_logs() as logs:
        monitor.look()

    (view,) = system.views.seen
    assert view is not None
    assert (view.max_fee, view.chain_nonce, view.funds) == (None, None, ())
    assert [node.name for node in view.nodes] == ["node-1"]
    assert not view.has_quorum
    assert [(each["event"], each["network"]) for each in logs] == [
        ("wallet-look-failed", "local")
    ]


def _network_alerts(
    system: System, monitor: WalletMonitor, looks: int, every: float
) -> list[Any]:
    """Look *looks* times; return the alerts about the whole network."""
    with capture_logs() as logs:
        for _ in range(looks):
            system.record("a")
            monitor.look()
            system.world.clock.advance(seconds=every - 1)
    named = [each for each in logs if each["event"] == "alert"]
    return [each for each in named if each["alert"] in set(OF_NETWORK)]


def test_a_lost_quorum_is_reported_once(system: System) -> None:
    """At the second look; other failures of a look say nothing about it."""
    system.world.chain.fail("fees", ChainError("odd"), ChainUnavailableError("gone"))
    assert _network_alerts(system, system.monitor(), 2, LOOK_SECONDS) == []
    lost = system.monitor(fees=ChainUnavailableError("gone"))
    (alert,) = _network_alerts(system, lost, 9, LOOK_SECONDS)

    assert (alert["alert"], alert["network"]) == ("quorum-lost", "local")
    system.record("a")
    assert lost.look() == AGAIN_SECONDS  # Its return is seen soon.


@pytest.mark.parametrize("after", [300, 0])
def test_a_chain_without_new_blocks_is_reported(system: System, after: int) -> None:
    """Unless that is turned off; a new block ends it."""
    monitor = system.monitor(stalled_after=after)
    before = _network_alerts(system, monitor, 10, LOOK_SECONDS)
    (*_, view) = system.views.seen
    assert view is not None
    assert (before, view.head_age) == ([], 9 * LOOK_SECONDS)
    alerts = _network_alerts(system, monitor, 6, LOOK_SECONDS)
    system.world.chain.mine_empty(1)
    ended = _network_alerts(system, monitor, 10, LOOK_SECONDS)

    named = [(each["alert"], each["seconds"] > 300) for each in alerts]
    assert named == ([("chain-stalled", True)] if after else [])
    assert ended == []


def test_one_node_that_lies_about_its_head_hides_nothing(system: System) -> None:
    """The median of the nodes counts; without one, nothing is known."""
    heads = iter(range(10**6, 10**7))
    monitor = system.monitor(
        node_statuses=lambda *_: [
            NodeStatus("node-1", trusted=True, head=12),
            NodeStatus("node-2", trusted=True, head=next(heads)),
            NodeStatus("node-3", trusted=True, head=11),
        ]
    )
    _network_alerts(system, monitor, 3, LOOK_SECONDS)
    silent = system.monitor(node_statuses=lambda *_: [])
    _network_alerts(system, silent, 1, LOOK_SECONDS)

    ages = [view.head_age for view in system.views.seen if view]
    assert ages == [0, LOOK_SECONDS, 2 * LOOK_SECONDS, None]


def test_a_refund_that_waits_for_long_is_reported(system: System) -> None:
    """Although it has no nonce; one that awaits an approval may wait."""
    system.world.accepted()
    monitor = system.monitor(stalled_after=0)
    assert _network_alerts(system, monitor, 2, LATE_SECONDS / 2) == []
    (alert,) = _network_alerts(system, monitor, 3, LOOK_SECONDS)

    assert (alert["alert"], alert["status"], alert["code"]) == (
        "refunds-late",
        "queued",
        None,
    )
    assert alert["seconds"] > LATE_SECONDS


def test_the_oldest_waiting_refund_of_each_network() -> None:
    def group(network: str, status: Status, age: int) -> OpenRefunds:
        since = datetime(2026, 1, 1, tzinfo=UTC) - timedelta(seconds=age)
        return OpenRefunds(network, "shop", status, None, 1, since)

    old = group("a", Status.MINED, 20)
    groups = [group("a", Status.QUEUED, 10), old, group("a", Status.SIGNED, 15)]
    groups += [group("b", Status.AWAITING_APPROVAL, 99)]

    assert find_oldest(groups) == {"a": old}


def test_the_worker_that_has_run_for_longest_looks(system: System) -> None:
    """The next one takes over when it stops."""
    system.record("a", "b")
    first, second = system.monitor("a"), system.monitor("b")
    assert (first.look(), second.look()) == (LOOK_SECONDS, WAIT_SECONDS)
    assert [view is None for view in system.views.seen] == [False, True]
    system.world.clock.advance(seconds=25)
    row = [each for each in system.world.store.workers() if each.name == "b"]
    system.world.store.record_pass(
        WorkerRow("b", row[0].started_at, system.world.clock())
    )

    assert (first.look(), second.look()) == (WAIT_SECONDS, LOOK_SECONDS)


def test_an_idle_service_looks_less_often(system: System) -> None:
    """After ten minutes without an open refund, until there is one."""
    monitor = system.monitor(stalled_after=0)

    def look(seconds: float) -> tuple[float, bool]:
        before = system.world.chain.calls["fees"]
        pause = system.look_after(seconds, monitor)
        return pause, system.world.chain.calls["fees"] > before

    assert look(0) == (LOOK_SECONDS, True)
    assert look(599) == (LOOK_SECONDS, True)
    assert look(301) == (IDLE_LOOK_SECONDS, False)
    assert look(599) == (IDLE_LOOK_SECONDS, True)
    system.world.accepted()
    assert look(300) == (LOOK_SECONDS, True)
    assert look(600) == (LOOK_SECONDS, True)


def test_without_a_key_nothing_is_read(system: System) -> None:
    system.record("a")
    monitor = system.monitor()
    monitor.ledger = altered(system.world.store, active_key=lambda: None)

    assert monitor.look() == LOOK_SECONDS
    assert system.views.seen == [None]


def test_it_looks_until_it_is_stopped(system: System) -> None:
    """Soon, while it is not its turn; a failure is logged."""
    errors: list[Exception] = [StoreUnavailableError("gone"), ValueError("bug")]

    def workers() -> object:
        if errors and len(waits) > 2:
            raise errors.pop(0)
        return system.world.store.workers()

    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) == 2:
            system.record("a")
        return len(waits) == 6

    monitor = system.monitor()
    monitor.ledger = altered(system.world.store, workers=workers)
    with capture_logs() as logs:
        monitor.run(wait)

    assert waits == [WAIT_SECONDS] * 2 + [LOOK_SECONDS] * 4
    events = [each["event"] for each in logs]
    assert events == ["wallet-look-failed"] * 2


def test_between_full_looks_each_node_is_asked_for_its_head(system: System) -> None:
    """One call; everything is read again after five minutes, and while it is low."""
    system.pay(2)
    system.world.accepted()
    monitor, chain = system.monitor(), system.world.chain

    def look(seconds: float) -> set[str]:
        before = Counter(chain.calls)
        system.look_after(seconds, monitor)
        return set(chain.calls - before)

    everything = look(0)
    assert everything >= {"views", "fees", "balance", "call", "code"}
    assert look(LOOK_SECONDS) == {"views"}
    assert look(300) == everything
    chain.balance_left = AMOUNT
    assert look(300) == everything
    assert look(LOOK_SECONDS) == everything
    last = system.views.seen[-1]
    assert last is not None
    assert last.at == system.world.clock()


def _problem(system: System, monitor: WalletMonitor) -> str | None:
    system.record_later()
    monitor.look()
    view = system.views.seen[-1]
    assert view is not None
    return view.problem


def test_a_network_that_is_not_as_configured_is_a_problem(system: System) -> None:
    """It is checked once an hour, and again until it is right."""
    refusal = Refusal("chain-misconfigured", "another chain")
    answers: list[Exception | None] = [None, ConfigurationError(refusal), None]
    monitor = system.monitor()

    def check(name: str, chain: Chain) -> None:
        assert name == "local"
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    monitor.check = check
    found = [_problem(system, monitor) for _ in range(3)]
    system.world.clock.advance(hours=1)
    found += [_problem(system, monitor) for _ in range(2)]

    assert found == [None, None, None, "chain-misconfigured", None]
    assert answers == []


@pytest.mark.parametrize(
    ("up", "has_quorum"),
    [
        ((), False),
        ((True,), True),
        ((False,), False),
        ((True, False), True),
        ((True, True, False), True),
        ((True, True, False, False), False),
    ],
)
def test_a_network_without_a_quorum_is_a_problem(
    system: System, up: tuple[bool, ...], has_quorum: bool
) -> None:
    """It ends as soon as enough nodes answer."""
    statuses = [
        NodeStatus(f"node-{position}", trusted=True, head=7)
        if answers
        else NodeStatus(f"node-{position}", trusted=True, error="chain-unavailable")
        for position, answers in enumerate(up, 1)
    ]
    current: list[list[NodeStatus]] = [statuses]
    monitor = system.monitor(node_statuses=lambda *_: current[0])

    expected = None if has_quorum else "chain-unavailable"
    assert _problem(system, monitor) == expected
    current[0] = [NodeStatus("node-1", trusted=True, head=7)]
    assert _problem(system, monitor) is None
    system.world.chain.fail("fees", *[ChainUnavailableError("gone")] * 2)
    system.world.clock.advance(minutes=5)
    assert _problem(system, monitor) == "chain-unavailable"
    current[0] = [NodeStatus("node-1", trusted=True, error="chain-unavailable")]
    assert _problem(system, monitor) == "chain-unavailable"


def test_the_first_payment_is_read_at_the_next_look(system: System) -> None:
    """Before it, the runway is unknown, and later looks ask for the head only."""
    monitor, left = system.monitor(), list[object]()
    for payments in (0, 1, 0):
        system.pay(payments)
        system.record("a")
        before = system.world.chain.calls["fees"]
        monitor.look()
        view = system.views.seen[-1]
        assert view is not None
        is_known = view.funds[0].refunds_left is not None
        left.append((is_known, system.world.chain.calls["fees"] > before))

    assert left == [(False, True), (True, True), (True, False)]


FINE = NodeView("node-2", 0, is_trusted=True)
DOWN = NodeView("node-2", None, is_trusted=False)
LYING = NodeView("node-2", 0, is_trusted=False, disagrees=True)
LATE = NodeView("node-2", LAGGING_BLOCKS + 1, is_trusted=True)
SLOW = NodeView("node-2", LAGGING_BLOCKS, is_trusted=True)

LOOK = 15.0


def _alerts(*nodes: NodeView, every: float = LOOK) -> list[tuple[str, int]]:
    """Look at each of *nodes*; return the alerts with the numbers of their looks."""
    now = [0.0]
    alerts = Alerts(clock=lambda: datetime.fromtimestamp(now[0], UTC))
    alarm = NodeAlarm(alerts, lambda: now[0])
    found: list[tuple[str, int]] = []
    for number, node in enumerate(nodes):
        now[0] = number * every
        with capture_logs() as logs:
            alarm.look("local", [node])
        raised = [each for each in logs if each["event"] == "alert"]
        found += [(each["alert"], number) for each in raised]
    return found


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([FINE, FINE], []),
        ([SLOW, SLOW, SLOW], []),
        ([FINE, DOWN, FINE, DOWN, FINE], []),
        ([DOWN, DOWN, DOWN], [("node-down", 1)]),
        ([LYING, LYING], [("node-down", 1)]),
        ([LATE, LATE, LATE], [("node-lagging", 1)]),
        ([LATE, DOWN, LATE, DOWN], []),
        ([LATE, LATE, DOWN, DOWN], [("node-lagging", 1), ("node-down", 3)]),
        # A node that fails again within a minute is the same problem.
        ([DOWN, DOWN, FINE, FINE, DOWN, DOWN], [("node-down", 1)]),
    ],
)
def test_the_second_look_raises_the_alert(
    nodes: list[NodeView], expected: list[tuple[str, int]]
) -> None:
    assert _alerts(*nodes) == expected


def test_a_node_that_recovered_is_reported_again() -> None:
    fine = [FINE] * (int(FINE_SECONDS / LOOK) + 1)
    nodes = [DOWN, DOWN, *fine, DOWN, DOWN]

    assert _alerts(*nodes) == [("node-down", 1), ("node-down", len(nodes) - 1)]


def test_the_alert_is_repeated_every_six_hours() -> None:
    assert _alerts(*[LATE] * 4, every=LASTING[Alert.NODE_LAGGING] / 2) == [
        ("node-lagging", 1),
        ("node-lagging", 3),
    ]


def test_nodes_are_told_apart() -> None:
    """The alert names the network, the node and its lag; a new problem is looked at."""
    alarm = NodeAlarm(Alerts())
    other = NodeView("node-1", 12, is_trusted=True)
    with capture_logs() as logs:
        assert alarm.look("local", [LATE]) is True
        assert alarm.look("local", [LATE, other]) is True
        assert alarm.look("other", [LATE]) is True
        assert alarm.look("local", [LATE, other]) is False

    assert [(each["network"], each["node"], each["lag"]) for each in logs] == [
        ("local", "node-2", 11),
        ("local", "node-1", 12),
    ]


def test_the_end_of_a_problem_is_reported() -> None:
    """After a minute, also of one of the whole network."""
    now = [0.0]
    alarm = NodeAlarm(Alerts(), lambda: now[0])
    problems: dict[Alert, Facts] = {Alert.QUORUM_LOST: {}}
    with capture_logs() as logs:
        for _ in range(3):
            alarm.look("local", [DOWN], problems)
        for now[0] in (0.0, FINE_SECONDS, 2 * FINE_SECONDS):
            alarm.look("local", [FINE])

    ends = [each for each in logs if each["event"] == "alert-resolved"]
    assert [(each["alert"], each["network"], each["node"]) for each in ends] == [
        ("node-down", "local", "node-2"),
        ("quorum-lost", "local", None),
    ]


def test_a_process_that_stops_at_once_does_not_look(system: System) -> None:
    monitor = system.monitor()
    monitor.ledger = altered(system.world.store)  # It has no workers.

    monitor.run(lambda seconds: True)
