"""A key that does not sign, or that is another one, raises throttled alerts."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import bitcurve
import pytest

from signer.alerts import Alerts
from signer.audit.log import AuditLog
from signer.errors import (
    AccessDeniedError,
    AuditLogUnwritableError,
    BackendThrottledError,
    BackendUnavailableError,
    EncodingError,
    HotWalletError,
    KeyNotFoundError,
    KeyUnusableError,
    RecoveryError,
)
from signer.keys.signer import Signer
from signer.keys.signing_alarm import WINDOW_SECONDS, SigningAlarm, ThrottleWindow
from signer.model.audit_record import Operation
from signer.ports.key_backend import DeviceSignature, KeyId
from tests.support.devices import KEY_ID, FullDisk, honest, planted, point, recording
from tests.support.refunds import altered
from tests.support.signings import Unchecked


KEY = bitcurve.PrivateKey.from_int(0xBEEF)
OTHER = bitcurve.PrivateKey.from_int(0xF00D)
DIGEST = b"\x07" * 32
BY_ANOTHER = OTHER.sign(DIGEST, hasher=None)
PURPOSE = Unchecked(Operation.TRANSACTION_SIGNING, actor="tests")
HERE, THERE = "0xHere", "0xThere"


class MonitoredAlarm:
    """An alarm with a settable timer, which records its alerts."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.alerts: list[tuple[object, object]] = []
        clock = lambda: datetime.fromtimestamp(self.now, UTC)  # noqa: E731
        alerts = Alerts(notifier=self, clock=clock)
        self.alarm = SigningAlarm(alerts, lambda: self.now)

    def notify(self, document: Any) -> None:
        """Record an alert, and not its end."""
        if document["status"] == "resolved":
            return
        facts = document["facts"]
        self.alerts.append((document["alert"], facts.get("code", facts.get("percent"))))

    def failing(self, error: HotWalletError, *seconds: float) -> list[float]:
        """Fail with *error* at each of *seconds*; return the times of the alerts."""
        times = []
        for at in seconds:
            before = len(self.alerts)
            self.now = 1000.0 + at
            self.alarm.failed(HERE, error)
            if len(self.alerts) > before:
                times.append(at)
        return times


@pytest.fixture
def monitor() -> MonitoredAlarm:
    """An alarm without failures so far."""
    return MonitoredAlarm()


@pytest.mark.parametrize(
    ("error", "alert"),
    [
        (RecoveryError("x"), "key-mismatch"),
        (EncodingError("x"), "key-mismatch"),
        (AccessDeniedError("x"), "key-unhealthy"),
        (KeyNotFoundError("x"), "key-unhealthy"),
        (KeyUnusableError("x"), "key-unhealthy"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_permanent_error_alerts_at_once(
    monitor: MonitoredAlarm, error: HotWalletError, alert: str
) -> None:
    """The first error raises an alert, which repeats every five minutes."""
    times = monitor.failing(error, 0, 1, 100, 299, 300, 599, 600)

    assert times == [0, 300, 600]
    assert monitor.alerts == [(alert, error.code)] * 3


@pytest.mark.parametrize(
    "error", [BackendUnavailableError("away"), BackendThrottledError("busy")], ids=str
)
def test_retryable_error_alerts_when_it_lasts(
    monitor: MonitoredAlarm, error: HotWalletError
) -> None:
    """A device that is unavailable for less than half a minute raises no alert."""
    assert monitor.failing(error, 0, 10, 29, 30, 31, 329, 330) == [30, 330]


def test_signature_resets_the_duration(monitor: MonitoredAlarm) -> None:
    """Not that of a repeated alert about signatures of another key."""
    for at in range(0, 600, 10):
        assert monitor.failing(BackendThrottledError("x"), at, at + 1) == []
        monitor.failing(RecoveryError("x"), at)
        monitor.alarm.signed(HERE)

    assert monitor.alerts == [("key-mismatch", "signature-recovery")] * 2


def test_keys_and_alerts_are_throttled_separately(monitor: MonitoredAlarm) -> None:
    """Each key, and each kind of alert, has its own five minutes."""
    monitor.alarm.failed(HERE, RecoveryError("x"))
    monitor.alarm.failed(THERE, RecoveryError("x"))
    monitor.alarm.failed(THERE, KeyUnusableError("x"))

    assert [alert for alert, _ in monitor.alerts] == [
        "key-mismatch",
        "key-mismatch",
        "key-unhealthy",
    ]


def _signer(monitor: MonitoredAlarm, *answers: bytes | HotWalletError) -> Signer:
    device = planted(point(KEY), *answers) if answers else honest(KEY)
    return Signer.open(device, KEY_ID, recording()[0], alarm=monitor.alarm)


@pytest.mark.parametrize(
    ("answer", "alert"),
    [
        (BY_ANOTHER, ("key-mismatch", "signature-recovery")),
        (b"no DER", ("key-mismatch", "signature-encoding")),
        (KeyUnusableError("the key is disabled"), ("key-unhealthy", "key-unusable")),
    ],
)
@pytest.mark.parametrize(
    "operation",
    [Operation.TRANSACTION_SIGNING, Operation.MESSAGE_SIGNING, Operation.KEY_SWEEP],
)
def test_every_operation_raises_alerts(
    monitor: MonitoredAlarm,
    operation: Operation,
    answer: bytes | HotWalletError,
    alert: tuple[str, str],
) -> None:
    """S7: a refund, a message and a sweep raise alerts like a health check does."""
    with pytest.raises(HotWalletError):
        _signer(monitor, answer).sign_digest(
            DIGEST, Unchecked(operation, actor="tests")
        )

    assert monitor.alerts == [alert]


def test_self_test_raises_no_alert_here(monitor: MonitoredAlarm) -> None:
    """The readiness check raises the alert for its own self-test."""
    with pytest.raises(RecoveryError):
        _signer(monitor, BY_ANOTHER).self_test()

    assert monitor.alerts == []


@pytest.mark.parametrize("expected", [None, "0x" + "11" * 20])
def test_key_that_cannot_be_opened_alerts(
    monitor: MonitoredAlarm, expected: str | None
) -> None:
    """A worker without access to the new active key raises an alert."""
    device = honest(KEY)
    if expected is None:
        device = altered(device, public_key=AccessDeniedError("not allowed"))
    with pytest.raises(HotWalletError) as caught:
        Signer.open(
            device,
            KEY_ID,
            recording()[0],
            expected_address=expected,
            alarm=monitor.alarm,
        )

    assert monitor.alerts == [("key-unhealthy", caught.value.code)]


def test_a_device_that_throttles_raises_an_alert(monitor: MonitoredAlarm) -> None:
    """Also if each signature succeeds in the end; again after it was over."""
    device = altered(honest(KEY), sign_digest=_throttled(3))
    signer = Signer.open(device, KEY_ID, recording()[0], alarm=monitor.alarm)
    for _ in range(4):
        signer.sign_digest(DIGEST, PURPOSE)
    monitor.now += 61
    monitor.alarm.called("aws-kms", 1, 0)

    assert monitor.alerts == [("backend-throttled", 75)]
    monitor.alarm.called(device.name, 1, 0)
    monitor.alarm.called(device.name, 5, 5)
    assert monitor.alerts[1:] == [("backend-throttled", 71)]


def _throttled(times: int) -> Callable[..., DeviceSignature]:
    """Return a device's method that signs after it was rejected *times*."""

    def sign(key_id: KeyId, digest: bytes) -> DeviceSignature:
        answer: DeviceSignature = honest(KEY).sign_digest(key_id, digest)
        return replace(answer, attempts=times + 1, throttled=times)

    return sign


def test_alert_precedes_the_audit_record(monitor: MonitoredAlarm) -> None:
    """If the outcome cannot be recorded, the mismatch still raises its alert."""
    device, audit = planted(point(KEY), BY_ANOTHER), AuditLog(FullDisk(good=1))
    signer = Signer.open(device, KEY_ID, audit, alarm=monitor.alarm)
    with pytest.raises(AuditLogUnwritableError):
        signer.sign_digest(DIGEST, PURPOSE)

    assert monitor.alerts == [("key-mismatch", "signature-recovery")]


@pytest.mark.parametrize(
    ("calls", "share"),
    [
        ([], 0.0),
        ([(100, 0)], 0.0),
        ([(4, 4)], 0.0),
        ([(5, 5)], 1.0),
        ([(3, 2), (7, 3), (10, 0)], 0.25),
    ],
)
def test_the_share_is_that_of_all_calls(
    calls: list[tuple[int, int]], share: float
) -> None:
    """A few rejected calls are no trend."""
    window = ThrottleWindow(lambda: 0.0)
    for attempts, throttled in calls:
        window.add(attempts, throttled)

    assert window.share == share


def test_old_calls_are_forgotten() -> None:
    now = [0.0]
    window = ThrottleWindow(lambda: now[0])
    window.add(10, 10)
    now[0] = WINDOW_SECONDS
    window.add(10, 0)

    assert window.share == 0.5
    now[0] += 1
    assert window.share == 0.0
    window.add(5, 5)
    assert window.share == pytest.approx(1 / 3)
