"""Who meets a key that does not sign, or that is another one, calls for help."""

from collections.abc import Callable
from typing import Any

import coincurve
import pytest

from signer.alerts import Alerts
from signer.audit.log import AuditLog
from signer.errors import (
    AccessDeniedError,
    BackendThrottledError,
    BackendUnavailableError,
    EncodingError,
    HotWalletError,
    KeyNotFoundError,
    KeyUnusableError,
    RecoveryError,
)
from signer.keys.signer import Signer
from signer.keys.signing_alarm import SigningAlarm
from signer.model.audit_record import Operation, Purpose
from signer.ports import KeyId
from tests.support.devices import KEY_ID, Device, honest, point, recording


KEY = coincurve.PrivateKey.from_int(0xBEEF)
OTHER = coincurve.PrivateKey.from_int(0xF00D)
DIGEST = b"\x07" * 32
HERE, THERE = "0xHere", "0xThere"


class Ward:
    """An alarm, a timer to turn, and somebody outside who is told of alerts."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.told: list[tuple[object, object]] = []
        self.alarm = SigningAlarm(Alerts(notifier=self), lambda: self.now)

    def notify(self, document: Any) -> None:
        """Take note of an alert."""
        self.told.append((document["alert"], document["facts"]["code"]))

    def failing(self, error: HotWalletError, *seconds: float) -> list[float]:
        """Fail with *error* at each of *seconds*; return when that was told."""
        told = []
        for at in seconds:
            before = len(self.told)
            self.now = 1000.0 + at
            self.alarm.failed(HERE, error)
            if len(self.told) > before:
                told.append(at)
        return told


@pytest.fixture
def ward() -> Ward:
    """Nothing happened yet."""
    return Ward()


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
def test_what_does_not_pass_is_told_at_once(
    ward: Ward, error: HotWalletError, alert: str
) -> None:
    """The first time, and then every five minutes while it goes on."""
    told = ward.failing(error, 0, 1, 100, 299, 300, 599, 600)

    assert told == [0, 300, 600]
    assert ward.told == [(alert, error.code)] * 3


@pytest.mark.parametrize(
    "error", [BackendUnavailableError("away"), BackendThrottledError("busy")], ids=str
)
def test_what_may_pass_is_told_when_it_lasts(ward: Ward, error: HotWalletError) -> None:
    """A device that is away for less than half a minute wakes nobody."""
    assert ward.failing(error, 0, 10, 29, 30, 31, 329, 330) == [30, 330]


def test_a_signature_in_between_ends_it(ward: Ward) -> None:
    """Where one of ten signatures is throttled, nothing lasts."""
    for at in range(0, 600, 10):
        assert ward.failing(BackendThrottledError("x"), at, at + 1) == []
        ward.alarm.signed(HERE)

    assert ward.told == []


def test_a_signature_in_between_is_no_licence(ward: Ward) -> None:
    """A device that signs with another key now and then is told every five minutes."""
    for at in range(0, 600, 10):
        ward.failing(RecoveryError("x"), at)
        ward.alarm.signed(HERE)

    assert ward.told == [("key-mismatch", "signature-recovery")] * 2


def test_keys_do_not_hide_one_another(ward: Ward) -> None:
    """Each key, and each alert, has its own five minutes."""
    ward.alarm.failed(HERE, RecoveryError("x"))
    ward.alarm.failed(THERE, RecoveryError("x"))
    ward.alarm.failed(THERE, KeyUnusableError("x"))

    assert [alert for alert, _ in ward.told] == [
        "key-mismatch",
        "key-mismatch",
        "key-unhealthy",
    ]


def _refuse(digest: bytes) -> bytes:
    raise KeyUnusableError("the key is disabled")


def _sign_by_another(digest: bytes) -> bytes:
    return OTHER.sign(digest, hasher=None)


def _stammer(digest: bytes) -> bytes:
    return b"no DER"


class _Closed(Device):
    """A device that does not show its public key."""

    def public_key(self, key_id: KeyId) -> bytes:
        """Refuse."""
        raise AccessDeniedError("not allowed")


def _signer(ward: Ward, answer: Callable[[bytes], bytes] | None = None) -> Signer:
    device = honest(KEY) if answer is None else Device(point(KEY), answer)
    return Signer.open(device, KEY_ID, recording()[0], alarm=ward.alarm)


def _purpose(operation: Operation) -> Purpose:
    return Purpose(operation, actor="tests")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (_sign_by_another, ("key-mismatch", "signature-recovery")),
        (_stammer, ("key-mismatch", "signature-encoding")),
        (_refuse, ("key-unhealthy", "key-unusable")),
    ],
)
@pytest.mark.parametrize(
    "operation",
    [
        Operation.TRANSACTION_SIGNING,
        Operation.MESSAGE_SIGNING,
        Operation.KEY_SWEEP,
    ],
)
def test_whatever_is_signed_is_watched(
    ward: Ward,
    operation: Operation,
    answer: Callable[[bytes], bytes],
    told: tuple[str, str],
) -> None:
    """S7: a refund, a message and a sweep call for help as a health check does."""
    with pytest.raises(HotWalletError):
        _signer(ward, answer).sign_digest(DIGEST, _purpose(operation))

    assert ward.told == [told]


def test_a_self_test_is_told_by_who_asked_for_it(ward: Ward) -> None:
    """One illness that readiness finds is not told twice."""
    with pytest.raises(RecoveryError):
        _signer(ward, _sign_by_another).self_test()

    assert ward.told == []


def test_a_key_that_signs_is_well(ward: Ward) -> None:
    """What lasted before a good signature does not count any more."""
    signer = _signer(ward)
    ward.alarm.failed(signer.address, BackendUnavailableError("x"))
    signer.sign_digest(DIGEST, _purpose(Operation.TRANSACTION_SIGNING))
    ward.now += 60
    ward.alarm.failed(signer.address, BackendUnavailableError("x"))

    assert ward.told == []


@pytest.mark.parametrize("expected", [None, "0x" + "11" * 20])
def test_a_key_that_cannot_be_opened_is_told(ward: Ward, expected: str | None) -> None:
    """A worker that may not look at the key another host rotated to says so."""
    device = _Closed(point(KEY), _refuse) if expected is None else honest(KEY)
    with pytest.raises(HotWalletError) as caught:
        Signer.open(
            device,
            KEY_ID,
            recording()[0],
            expected_address=expected,
            alarm=ward.alarm,
        )

    assert ward.told == [("key-unhealthy", caught.value.code)]


class _FullDisk:
    """A log that takes the intent, and not what came of it."""

    def __init__(self) -> None:
        self.lines = 0

    def info(self, event: str, **fields: Any) -> None:
        """Take one line."""
        self.lines += 1
        if self.lines > 1:
            raise OSError("no space left on device")


def test_the_alert_does_not_wait_for_the_record(ward: Ward) -> None:
    """Where the outcome cannot be written, the mismatch is told all the same."""
    device, audit = Device(point(KEY), _sign_by_another), AuditLog(_FullDisk())
    signer = Signer.open(device, KEY_ID, audit, alarm=ward.alarm)
    with pytest.raises(OSError, match="no space"):
        signer.sign_digest(DIGEST, _purpose(Operation.TRANSACTION_SIGNING))

    assert ward.told == [("key-mismatch", "signature-recovery")]
