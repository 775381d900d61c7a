"""The load on KMS: retry budget, breaker, rate, concurrency."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from backends.aws_kms.backend import KMSBackend
from backends.aws_kms.client import build_client
from backends.aws_kms.signing_client import SigningClient
from backends.circuit_breaker import RETRY_SECONDS
from backends.kms_retries import TokenBucket
from dev import kms_faults as faults
from dev.kms_emulator import KMSEmulator
from dev.kms_wire import Exchange, Faults, Reply
from signer.errors import BackendThrottledError, BackendUnavailableError
from signer.ports.key_backend import DeviceSignature, KeyId
from tests.fixtures.kms import Wire
from tests.support.waiting import Timer, eventually


DIGEST = bytes(range(32))
BURST_OF_RETRIES = 100

OpenSigning = Callable[..., SigningClient]


@pytest.fixture
def timer() -> Timer:
    return Timer()


@pytest.fixture
def open_signing(kms_emulator: KMSEmulator, timer: Timer) -> Iterator[OpenSigning]:
    """Return a function that opens a client whose pauses move its timer."""
    clients = []

    def sleep(seconds: float) -> None:
        timer.now += seconds

    def open_signing(
        per_second: float = 0, attempts: int = 10, timeout_ms: int = 9_000
    ) -> SigningClient:
        client = build_client(
            kms_emulator.region, kms_emulator.endpoint, attempts, timeout_ms, 16
        )
        clients.append(client)
        return SigningClient(client, per_second, timer=timer, sleep=sleep)

    yield open_signing
    for client in clients:
        client.close()


def test_retries_have_a_budget(
    open_signing: OpenSigning, kms_key: KeyId, kms_faults: Faults, wire: Wire
) -> None:
    """G17: a KMS that throttles everything gets one request per call in the end."""
    kms_faults.always("Sign", faults.throttle())
    signing = open_signing()
    for _ in range(30):
        with pytest.raises(BackendThrottledError):
            signing.sign(kms_key, DIGEST)

    assert len(wire()) == 30 + BURST_OF_RETRIES


def test_signatures_earn_retries(
    open_signing: OpenSigning, kms_key: KeyId, kms_faults: Faults, wire: Wire
) -> None:
    """Six for ten, so that a third of the requests may fail for ever."""
    kms_faults.always("Sign", faults.throttle())
    signing = open_signing()
    for _ in range(12):
        with pytest.raises(BackendThrottledError):
            signing.sign(kms_key, DIGEST)
    kms_faults.clear()
    for _ in range(10):
        signing.sign(kms_key, DIGEST)
    kms_faults.always("Sign", faults.throttle())
    before = len(wire())
    for _ in range(3):
        with pytest.raises(BackendThrottledError):
            signing.sign(kms_key, DIGEST)

    assert len(wire()) - before == 3 + 6


def test_an_error_counts_its_requests(
    open_signing: OpenSigning, kms_key: KeyId, kms_faults: Faults
) -> None:
    """For the audit record, which explains the requests of CloudTrail."""
    kms_faults.always("Sign", faults.kms_internal())

    with pytest.raises(BackendUnavailableError) as error:
        open_signing(attempts=4).sign(kms_key, DIGEST)

    assert error.value.attempts == 4
    assert error.value.request_id


def test_pauses_grow(
    open_signing: OpenSigning, kms_key: KeyId, kms_faults: Faults, timer: Timer
) -> None:
    """Nine pauses of at most 0.1 s to 1 s, and together at most the deadline."""
    kms_faults.always("Sign", faults.throttle())
    signing = open_signing()
    taken = []
    for _ in range(8):
        started = timer.now
        with pytest.raises(BackendThrottledError):
            signing.sign(kms_key, DIGEST)
        taken.append(timer.now - started)

    assert max(taken) <= 5
    assert 1 <= sum(taken) / len(taken) <= 4


def test_the_named_pause_is_kept(
    open_signing: OpenSigning, kms_key: KeyId, kms_faults: Faults, timer: Timer
) -> None:
    kms_faults.on("Sign", faults.retry_after(2_500))
    started = timer.now

    assert open_signing().sign(kms_key, DIGEST).attempts == 2
    assert timer.now - started == pytest.approx(2.5)


def test_a_frozen_kms_opens_the_breaker(
    open_signing: OpenSigning,
    kms_key: KeyId,
    kms_faults: Faults,
    timer: Timer,
    wire: Wire,
) -> None:
    """
    G17: then calls fail at once, and a second later one tries.

    Its answer closes the breaker.
    """
    kms_faults.always("Sign", faults.hang())
    signing = open_signing(attempts=1, timeout_ms=500)
    for _ in range(3):
        with pytest.raises(BackendUnavailableError) as error:
            signing.sign(kms_key, DIGEST)
    assert wire() == ["Sign"]
    assert error.value.attempts == 0
    assert "does not answer" in str(error.value)

    timer.now += RETRY_SECONDS
    with pytest.raises(BackendUnavailableError):
        signing.sign(kms_key, DIGEST)
    assert wire() == ["Sign"] * 2

    kms_faults.clear()
    with pytest.raises(BackendUnavailableError):
        signing.sign(kms_key, DIGEST)
    timer.now += RETRY_SECONDS
    signing.sign(kms_key, DIGEST)
    signing.sign(kms_key, DIGEST)
    assert wire() == ["Sign"] * 4


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(faults.throttle(), id="throttle"),
        pytest.param(faults.kms_internal(), id="internal"),
    ],
)
def test_an_error_of_kms_closes_the_breaker(
    open_signing: OpenSigning,
    kms_key: KeyId,
    kms_faults: Faults,
    timer: Timer,
    fault: Callable[[Exchange], Reply | None],
) -> None:
    """KMS answers, if with an error."""
    kms_faults.on("Sign", faults.hang())
    kms_faults.on("Sign", fault)
    signing = open_signing(attempts=1, timeout_ms=500)
    with pytest.raises(BackendUnavailableError):
        signing.sign(kms_key, DIGEST)
    timer.now += RETRY_SECONDS
    with pytest.raises((BackendThrottledError, BackendUnavailableError)):
        signing.sign(kms_key, DIGEST)

    assert signing.sign(kms_key, DIGEST).der


def test_one_lost_connection_opens_nothing(
    open_signing: OpenSigning,
    kms_key: KeyId,
    kms_faults: Faults,
    timer: Timer,
    wire: Wire,
) -> None:
    """KMS answered another call while the first one waited."""
    kms_faults.on("Sign", faults.hang())
    signing = open_signing(attempts=1, timeout_ms=1_500)
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(signing.sign, kms_key, DIGEST)
        assert eventually(lambda: wire() == ["Sign"])
        timer.now += 0.1
        signing.sign(kms_key, DIGEST)
        with pytest.raises(BackendUnavailableError):
            lost.result(20)

    assert signing.sign(kms_key, DIGEST).der


def test_the_queue_for_turns_is_bounded(
    open_signing: OpenSigning, kms_key: KeyId, wire: Wire
) -> None:
    """A call whose turn comes too late is refused, and nothing is sent."""
    signing = open_signing(per_second=1, attempts=1, timeout_ms=2_000)
    signing.sign(kms_key, DIGEST)

    with pytest.raises(BackendThrottledError, match="wait for KMS") as error:
        signing.sign(kms_key, DIGEST)

    assert error.value.attempts == 0
    assert error.value.retryable
    assert wire() == ["Sign"]


def test_calls_wait_for_their_turns(
    open_signing: OpenSigning, kms_key: KeyId, timer: Timer
) -> None:
    """Retries need turns as well."""
    signing = open_signing(per_second=5)
    started = timer.now
    for _ in range(11):
        signing.sign(kms_key, DIGEST)

    assert timer.now - started == pytest.approx(2.0)


def test_a_brown_out_costs_time_and_no_signature(
    kms_emulator: KMSEmulator, kms_key: KeyId, kms_faults: Faults, wire: Wire
) -> None:
    """G16: 30 % throttles, 5 % server errors, and 1 answer in 100 takes 2 s."""
    dice = random.Random(5)
    lock = threading.Lock()

    def brown_out(exchange: Exchange) -> Reply | None:
        with lock:
            drawn = dice.random()
        if drawn < 0.30:
            return faults.throttle()(exchange)
        if drawn < 0.35:
            return faults.kms_internal()(exchange)
        if drawn < 0.36:
            return faults.slow(2.0)(exchange)
        return exchange.respond(None)

    kms_faults.always("Sign", brown_out)
    client = build_client(kms_emulator.region, kms_emulator.endpoint, 10, 9_000, 64)
    kms = KMSBackend(client, per_second=900)

    def sign(_: int) -> tuple[float, DeviceSignature]:
        started = time.monotonic()
        signature = kms.sign_digest(kms_key, DIGEST)
        return time.monotonic() - started, signature

    with ThreadPoolExecutor(32) as pool:
        taken, made = zip(*pool.map(sign, range(200)), strict=True)
    kms.close()

    assert max(taken) < 10
    assert sum(each.attempts for each in made) == len(wire())
    # A share of 0.65 succeeds: no client needs fewer than 1 / 0.65 = 1.54 on average.
    assert len(wire()) / 200 < 1.75


def test_an_exceeded_quota_is_no_error(
    kms_emulator: KMSEmulator, kms_key: KeyId, kms_faults: Faults
) -> None:
    """K11: of a quota below the rate that the settings allow."""
    quota, lock, throttled = TokenBucket(100), threading.Lock(), []

    def limited(exchange: Exchange) -> Reply | None:
        with lock:
            has_turn = quota.reserve(0.0) is not None
        if has_turn:
            return exchange.respond(None)
        throttled.append(exchange)
        return faults.throttle()(exchange)

    kms_faults.always("Sign", limited)
    client = build_client(kms_emulator.region, kms_emulator.endpoint, 10, 9_000, 64)
    kms = KMSBackend(client, per_second=400)

    def sign(_: int) -> bool:
        try:
            return bool(kms.sign_digest(kms_key, DIGEST).der)
        except BackendThrottledError:
            return False

    with ThreadPoolExecutor(32) as pool:
        made = list(pool.map(sign, range(300)))
    kms.close()

    assert throttled
    assert made.count(False) <= 3


def test_concurrency_is_a_hint_for_the_number_of_threads(
    kms_emulator: KMSEmulator, kms_key: KeyId
) -> None:
    """It grows with use, up to the number of connections."""
    client = build_client(kms_emulator.region, kms_emulator.endpoint, 3, 9_000, 12)
    kms = KMSBackend(client)
    first = kms.concurrency
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda _: kms.sign_digest(kms_key, DIGEST), range(200)))
    kms.close()

    assert first == 8
    assert 8 <= kms.concurrency <= 12
