"""A worker asks the treasury for tokens when the wallet has few, and is paid once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Barrier, Thread
from typing import Any

import pytest
from structlog.testing import capture_logs

from api.extras.top_ups.top_ups import (
    AGAIN_SECONDS,
    LOOK_SECONDS,
    STARTING_SECONDS,
    TopUps,
)
from api.extras.top_ups.treasury import TopUp
from signer.alerts import Alert, Alerts
from signer.chain.erc20 import encode_balance_of
from signer.config.networks import Network
from signer.errors import ChainUnavailableError, StoreUnavailableError, TreasuryError
from signer.model.key import KeyState
from signer.model.refund import Status, new_refund_id
from signer.model.wallet import Pause, Wallet
from signer.model.worker_row import WorkerRow
from signer.ports.chain import Call
from signer.ports.ledger import Ledger
from signer.ports.meter import Meter
from tests.extras.top_ups.treasury import LedgerTreasury
from tests.fixtures.scripted_chain import CHAIN_ID
from tests.support.keys import key_at
from tests.support.refunds import (
    OPERATOR,
    SECOND,
    THIRD,
    FakeClock,
    World,
    altered,
    altered_chain,
)


UNIT = 10**6
LOW = 99 * UNIT
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1).total_seconds()


class _Failing(Meter):
    """Keeps whether top-ups of the only token fail, after each look."""

    def __init__(self) -> None:
        self.seen: list[bool | None] = []

    def topped_up(self, network: str, asset: str, *, is_failing: bool | None) -> None:
        assert (network, asset) == ("local", "TUSD")
        self.seen.append(is_failing)


@dataclass
class System:
    """A wallet of which little is left, and its treasury."""

    world: World
    treasury: LedgerTreasury
    meter: _Failing = field(default_factory=_Failing)

    def __post_init__(self) -> None:
        self.world.change_token(top_up_below="100", top_up_to="600.5")
        assert self.world.ring
        self.world.chain.balance_left = LOW

    def record(self, *names: str) -> None:
        """Record a pass of each worker, in which the active key signed."""
        now = self.world.clock()
        active = self.world.store.active_key()
        assert active is not None
        self.world.store.prove(active.address, now)
        for number, name in enumerate(names):
            at = now + timedelta(microseconds=number)
            self.world.store.record_pass(WorkerRow(name, at, at))

    def top_ups(self, name: str = "a", **changes: Any) -> TopUps:
        """Return those of the worker *name*; *changes* are of the chain."""
        self.world.client = altered_chain(self.world.chain, **changes)
        clock = self.world.clock
        return TopUps(
            self.world.store,
            self.world.chains,
            self.treasury,
            Alerts(self.world.store, clock=clock),
            name=name,
            clock=clock,
            meter=self.meter,
        )

    def look(self, top_ups: TopUps | None = None, times: int = 1) -> list[Any]:
        """Look *times*, as the only worker; return the log."""
        top_ups = top_ups or self.top_ups()
        with capture_logs() as logs:
            for _ in range(times):
                self.record("a")
                top_ups.look()
                self.world.clock.advance(seconds=LOOK_SECONDS)
        return logs

    @property
    def amounts(self) -> list[int]:
        """The amounts of all top-ups, the newest first."""
        return [each.amount for each in self.treasury.top_ups()]

    @property
    def alerts(self) -> int:
        return self.world.store.alert_counts().get(Alert.TOP_UP_FAILING, 0)


@pytest.fixture
def system(world: World, empty: Callable[[], Ledger], clock: FakeClock) -> System:
    treasury = World(empty(), clock=clock, signer=THIRD, others=())
    return System(world, LedgerTreasury(treasury))


def _problems(logs: list[Any]) -> list[tuple[str, str, str]]:
    found = [each for each in logs if each.get("alert") == "top-up-failing"]
    return [(each["problem"], each["network"], each["asset"]) for each in found]


def test_a_low_balance_is_topped_up(system: System) -> None:
    """To the target, at the active key's address, and asked for once."""
    top_ups = system.top_ups()
    logs = system.look(top_ups, times=3)

    (refund,) = system.treasury.top_ups()
    assert refund.amount == 600_500_000 - LOW
    assert refund.recipient == system.world.signer.address
    assert refund.reason == "automatic top-up"  # Approvers see it.
    assert refund.payment_session_id == f"top-up-{CHAIN_ID}-{refund.token_address}"
    (event,) = [each for each in logs if each["event"] == "top-up-requested"]
    assert (event["amount"], event["refund_id"]) == ("501.500000", refund.id)
    assert system.meter.seen == [False] * 3
    assert system.alerts == 0


def test_a_vault_is_topped_up(system: System) -> None:
    """What the wallet holds does not matter, and the wallet gets nothing."""
    vault = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
    world = system.world
    world.network = world.network.model_copy(update={"vault": vault})

    def call(call: Call) -> bytes:
        amount = LOW if call.data == encode_balance_of(vault) else 10**12
        return amount.to_bytes(32, "big")

    system.look(system.top_ups(call=call), times=2)

    (refund,) = system.treasury.top_ups()
    assert (refund.recipient, refund.amount) == (vault, 600_500_000 - LOW)


def test_enough_asks_nothing(system: System) -> None:
    """Exactly the bound is enough; no request is sent."""
    system.world.chain.balance_left = 100 * UNIT
    system.treasury.failures = [TreasuryError("never asked")]
    system.look()

    assert system.treasury.failures
    assert system.meter.seen == [False]


def test_a_token_without_thresholds_is_left(system: System) -> None:
    system.world.change_token(top_up_below=None, top_up_to=None)
    system.look()

    assert system.amounts == []
    assert system.meter.seen == []


def test_one_top_up_an_hour(system: System) -> None:
    """Also if the first was paid and is spent: a thief gets no more."""
    top_ups = system.top_ups()
    system.look(top_ups)
    system.treasury.pay()
    system.world.chain.mine_empty(20)
    system.world.clock.advance(seconds=HOUR - 2 * LOOK_SECONDS)
    system.look(top_ups)
    assert len(system.amounts) == 1
    system.world.chain.balance_left = 50 * UNIT
    system.world.clock.advance(seconds=LOOK_SECONDS)
    system.look(top_ups)

    assert system.amounts == [550_500_000, 501_500_000]
    first, second = [key for _, key in system.treasury.asked]
    newest = system.treasury.top_ups()[1].id
    assert first.endswith("-first")
    assert second.endswith(newest)
    assert system.alerts == 0


def test_the_balance_is_read_again_before_the_second(system: System) -> None:
    """A payment that arrived meanwhile counts."""
    balances = iter([LOW, 100 * UNIT])

    def call(_: object) -> bytes:
        return next(balances).to_bytes(32, "big")

    system.look(system.top_ups(call=call))

    assert system.amounts == []


def test_a_false_list_does_not_hurry_it(system: System) -> None:
    """A treasury that calls each top-up an old one is asked once an hour."""

    def lie(*asked: Any) -> TopUp:
        system.treasury.asked += [asked] if len(asked) > 1 else []
        refund_id = new_refund_id(system.world.clock())
        return TopUp(refund_id, Status.CONFIRMED, LONG_AGO)

    top_ups = system.top_ups()
    top_ups.treasury = altered(system.treasury, newest_top_up=lie, request=lie)
    for _ in range(18):
        system.look(top_ups)
        system.world.clock.advance(minutes=10)

    assert len({key for _, key in system.treasury.asked}) == 3
    assert len(system.treasury.asked) == 3


def test_nodes_that_lag_the_newest_top_up_prove_nothing(system: System) -> None:
    """Their balance may lack it, and it would be paid twice."""
    top_ups = system.top_ups()
    system.look(top_ups)
    system.treasury.pay()
    system.world.clock.advance(seconds=HOUR)
    logs = system.look(top_ups, times=2)

    assert len(system.amounts) == 1
    assert _problems(logs) == [("nodes-lag", "local", "TUSD")]
    system.world.chain.mine_empty(20)
    system.look(top_ups)
    assert len(system.amounts) == 2


def test_a_lost_answer_is_asked_for_again(system: System) -> None:
    """With the same key, also by a worker that starts now: it is paid once."""
    system.treasury.loses_replies = True
    system.look()
    again = system.top_ups()
    again.treasury = altered(system.treasury, newest_top_up=lambda _: None)
    system.treasury.loses_replies = False
    system.look(again)

    assert len(system.treasury.asked) == 2
    assert len(set(system.treasury.asked)) == 1
    assert len(system.amounts) == 1


def test_workers_that_race_ask_for_one(system: System) -> None:
    """They see the same newest top-up, and other balances."""
    barrier = Barrier(2)
    found: list[TopUps] = []

    def newest(_: str) -> None:
        barrier.wait(30)

    for balance in (LOW, LOW - UNIT):
        answer = balance.to_bytes(32, "big")
        each = system.top_ups("a", call=lambda _, answer=answer: answer)
        each.treasury = altered(system.treasury, newest_top_up=newest)
        found.append(each)
    system.record("a")
    threads = [Thread(target=each.look) for each in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(system.treasury.asked) == 2
    assert len(system.amounts) == 1
    assert system.meter.seen == [False, False]


def test_a_worker_waits_for_its_turn(system: System) -> None:
    """The one that has run for longest asks; its first pass comes before."""
    second = system.top_ups("b")
    second.look()
    system.record("a", "b")
    second.look()

    assert system.amounts == []
    assert system.meter.seen == [None, None]


def _stop(system: System) -> None:
    system.world.holds.stop("local", OPERATOR.because("a test"))


def _pause(system: System) -> None:
    wallet = Wallet(CHAIN_ID, system.world.signer.address, 0, 0)
    system.world.store.open_wallet(wallet)
    system.world.store.pause(wallet, Pause.RESTORED, system.world.clock())


def _rotate(system: System) -> None:
    key = key_at(SECOND.address, state=KeyState.PENDING)
    system.world.store.begin_rotation(key, system.world.clock())


def _delegate(system: System) -> None:
    system.world.chain.delegated.add(system.world.signer.address)


@pytest.mark.parametrize(
    ("obstruct", "code"),
    [
        (_stop, "signing-stopped"),
        (_pause, "wallet-paused"),
        (_rotate, "rotation-in-progress"),
        (_delegate, "wallet-delegated"),
    ],
    ids=["stop", "pause", "rotation", "delegation"],
)
def test_an_unsafe_wallet_gets_nothing(
    system: System, obstruct: Callable[[System], None], code: str
) -> None:
    """It is stopped, restored, about to change, or not only the service's."""
    obstruct(system)
    logs = system.look(times=2)

    assert system.amounts == []
    held = [each["code"] for each in logs if each["event"] == "top-up-held"]
    assert held == [code, code]
    assert system.alerts == 0


@pytest.mark.parametrize("seconds", [None, 61], ids=["never", "a minute ago"])
def test_a_key_that_does_not_sign_gets_nothing(
    system: System, seconds: float | None
) -> None:
    now = system.world.clock()
    if seconds is not None:
        system.world.store.prove(system.world.signer.address, now)
        system.world.clock.advance(seconds=seconds)
    now = system.world.clock()
    system.world.store.record_pass(WorkerRow("a", now, now))
    with capture_logs() as logs:
        system.top_ups().look()

    assert [each["code"] for each in logs] == ["key-not-proved"]
    assert system.amounts == []


def test_a_new_active_key_is_topped_up(system: System) -> None:
    """After an hour; the top-up of the former address counts as the newest."""
    top_ups = system.top_ups()
    system.look(top_ups)
    system.treasury.pay()
    system.world.chain.mine_empty(20)
    system.world.rotate()
    system.world.clock.advance(seconds=HOUR)
    system.look(top_ups)

    recipients = [each.recipient for each in system.treasury.top_ups()]
    assert recipients == [SECOND.address, system.world.signer.address]


def test_an_empty_ring_asks_nothing(system: System) -> None:
    top_ups = system.top_ups()
    top_ups.ledger = altered(system.world.store, active_key=lambda: None)
    system.look(top_ups)

    assert system.amounts == []


def test_a_refusal_is_repeated_after_an_hour(system: System) -> None:
    """The alert is raised at the second look; a later request has the new amount."""
    network = system.treasury.world.network
    system.treasury.world.change_token(max_amount="500")
    top_ups = system.top_ups()
    logs = system.look(top_ups, times=3)

    assert len(system.treasury.asked) == 1
    assert _problems(logs) == [("policy-violation", "local", "TUSD")]
    assert system.meter.seen == [False, True, True]
    system.treasury.world.network = network
    system.world.clock.advance(seconds=HOUR)
    system.look(top_ups)
    assert len(system.amounts) == 1
    assert system.meter.seen[-1] is False


def test_a_treasury_that_does_not_answer_is_asked_again(system: System) -> None:
    """At the next look; one that restarts raises no alert."""
    top_ups = system.top_ups()
    system.treasury.failures = [TreasuryError("unreachable")]
    system.look(top_ups, times=2)
    assert (len(system.amounts), system.alerts) == (1, 0)
    system.world.clock.advance(seconds=2 * HOUR)
    system.treasury.failures = [TreasuryError("unreachable")] * 3
    logs = system.look(top_ups, times=3)

    assert _problems(logs) == [("unreachable", "local", "TUSD")]


def test_another_contract_is_not_asked_for(system: System) -> None:
    """The treasury has no token at this address, so names would mislead."""
    system.treasury.token = None
    logs = system.look(times=2)

    assert system.treasury.asked == []
    assert _problems(logs) == [("token-unknown", "local", "TUSD")]


def test_a_top_up_that_does_not_arrive_is_reported(system: System) -> None:
    """After an hour, with its status; no other one is asked for."""
    top_ups = system.top_ups()
    system.look(top_ups)
    system.world.clock.advance(seconds=HOUR)
    logs = system.look(top_ups, times=2)

    assert _problems(logs) == [("queued", "local", "TUSD")]
    assert len(system.amounts) == 1


def test_a_failed_top_up_is_asked_for_again_after_an_hour(system: System) -> None:
    treasury, top_ups = system.treasury, system.top_ups()
    system.look(top_ups)
    (refund,) = treasury.top_ups()
    treasury.world.cancel(refund, "shop-wallet")
    logs = system.look(top_ups, times=2)
    assert _problems(logs) == [("cancelled", "local", "TUSD")]
    assert len(system.amounts) == 1
    system.world.clock.advance(seconds=HOUR)
    system.look(top_ups)

    assert len(system.amounts) == 2


def test_our_own_nodes_are_no_problem_of_the_treasury(system: System) -> None:
    """They have alerts of their own."""
    logs = system.look(system.top_ups(call=ChainUnavailableError("down")), times=2)

    assert {(each["event"], each["code"]) for each in logs} == {
        ("top-up-look-failed", "chain-unavailable")
    }
    assert system.meter.seen == [False, False]


def test_it_looks_until_it_is_stopped(system: System) -> None:
    """A failure of one look is logged."""
    errors: Iterator[Exception] = iter([StoreUnavailableError("gone"), ValueError()])
    waits: list[float] = []

    def workers() -> object:
        raise next(errors)

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return len(waits) == 2

    top_ups = system.top_ups()
    top_ups.ledger = altered(system.world.store, workers=workers)
    with capture_logs() as logs:
        top_ups.run(wait)

    assert waits == [LOOK_SECONDS] * 2
    events = [each["event"] for each in logs]
    assert events == ["top-up-look-failed"] * 2


def test_a_low_balance_is_read_again_soon(system: System) -> None:
    """Until it is topped up."""
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) == 3:
            system.world.chain.balance_left = 600_500_000
        return len(waits) == 4

    system.record("a")
    system.top_ups().run(wait)

    assert waits == [AGAIN_SECONDS, AGAIN_SECONDS, AGAIN_SECONDS, LOOK_SECONDS]


def test_a_worker_that_starts_looks_soon(system: System) -> None:
    """Its turn comes with its first pass; that of another one may be long."""
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) == 2:
            assert system.amounts == []
            system.record("b", "a")
        return len(waits) == 4

    system.top_ups("b").run(wait)

    assert waits == [STARTING_SECONDS] * 2 + [AGAIN_SECONDS] * 2
    assert len(system.amounts) == 1


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"top_up_below": "1"}, "need each other"),
        ({"top_up_to": "1"}, "need each other"),
        ({"top_up_below": "1", "top_up_to": "1.0"}, "must be less than top_up_to"),
        ({"top_up_below": "0.0000001", "top_up_to": "1"}, "top_up_below"),
        ({"top_up_below": "1", "top_up_to": "x"}, "top_up_to"),
    ],
    ids=lambda each: each if isinstance(each, str) else " ".join(each),
)
def test_thresholds_fit_together(
    system: System, bounds: dict[str, str], message: str
) -> None:
    document = system.world.network.model_dump(exclude={"rpc_urls"})
    token = document["tokens"]["TUSD"]
    token |= {"top_up_below": None, "top_up_to": None, **bounds}

    with pytest.raises(ValueError, match=message):
        Network.model_validate({**document, "rpc_urls": ["http://127.0.0.1:8545"]})


def test_the_network_knows_its_topped_up_tokens(system: System) -> None:
    token = system.world.network.tokens["TUSD"]

    assert system.world.network.topped_up == {"TUSD": token}
    assert token.top_up == (100_000_000, 600_500_000)
    system.world.change_token(top_up_below=None, top_up_to=None)
    assert system.world.network.topped_up == {}
