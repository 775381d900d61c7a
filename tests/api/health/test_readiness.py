"""Readiness: what ails is named, nothing that hangs is waited for, little is asked."""

import io
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from api.health.key_check import KeyCheck
from api.health.readiness import (
    ANSWER_SECONDS,
    LATE,
    PATIENCE_SECONDS,
    Readiness,
    ReadinessChecker,
    sealing,
    unsealed_seconds,
)
from backends.aws_kms import KMSBackend
from backends.json_rpc import JSONRPCChain
from backends.sql import SQLStore
from dev.kms_faults import disabled, hang, other_key
from dev.kms_wire import Faults
from signer.alerts import Alert, Alerts
from signer.audit.log import AuditLog
from signer.audit.sealing_monitor import SealingAlert, SealingMonitor
from signer.chain.chain import Chain
from signer.errors import (
    BackendUnavailableError,
    EncodingError,
    HotWalletError,
    KeyUnusableError,
    RecoveryError,
    StoreUnavailableError,
)
from signer.keys.signer import Signer
from signer.ports import KeyId, utc_now
from signer.startup.guard import check_chain
from tests.api.service import NETWORKS, container_over
from tests.api.support import NOW, SettableClock, lines
from tests.fixtures.kms import OpenKMS, Wire
from tests.fixtures.postgresql import PostgreSQL
from tests.fixtures.scripted_chain import CHAIN_ID, DECIMALS, TOKEN, ScriptedChain
from tests.support.audit import record
from tests.support.keys import key_at, key_of, made_active
from tests.support.waiting import eventually


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
CHAINS = {"local": Chain(NETWORK, ScriptedChain())}
IN_TIME = 8.0
"""
By when an answer is there, on a machine that stands still for some seconds.

What is waited for says ``LATE``, and not what it came to: that tells it from a prober
that waits until the end.
"""


class Time:
    """A timer that stands still until it is told to move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time, in seconds."""
        return self.now


class Counted:
    """A check that counts how often it was asked, and fails with *error*."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked = 0

    def __call__(self) -> None:
        """Do as told."""
        self.asked += 1
        if self.error is not None:
            raise self.error


class System:
    """A real ledger, a real KMS client, and a prober over them."""

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
        prober = container_over(store, backend, chains).readiness
        assert isinstance(prober, ReadinessChecker)
        self.prober = prober

    def timed(self) -> tuple[Readiness, float]:
        """Return the prober's answer, and the seconds that it took."""
        began = time.monotonic()
        answer = self.prober()
        return answer, time.monotonic() - began


@pytest.fixture
def system(sqlite_store: SQLStore, open_kms: OpenKMS, kms_key: KeyId) -> System:
    """A system whose key is in KMS, with production's timeouts."""
    return System(sqlite_store, open_kms(), kms_key)


@pytest.fixture
def silent_node() -> Iterator[str]:
    """The URL of a node that takes every connection, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def _stopped(server: PostgreSQL) -> Iterator[None]:
    """Stop every process of *server* as a machine that hangs does."""
    master = int((server._data / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    pids = [master, *map(int, children)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_everything_is_asked_and_well(system: System) -> None:
    """Database, key, audit, guard and each network are ok, and the key is named."""
    answer = system.prober()

    assert answer == Readiness(
        dict.fromkeys(["database", "audit", "network-local", "key", "guard"], "ok"),
        system.signer.address,
        1,
    )
    assert answer.ready


def test_a_kms_that_hangs(system: System, kms_faults: Faults) -> None:
    """It is reported as late within 5 s, once as an alert, and stands in no way."""
    kms_faults.always("Sign", hang())

    answer, seconds = system.timed()
    again, more = system.timed()

    assert answer.checks == {**dict.fromkeys(answer.checks, "ok"), "key": LATE}
    assert seconds < IN_TIME
    assert again is answer
    assert more < 3  # To ask again takes longer.
    assert eventually(lambda: system.store.alert_counts() == {"key-unhealthy": 1})


def test_a_node_that_hangs(
    sqlite_store: SQLStore, open_kms: OpenKMS, kms_key: KeyId, silent_node: str
) -> None:
    """It is reported as late within 5 s, and another network is not touched."""
    silent = JSONRPCChain([silent_node], timeout=30.0, chain_id=CHAIN_ID)
    system = System(
        sqlite_store,
        open_kms(),
        kms_key,
        {**CHAINS, "silent": Chain(NETWORK, silent)},
    )

    answer, seconds = system.timed()

    assert answer.checks == {
        **dict.fromkeys(answer.checks, "ok"),
        "network-silent": LATE,
    }
    assert seconds < IN_TIME
    assert system.store.alert_counts() == {}


def test_a_database_that_hangs(open_kms: OpenKMS, kms_key: KeyId) -> None:
    """
    What needs it is late within 5 s, whoever asks; the key is not called unhealthy.

    Once it is back, so is everything.
    """
    with (
        tempfile.TemporaryDirectory(prefix="hotwallet-pg-") as folder,
        PostgreSQL(Path(folder)) as server,
    ):
        store = SQLStore(server.url(server.create()))
        store.migrate()
        system = System(store, open_kms(), kms_key)
        before = system.prober()
        system.prober._until = float("-inf")  # As if three seconds were over.
        with _stopped(server), ThreadPoolExecutor(8) as callers:
            answers = list(callers.map(lambda _: system.timed(), range(8)))
        recovered = eventually(lambda: _afresh(system.prober).ready)
        alerts = store.alert_counts()
        store.close()

    assert max(seconds for _, seconds in answers) < IN_TIME
    # On a machine that stands still, who waits for another's round may give it up, and
    # tell what was known before.
    told = {id(answer): answer for answer, _ in answers if answer is not before}
    (answer,) = told.values()
    assert answer.checks["database"] == LATE
    assert answer.checks["audit"] == LATE
    assert answer.checks["network-local"] == "ok"
    assert answer.address is None
    assert recovered
    assert alerts == {}


def _afresh(asked: ReadinessChecker) -> Readiness:
    asked._until = float("-inf")
    return asked()


def test_what_is_waited_for_leaves_a_second() -> None:
    """Who asks first waits less than who comes meanwhile, and neither for the 5 s."""
    assert ANSWER_SECONDS < PATIENCE_SECONDS <= 4


def test_callers_share_a_round(system: System, wire: Wire) -> None:
    """Twenty balancers at once cost one signature, and get one answer."""
    with ThreadPoolExecutor(20) as callers:
        answers = list(callers.map(lambda _: system.prober(), range(20)))

    assert len({id(answer) for answer in answers}) == 1
    assert wire().count("Sign") == 1


def _prober(
    key: Callable[[], object] | None = None,
    *,
    seconds: float = 10.0,
    **checks: Callable[[], object],
) -> tuple[ReadinessChecker, Time]:
    """
    Return a prober with a timer of its own, and a key that only *key* says of.

    A round waits for *seconds* of the real time.
    """
    timer = Time()
    watch = KeyCheck(key or Counted(), lambda: None, Alerts(), timer=timer)
    return ReadinessChecker(
        checks, watch, lambda: None, answer_seconds=seconds, timer=timer
    ), timer


def test_an_answer_is_kept_for_three_seconds() -> None:
    """However often it is asked for, the dependencies are asked every 3 s."""
    database = Counted()
    asked, timer = _prober(database=database)

    counts = []
    for _ in range(8):
        asked()
        counts.append(database.asked)
        timer.now += 1

    assert counts == [1, 1, 1, 2, 2, 2, 3, 3]


def test_errors_are_told_by_their_code() -> None:
    """The code of each error stands under its name, and a bug is not well."""
    asked, _ = _prober(
        database=Counted(StoreUnavailableError("no")), network=Counted(ValueError("x"))
    )
    with capture_logs() as events:
        answer = asked()

    assert answer.checks == {
        "database": "store-unavailable",
        "network": "internal-error",
        "key": "ok",
        "guard": "ok",
    }
    assert not answer.ready
    assert [event["event"] for event in events] == ["probe-failed"]


def test_the_guards_refusal_is_told() -> None:
    """A node that changed to another chain is named as the guard would."""
    wrong = Chain(NETWORK.model_copy(update={"chain_id": 1}), ScriptedChain())

    asked, _ = _prober(wrong=partial(check_chain, "wrong", wrong.network, wrong.client))

    assert asked().checks["wrong"] == "chain-misconfigured"


def test_what_hangs_costs_one_thread() -> None:
    """Rounds go on at their pace while a check hangs, and do not pile up threads."""
    released = threading.Event()
    asked, timer = _prober(stuck=released.wait, seconds=0.5)
    for _ in range(20):
        asked()
        timer.now += 3
    stuck = [t for t in threading.enumerate() if t.name == "deadline-stuck"]
    released.set()

    assert len(stuck) == 1
    assert eventually(lambda: _afresh(asked).ready)


def _watch(
    key: Callable[[], object], signed_at: Callable[[], float | None] = lambda: None
) -> tuple[KeyCheck, Time, "Bell"]:
    timer, bell = Time(), Bell()
    return KeyCheck(key, signed_at, bell, timer=timer), timer, bell


class Bell(Alerts):
    """Alerts that are only remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.rung: list[tuple[Alert, dict[str, Any]]] = []

    def sound(self, alert: Alert, **facts: str | int | None) -> None:
        """Remember it."""
        self.rung.append((alert, facts))

    def comes_to(self, count: int) -> bool:
        """Say whether so many are rung soon: they are rung from a thread."""
        return eventually(lambda: len(self.rung) == count)


def _outcome(watch: KeyCheck) -> str:
    try:
        watch()
    except HotWalletError as e:
        return e.code
    return "ok"


def test_a_healthy_key_is_asked_every_thirty_seconds() -> None:
    """Rounds every 3 s for two minutes cost four signatures, 30 s apart."""
    key = Counted()
    watch, timer, _ = _watch(key)
    asked_at = []
    for _ in range(40):
        before = key.asked
        watch()
        if key.asked > before:
            asked_at.append(timer.now - 1000)
        timer.now += 3

    assert asked_at == [0, 30, 60, 90]


def test_a_key_that_signs_anyway_is_not_asked() -> None:
    """A busy process never signs for the sake of its health."""
    key = Counted()
    signed: list[float] = []
    watch, timer, _ = _watch(key, lambda: signed[-1] if signed else None)
    watch()
    for _ in range(100):
        timer.now += 3
        signed.append(timer.now - 1)
        watch()

    assert key.asked == 1


def test_a_key_that_failed_is_asked_again_after_five_seconds() -> None:
    """Until then the failure stands, and once it signs all is well."""
    key = Counted(KeyUnusableError("disabled"))
    watch, timer, _ = _watch(key)
    outcomes = []
    for second in range(12):
        if second == 7:
            key.error = None
        outcomes.append((_outcome(watch), key.asked))
        timer.now += 1

    assert outcomes == [
        *[("key-unusable", 1)] * 5,
        *[("key-unusable", 2)] * 5,
        *[("ok", 3)] * 2,
    ]


def test_a_real_signature_heals() -> None:
    """Whoever paid with the key in the meantime has proved it."""
    key = Counted(BackendUnavailableError("no"))
    signed: list[float] = []
    watch, timer, _ = _watch(key, lambda: signed[-1] if signed else None)
    first = _outcome(watch)
    timer.now += 2
    signed.append(timer.now - 1)

    assert (first, _outcome(watch), key.asked) == ("backend-unavailable", "ok", 1)


def test_an_alert_for_each_turn_for_the_worse() -> None:
    """Ten failures in a row ring once, and again only after the key was well."""
    key = Counted(KeyUnusableError("disabled"))
    watch, timer, bell = _watch(key)
    with capture_logs() as events:
        for turn in range(2):
            key.error = KeyUnusableError("disabled")
            for _ in range(10):
                _outcome(watch)
                timer.now += 40
            key.error = None
            _outcome(watch)
            timer.now += 40
            assert bell.comes_to(turn + 1)

    assert bell.rung == [(Alert.KEY_UNHEALTHY, {"code": "key-unusable"})] * 2
    recovered = [e for e in events if e["event"] == "key-recovered"]
    assert [event["code"] for event in recovered] == ["key-unusable"] * 2


@pytest.mark.parametrize("error", [RecoveryError("another"), EncodingError("none")])
def test_another_keys_signature_is_an_alert_of_its_own(error: HotWalletError) -> None:
    """A device that gives no signature of ours rings louder, though it was ill."""
    key = Counted(BackendUnavailableError("no"))
    watch, timer, bell = _watch(key)
    _outcome(watch)
    assert bell.comes_to(1)
    timer.now += 10
    key.error = error
    _outcome(watch)

    assert bell.comes_to(2)
    assert [alert for alert, _ in bell.rung] == [
        Alert.KEY_UNHEALTHY,
        Alert.KEY_MISMATCH,
    ]


def test_a_key_that_cannot_be_asked_is_not_unhealthy() -> None:
    """Without its record no signature is asked for: the database is ill."""
    watch, _, bell = _watch(Counted(StoreUnavailableError("no")))

    assert _outcome(watch) == "store-unavailable"
    assert bell.rung == []


def test_a_database_that_fails_in_between_rings_no_second_time() -> None:
    """A key is ill until it signs, whatever else was ill; then it is told well."""
    disabled, down = KeyUnusableError("disabled"), StoreUnavailableError("no")
    key = Counted()
    watch, timer, bell = _watch(key)
    outcomes = []
    with capture_logs() as events:
        for key.error in (disabled, down, disabled, down, None):
            outcomes.append(_outcome(watch))
            timer.now += 40
            bell.comes_to(1)

    assert outcomes == [disabled.code, down.code, disabled.code, down.code, "ok"]
    assert bell.rung == [(Alert.KEY_UNHEALTHY, {"code": "key-unusable"})]
    assert [each["event"] for each in events] == ["key-recovered"]


def test_a_key_that_cannot_be_opened_is_unhealthy() -> None:
    """A key whose device does not even tell its public key rings as well, once."""
    key = Counted()
    watch, timer, bell = _watch(key, Counted(KeyUnusableError("gone")))
    outcomes = set()
    for _ in range(5):
        outcomes.add(_outcome(watch))
        timer.now += 3

    assert outcomes == {"key-unusable"}
    assert bell.comes_to(1)
    assert key.asked == 0


@pytest.mark.parametrize(
    ("fault", "code", "alert"),
    [
        (disabled(), "key-unusable", "key-unhealthy"),
        (other_key(), "signature-recovery", "key-mismatch"),
    ],
)
def test_what_kms_says_of_the_key(
    system: System, kms_faults: Faults, fault: Any, code: str, alert: str
) -> None:
    """A key that does not sign well is not ready, and rings; the others are."""
    kms_faults.always("Sign", fault)

    answer = system.prober()

    assert answer.checks == {**dict.fromkeys(answer.checks, "ok"), "key": code}
    assert eventually(lambda: system.store.alert_counts() == {alert: 1})


@pytest.fixture
def onlooker(clock: SettableClock) -> SealingMonitor:
    """Somebody who only looks, and by the clock of the tests."""
    lateness = SealingAlert(Alerts(clock=clock), clock)
    return SealingMonitor(lateness, lambda: clock().timestamp())


@pytest.mark.parametrize(("age", "answer"), [(899, "ok"), (901, "audit-sealing-late")])
def test_records_that_are_not_sealed(
    sqlite_store: SQLStore, onlooker: SealingMonitor, age: int, answer: str
) -> None:
    """A record that waits longer for its seal than it may is one too many."""
    sqlite_store.append([record(at=NOW)])
    clock = SettableClock(NOW + timedelta(seconds=age))
    check = sealing(sqlite_store.oldest_unsealed, onlooker, most=900, clock=clock)
    asked, _ = _prober(audit=check)

    assert asked().checks["audit"] == answer


def test_an_alert_comes_long_before(
    sqlite_store: SQLStore,
    onlooker: SealingMonitor,
    clock: SettableClock,
    log: io.StringIO,
) -> None:
    """After half a minute somebody is called, and refunds are accepted meanwhile."""
    sqlite_store.append([record(at=NOW)])
    check = sealing(sqlite_store.oldest_unsealed, onlooker, most=900, clock=clock)
    check()
    clock.advance(31)
    check()

    assert [line["alert"] for line in lines(log)] == ["audit-sealing-late"]


def test_sealed_records_do_not_wait(
    sqlite_store: SQLStore, onlooker: SealingMonitor
) -> None:
    """Once all are sealed, however old they are, nothing is late."""
    sqlite_store.append([record(at=NOW)])
    sqlite_store.seal()
    clock = SettableClock(NOW + timedelta(days=365))

    sealing(sqlite_store.oldest_unsealed, onlooker, most=900, clock=clock)()
    assert unsealed_seconds(sqlite_store.oldest_unsealed(), clock) == 0


def test_a_writer_whose_clock_is_ahead_is_not_late() -> None:
    """A record from the future has waited for nothing."""
    waiting = record(at=utc_now() + timedelta(hours=1)).id

    assert unsealed_seconds(waiting) == 0


def test_the_key_in_service_is_told_after_a_rotation(system: System) -> None:
    """Address and epoch are the ring's of the moment, and not those of the start."""
    other = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
    made_active(system.store, key_at(other))

    told = system.prober()

    assert (told.address, told.epoch) == (other, 2)
