"""Readiness: failures are named, hanging checks time out, results are cached."""

import io
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from structlog.testing import capture_logs

from api.health.readiness import (
    LATE,
    KeyCheck,
    KeyNotProvedError,
    NetworkLook,
    Readiness,
    ReadinessChecker,
    network_check,
    sealing_check,
    unsealed_seconds,
    worker_check,
)
from api.metrics.readings import Names
from api.metrics.worker_meter import WorkerMeter
from backends.aws_kms.backend import KMSBackend
from backends.sql import SQLStore
from dev.kms_faults import hang
from dev.kms_wire import Faults
from signer.alerts import Alert, Alerts
from signer.audit.log import AuditLog
from signer.audit.sealer import SealingAlert, SealingMonitor
from signer.chain.chain import Chain
from signer.config.settings import Role
from signer.errors import (
    BackendUnavailableError,
    EncodingError,
    HotWalletError,
    KeyUnusableError,
    RecoveryError,
    StoreUnavailableError,
)
from signer.keys.signer import Signer
from signer.model.hold import EVERYTHING
from signer.model.network_view import NetworkView
from signer.model.wallet import Pause, Wallet
from signer.model.worker_row import WorkerRow
from signer.ports.clock import utc_now
from signer.ports.key_backend import KeyDirectory, KeyId
from signer.startup.dependency_checks import check_chain
from tests.api.service import NETWORKS, container_over
from tests.api.support import NOW, SettableClock, lines
from tests.fixtures.kms import OpenKMS, Wire
from tests.fixtures.ledger import forged_end, stopped
from tests.fixtures.postgresql import PostgreSQL
from tests.fixtures.scripted_chain import CHAIN_ID, DECIMALS, TOKEN, ScriptedChain
from tests.support.audit import record
from tests.support.devices import Device, honest, signer_over
from tests.support.keys import key_at, key_of, made_active
from tests.support.ledgers import open_ledger, seal
from tests.support.refunds import CUSTOMER, KEY
from tests.support.waiting import Timer, eventually


NETWORK = NETWORKS["local"].model_copy(
    update={
        "chain_id": CHAIN_ID,
        "tokens": {
            "TUSD": NETWORKS["local"]
            .tokens["TUSD"]
            .model_copy(update={"address": TOKEN, "decimals": DECIMALS})
        },
    }
)
KEY_ADDRESS = signer_over(honest(KEY)).address
CHAINS = {"local": Chain(NETWORK, ScriptedChain())}
IN_TIME = 8.0
"""
Seconds until an answer, on a machine that may be delayed for some seconds.

``LATE`` in the answer shows that the checker did not wait for the check's result.
"""


class Counted:
    """A check that counts its calls, and raises *error* if there is one."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked = 0

    def __call__(self) -> None:
        self.asked += 1
        if self.error is not None:
            raise self.error


class System:
    """A real ledger, a real KMS client, and a readiness checker over them."""

    def __init__(
        self,
        store: SQLStore,
        backend: KMSBackend,
        key: KeyId,
        chains: Mapping[str, Chain] = CHAINS,
    ) -> None:
        audit = AuditLog(structlog.get_logger("audit"), journal=store)
        signer = Signer.open(backend, key, audit)
        self.store = store
        self.signer = signer
        store.enrol(key_of(signer))
        store.prove(signer.address, utc_now())
        store.record_pass(WorkerRow("a", utc_now(), utc_now()))
        checker = container_over(store, backend, chains).readiness
        assert isinstance(checker, ReadinessChecker)
        self.checker = checker

    def timed(self) -> tuple[Readiness, float]:
        began = time.monotonic()
        answer = self.checker()
        return answer, time.monotonic() - began


@pytest.fixture
def system(sqlite_store: SQLStore, open_kms: OpenKMS, kms_key: KeyId) -> System:
    return System(sqlite_store, open_kms(), kms_key)


def test_everything_is_checked_and_healthy(system: System) -> None:
    answer = system.checker()

    assert answer == Readiness(
        dict.fromkeys(
            [
                "database",
                "signing",
                "audit",
                "worker",
                "network-local",
                "wallet-local",
                "key",
                "guard",
            ],
            "ok",
        ),
        system.signer.address,
        1,
    )
    assert (answer.ready, answer.degraded) == (True, False)


@pytest.mark.parametrize("needs_key", [True, False])
def test_administrators_need_no_key(*, needs_key: bool) -> None:
    """Their process is ready while the key does not sign, and not without database."""
    failing = Readiness({"key": "backend-throttled"}, needs_key=needs_key)
    down = Readiness({"database": "store-unavailable"}, needs_key=needs_key)

    assert (failing.ready, failing.degraded) == (not needs_key, True)
    assert not down.ready


@pytest.mark.parametrize("is_changed", [False, True])
def test_a_stop_is_shown_and_leaves_the_process_ready(
    system: System, *, is_changed: bool
) -> None:
    """It accepts refunds; a row of another program must not close all hosts either."""
    stopped(system.store, EVERYTHING)
    if is_changed:
        forged_end(system.store)
    answer = system.checker()

    assert (answer.checks["signing"], answer.checks["key"]) == ("signing-stopped", "ok")
    assert (answer.ready, answer.degraded) == (True, True)


def test_a_kms_that_hangs(system: System, kms_faults: Faults) -> None:
    """The check is late within 5 s, raises one alert and delays no other check."""
    kms_faults.always("Sign", hang())

    answer, seconds = system.timed()
    again, more = system.timed()

    assert answer.checks == {**dict.fromkeys(answer.checks, "ok"), "key": LATE}
    assert seconds < IN_TIME
    assert again is answer
    assert more < 3  # Another round takes longer.
    assert eventually(lambda: system.store.alert_counts() == {"key-unhealthy": 1})


def test_a_database_that_hangs(open_kms: OpenKMS, kms_key: KeyId) -> None:
    """
    Checks that need it are late within 5 s; the key is not reported as unhealthy.

    All checks recover with it.
    """
    with (
        tempfile.TemporaryDirectory(prefix="hotwallet-pg-") as folder,
        PostgreSQL(Path(folder)) as server,
    ):
        store = open_ledger(server.url(server.create()))
        store.migrate()
        system = System(store, open_kms(), kms_key)
        before = system.checker()
        system.checker._until = float("-inf")  # The kept answer has expired.
        with server.frozen(), ThreadPoolExecutor(8) as callers:
            answers = list(callers.map(lambda _: system.timed(), range(8)))
        recovered = eventually(lambda: _check_again(system.checker).ready)
        alerts = store.alert_counts()
        store.close()

    assert max(seconds for _, seconds in answers) < IN_TIME
    # On a delayed machine, a caller that waits for another's round may time out, and
    # return the previous answer.
    given = {id(answer): answer for answer, _ in answers if answer is not before}
    (answer,) = given.values()
    assert answer.checks["database"] == LATE
    assert answer.checks["audit"] == LATE
    assert answer.checks["network-local"] == LATE  # Workers' rows are there.
    assert answer.address is None
    assert recovered
    assert alerts == {}


def _check_again(checker: ReadinessChecker) -> Readiness:
    checker._until = float("-inf")
    return checker()


def test_callers_share_a_round(system: System, wire: Wire) -> None:
    """Twenty concurrent requests cost one signature."""
    with ThreadPoolExecutor(20) as callers:
        answers = list(callers.map(lambda _: system.checker(), range(20)))

    assert len({id(answer) for answer in answers}) == 1
    assert wire().count("Sign") == 1


def _build_checker(
    key: Callable[[], object] | None = None,
    *,
    seconds: float = 10.0,
    **checks: Callable[[], object],
) -> tuple[ReadinessChecker, Timer]:
    """
    Return a checker with its own timer; *key* is the self-test.

    A round waits for *seconds* of real time.
    """
    timer = Timer()
    key_check = KeyCheck(key or Counted(), lambda: (None, None), Alerts(), timer=timer)
    return ReadinessChecker(
        checks, key_check, lambda: None, answer_seconds=seconds, timer=timer
    ), timer


def test_an_answer_is_kept_for_three_seconds() -> None:
    database = Counted()
    checker, timer = _build_checker(database=database)

    counts = []
    for _ in range(8):
        checker()
        counts.append(database.asked)
        timer.now += 1

    assert counts == [1, 1, 1, 2, 2, 2, 3, 3]


def test_errors_are_reported_by_their_code() -> None:
    """Each check reports its error's code; a bug in a check is internal-error."""
    checker, _ = _build_checker(
        database=Counted(StoreUnavailableError("no")), network=Counted(ValueError("x"))
    )
    with capture_logs() as events:
        answer = checker()

    assert answer.checks == {
        "database": "store-unavailable",
        "network": "internal-error",
        "key": "ok",
        "guard": "ok",
    }
    assert not answer.ready
    assert [event["event"] for event in events] == ["probe-failed"]


def test_a_refusal_of_the_guard_is_reported() -> None:
    wrong = Chain(NETWORK.model_copy(update={"chain_id": 1}), ScriptedChain())

    checker, _ = _build_checker(
        wrong=partial(check_chain, "wrong", wrong.network, wrong.client)
    )

    assert checker().checks["wrong"] == "chain-misconfigured"


def test_a_check_that_hangs_costs_one_thread() -> None:
    released = threading.Event()
    checker, timer = _build_checker(stuck=released.wait, seconds=0.5)
    for _ in range(20):
        checker()
        timer.now += 3
    stuck = [t for t in threading.enumerate() if t.name == "deadline-stuck"]
    released.set()

    assert len(stuck) == 1
    assert eventually(lambda: _check_again(checker).ready)


class RecordingAlerts(Alerts):
    def __init__(self) -> None:
        super().__init__()
        self.raised: list[tuple[Alert, object]] = []

    def sound(self, alert: Alert, **facts: str | int | None) -> None:
        self.raised.append((alert, facts["code"]))

    def reaches(self, count: int) -> bool:
        """Whether *count* alerts are raised soon; they come from a thread."""
        return eventually(lambda: len(self.raised) == count)


def _outcome(key_check: KeyCheck) -> str:
    try:
        key_check()
    except HotWalletError as e:
        return e.code
    return "ok"


DISABLED, DOWN = KeyUnusableError("disabled"), StoreUnavailableError("no")
UNREACHED, OTHER_KEY = BackendUnavailableError("no"), RecoveryError("another")

UNHEALTHY = (Alert.KEY_UNHEALTHY, "key-unusable")

# Seconds since the step before; how a refund's signature ended a second ago, if there
# was one; the device's error; what the check reports; and its self-tests so far.
Step = tuple[float, str, HotWalletError | None, str, int]

KEY_CHECKS: dict[str, tuple[list[Step], list[tuple[Alert, str]]]] = {
    # A call of the device costs money.
    "a healthy key is tested twice an hour": (
        [(0, "", None, "ok", 1), (1799, "", None, "ok", 1), (1, "", None, "ok", 2)],
        [],
    ),
    "a key that signs refunds is not tested": (
        [
            (0, "", None, "ok", 1),
            (1799, "signed", None, "ok", 1),
            (1799, "signed", None, "ok", 1),
        ],
        [],
    ),
    # However recent the last test was.
    "a signature that fails is followed by a self-test": (
        [
            (0, "", None, "ok", 1),
            (60, "failed", DISABLED, "key-unusable", 2),
            (5, "", None, "ok", 3),
            (0, "", None, "ok", 3),
        ],
        [UNHEALTHY],
    ),
    "a failed self-test is repeated after five seconds": (
        [
            (0, "", DISABLED, "key-unusable", 1),
            (4, "", DISABLED, "key-unusable", 1),
            (1, "", DISABLED, "key-unusable", 2),
            (4, "", None, "key-unusable", 2),
            (1, "", None, "ok", 3),
            (1, "", None, "ok", 3),
        ],
        [UNHEALTHY],
    ),
    "a signature of a refund ends the failure": (
        [
            (0, "", UNREACHED, "backend-unavailable", 1),
            (2, "signed", UNREACHED, "ok", 1),
        ],
        [(Alert.KEY_UNHEALTHY, "backend-unavailable")],
    ),
    "the next alert follows a recovery": (
        [
            *((2000, "", DISABLED, "key-unusable", number) for number in (1, 2, 3)),
            (2000, "", None, "ok", 4),
            (2000, "", DISABLED, "key-unusable", 5),
        ],
        [UNHEALTHY, UNHEALTHY],
    ),
    "a signature by another key has its own alert": (
        [
            (0, "", UNREACHED, "backend-unavailable", 1),
            (10, "", OTHER_KEY, "signature-recovery", 2),
        ],
        [
            (Alert.KEY_UNHEALTHY, "backend-unavailable"),
            (Alert.KEY_MISMATCH, "signature-recovery"),
        ],
    ),
    "so has one that is malformed": (
        [(0, "", EncodingError("none"), "signature-encoding", 1)],
        [(Alert.KEY_MISMATCH, "signature-encoding")],
    ),
    # It is over at once: the key was not tested, so the check does not wait.
    "a database failure is not an unhealthy key": (
        [(0, "", DOWN, "store-unavailable", 1), (0, "", None, "ok", 2)],
        [],
    ),
    # The key stays unhealthy until it signs.
    "a database failure in between raises no second alert": (
        [
            (0, "", DISABLED, "key-unusable", 1),
            (40, "", DOWN, "store-unavailable", 2),
            (40, "", DISABLED, "key-unusable", 3),
            (40, "", DOWN, "store-unavailable", 4),
            (40, "", None, "ok", 5),
        ],
        [UNHEALTHY],
    ),
}


@pytest.mark.parametrize("name", KEY_CHECKS)
def test_the_check_of_the_key(name: str) -> None:
    """``key-recovered`` is logged when an unhealthy key signs again."""
    steps, expected = KEY_CHECKS[name]
    key, timer, alerts = Counted(), Timer(), RecordingAlerts()
    results: dict[str, float | None] = {"signed": None, "failed": None}
    key_check = KeyCheck(
        key, lambda: (results["signed"], results["failed"]), alerts, timer=timer
    )
    found = []
    with capture_logs() as events:
        for seconds, result, error, _, _ in steps:
            timer.now += seconds
            if result:
                results[result] = timer.now - 1
            key.error = error
            found.append((_outcome(key_check), key.asked))

    assert found == [(outcome, asked) for *_, outcome, asked in steps]
    assert alerts.reaches(len(expected))
    assert sorted(alerts.raised, key=str) == sorted(expected, key=str)
    if name == "the next alert follows a recovery":
        assert [each["event"] for each in events] == ["key-recovered"]


def test_a_key_that_cannot_be_opened_is_unhealthy() -> None:
    key, timer, alerts = Counted(), Timer(), RecordingAlerts()
    gone: Any = Counted(DISABLED)
    key_check = KeyCheck(key, gone, alerts, timer=timer)
    outcomes = set()
    for _ in range(5):
        outcomes.add(_outcome(key_check))
        timer.now += 3

    assert outcomes == {"key-unusable"}
    assert alerts.reaches(1)
    assert key.asked == 0


@pytest.fixture
def monitor(clock: SettableClock) -> SealingMonitor:
    timer = lambda: clock().timestamp()  # noqa: E731
    return SealingMonitor(SealingAlert(Alerts(clock=clock)), timer)


@pytest.mark.parametrize(
    ("age", "answer", "alerts"),
    [
        (19, "ok", []),
        (21, "ok", ["audit-sealing-late"]),
        (899, "ok", ["audit-sealing-late"]),
        (901, "audit-sealing-late", ["audit-sealing-late"]),
    ],
)
def test_late_sealing_is_an_alert_before_readiness_fails(
    *,
    sqlite_store: SQLStore,
    monitor: SealingMonitor,
    clock: SettableClock,
    log: io.StringIO,
    age: int,
    answer: str,
    alerts: list[str],
) -> None:
    sqlite_store.append([record(at=NOW)])
    check = sealing_check(
        sqlite_store.oldest_unsealed, monitor, max_seconds=900, clock=clock
    )
    check()
    clock.advance(age)
    checker, _ = _build_checker(audit=check)

    assert checker().checks["audit"] == answer
    assert [line["alert"] for line in lines(log) if "alert" in line] == alerts


def test_sealed_records_are_never_late(
    sqlite_store: SQLStore, monitor: SealingMonitor
) -> None:
    sqlite_store.append([record(at=NOW)])
    seal(sqlite_store)
    clock = SettableClock(NOW + timedelta(days=365))

    sealing_check(sqlite_store.oldest_unsealed, monitor, max_seconds=900, clock=clock)()
    assert unsealed_seconds(sqlite_store.oldest_unsealed(), clock) == 0


def test_a_writer_whose_clock_is_ahead_is_not_late() -> None:
    waiting = record(at=utc_now() + timedelta(hours=1)).id

    assert unsealed_seconds(waiting) == 0


@dataclass(frozen=True)
class Process:
    """A process of a role, with a clock and with a node and a device that count."""

    checker: ReadinessChecker
    clock: SettableClock
    node: ScriptedChain
    device: Device


@pytest.fixture
def start(sqlite_store: SQLStore) -> Callable[[Role], Process]:
    """A function that returns a process of a role, whose key is active."""

    def start(role: Role) -> Process:
        device, node, clock = honest(KEY), ScriptedChain(), SettableClock()
        sqlite_store.enrol(key_of(signer_over(device)))
        container = container_over(
            sqlite_store,
            cast("KeyDirectory", device),
            {"local": Chain(NETWORK, node)},
            clock=clock,
        )
        settings = container.settings
        container.settings = settings.model_copy(update={"serve_role": role})
        checker = container.readiness
        assert isinstance(checker, ReadinessChecker)
        device.calls = 0
        return Process(checker, clock, node, device)

    return start


Start = Callable[[Role], Process]
EVERY = {"database", "signing", "audit", "guard", "worker", "wallet-local"}


@pytest.mark.parametrize(
    ("role", "names"),
    [
        (Role.REFUNDS, EVERY),
        (Role.ADMIN, EVERY | {"key", "network-local"}),
        (Role.ALL, EVERY | {"key", "network-local"}),
    ],
)
def test_a_role_checks_what_it_needs(
    start: Start, sqlite_store: SQLStore, role: Role, names: set[str]
) -> None:
    """A process that accepts refunds needs a worker; one that has the key tests it."""
    process = start(role)
    sqlite_store.prove(KEY_ADDRESS, process.clock())
    _pass(sqlite_store, process)
    answer = process.checker()

    assert answer.checks == dict.fromkeys(names, "ok")
    assert answer.ready
    assert (answer.address, answer.epoch) == (KEY_ADDRESS, 1)
    assert (process.device.calls > 0) == ("key" in names)
    assert process.node.calls.total() == 0  # A probe costs no call of a node.


def _looked(store: SQLStore, process: "Process", **view: Any) -> None:
    """Record what the worker saw of the network, a second later each time."""
    at = process.clock()
    meter = WorkerMeter(Names({"local"}, ()))
    meter.looked("local", NetworkView((), at=at, **view))
    store.record_pass(WorkerRow("looks", at, at, meter.text()))


def test_a_wallet_with_delegated_code_is_not_ready(
    start: Start, sqlite_store: SQLStore
) -> None:
    """T7: until a worker sees that the active key's address has no code again."""
    process = start(Role.ALL)
    sqlite_store.prove(KEY_ADDRESS, process.clock())
    _looked(sqlite_store, process, is_delegated=True)
    found = process.checker()
    _looked(sqlite_store, process, is_delegated=False)
    again = _check_again(process.checker)

    assert found.checks["wallet-local"] == "wallet-delegated"
    assert not found.ready
    assert again.ready


@pytest.mark.parametrize("role", [Role.ADMIN, Role.ALL])
@pytest.mark.parametrize("problem", ["chain-unavailable", "chain-misconfigured"])
def test_a_network_is_as_ready_as_a_worker_saw_it(
    start: Start, sqlite_store: SQLStore, role: Role, problem: str
) -> None:
    """The code of its problem is reported until a newer look finds none."""
    process = start(role)
    sqlite_store.prove(KEY_ADDRESS, process.clock())
    _looked(sqlite_store, process, problem=problem)
    found = process.checker()
    _looked(sqlite_store, process)
    again = _check_again(process.checker)

    assert (found.ready, found.checks["network-local"]) == (False, problem)
    assert (again.ready, again.checks["network-local"]) == (True, "ok")


def test_an_old_look_at_a_network_is_not_ready() -> None:
    """Neither is none, some time after the start; without a worker, refunds wait."""
    clock, timer = SettableClock(), Timer()
    looks: dict[str, NetworkLook] = {}
    rows = [WorkerRow("a", clock(), clock())]
    check = network_check("local", lambda: rows, lambda _: looks, clock, timer=timer)
    found = [_code(check)]
    timer.now += 121
    found.append(_code(check))
    looks["local"] = NetworkLook(clock() - timedelta(seconds=120))
    found.append(_code(check))
    looks["local"] = NetworkLook(clock() - timedelta(seconds=121))
    found.append(_code(check))
    rows.clear()
    found.append(_code(check))

    stale = "chain-unavailable"
    assert found == ["ok", stale, "ok", stale, "worker-stopped"]


def _code(check: Callable[[], None]) -> str:
    try:
        check()
    except HotWalletError as e:
        return e.code
    return "ok"


@pytest.mark.parametrize("role", [Role.REFUNDS, Role.ADMIN, Role.ALL])
def test_a_paused_wallet_is_shown_and_leaves_the_process_ready(
    start: Start, sqlite_store: SQLStore, role: Role
) -> None:
    """New refunds wait: no load balancer must take all hosts out, but it is no "ok"."""
    process = start(role)
    sqlite_store.prove(KEY_ADDRESS, process.clock())
    _pass(sqlite_store, process)
    paused_at = process.clock()
    for sender, reason in ((KEY_ADDRESS, None), (CUSTOMER, Pause.CHAIN_AHEAD)):
        at = None if reason is None else paused_at
        sqlite_store.open_wallet(Wallet(CHAIN_ID, sender, 0, 0, reason, at))
    before = process.checker()
    wallet = sqlite_store.wallet(CHAIN_ID, KEY_ADDRESS)
    assert wallet is not None
    sqlite_store.pause(wallet, Pause.CHAIN_AHEAD, paused_at)
    paused = _check_again(process.checker)

    assert before.checks["wallet-local"] == "ok"
    assert not before.degraded
    assert paused.checks["wallet-local"] == "wallet-paused"
    assert (paused.ready, paused.degraded) == (True, True)


def _pass(store: SQLStore, process: Process, seconds: float = 0) -> None:
    at = process.clock() - timedelta(seconds=seconds)
    store.record_pass(WorkerRow(f"{seconds} ago", at, at))


@pytest.mark.parametrize("role", [Role.REFUNDS, Role.ALL, Role.ADMIN])
@pytest.mark.parametrize(
    ("passes", "check"),
    [([], "worker-stopped"), ([20.001], "worker-stopped"), ([20], "ok")],
)
def test_without_a_worker_a_host_stays_ready(
    start: Start,
    sqlite_store: SQLStore,
    role: Role,
    passes: Sequence[float],
    check: str,
) -> None:
    """What it accepts waits: no load balancer must take all hosts out (ADR 77)."""
    process = start(role)
    sqlite_store.prove(KEY_ADDRESS, process.clock() - timedelta(days=1))
    if check == "ok":
        sqlite_store.prove(KEY_ADDRESS, process.clock())
    for seconds in passes:
        _pass(sqlite_store, process, seconds)
    answer = process.checker()

    assert answer.checks["worker"] == check
    assert (answer.ready, answer.degraded) == (True, check != "ok")


def test_one_worker_that_stops_is_shown_beside_others(
    start: Start, sqlite_store: SQLStore
) -> None:
    process = start(Role.REFUNDS)
    sqlite_store.prove(KEY_ADDRESS, process.clock())
    began = process.clock() - timedelta(days=1)
    for name, seconds in (("a", 21), ("b", 1)):
        passed = process.clock() - timedelta(seconds=seconds)
        sqlite_store.record_pass(WorkerRow(name, began, passed))
    answer = process.checker()

    assert answer.checks["worker"] == "worker-stopped"
    assert answer.ready


@pytest.mark.parametrize("role", [Role.REFUNDS, Role.ALL])
@pytest.mark.parametrize(
    ("seconds", "check"),
    [
        (None, "key-not-proved"),
        (60.001, "key-not-proved"),
        (86_400, "key-not-proved"),
        (60, "ok"),
        (0, "ok"),
    ],
)
def test_refunds_need_a_worker_that_proves_the_key(
    start: Start,
    sqlite_store: SQLStore,
    role: Role,
    seconds: float | None,
    check: str,
) -> None:
    """A proof is good for a minute; without one the process is not ready."""
    process = start(role)
    _pass(sqlite_store, process)
    if seconds is not None:
        sqlite_store.prove(KEY_ADDRESS, process.clock() - timedelta(seconds=seconds))
    answer = process.checker()

    assert answer.checks["worker"] == check
    assert answer.ready == (check == "ok")


def test_refunds_need_an_active_key(sqlite_store: SQLStore) -> None:
    """Before the first worker has started there is none."""
    with pytest.raises(KeyNotProvedError, match="no worker"):
        worker_check(sqlite_store.workers, sqlite_store.active_key, SettableClock())()


def test_a_new_active_key_needs_a_proof_of_its_own(
    start: Start, sqlite_store: SQLStore
) -> None:
    """After a rotation, until a worker has signed with the new key."""
    process = start(Role.REFUNDS)
    other = key_at("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
    sqlite_store.prove(KEY_ADDRESS, process.clock())
    _pass(sqlite_store, process)
    made_active(sqlite_store, other)
    check = worker_check(sqlite_store.workers, sqlite_store.active_key, process.clock)
    with pytest.raises(KeyNotProvedError):
        check()
    sqlite_store.prove(KEY_ADDRESS, process.clock())  # It is not the active key.
    with pytest.raises(KeyNotProvedError):
        check()
    sqlite_store.prove(other.address, process.clock())

    check()


def test_the_active_key_is_reported_after_a_rotation(system: System) -> None:
    other = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
    made_active(system.store, key_at(other))

    answer = system.checker()

    assert (answer.address, answer.epoch) == (other, 2)
