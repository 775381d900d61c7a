"""A signer returns only signatures that it has verified."""

import hashlib
from collections.abc import Callable

import bitcurve
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from signer.audit.log import AuditLog
from signer.crypto.secp256k1 import N
from signer.errors import (
    AuditNotShippedError,
    BackendThrottledError,
    EncodingError,
    HotWalletError,
    InvalidInputError,
    KeyUnusableError,
    RecoveryError,
)
from signer.keys.signer import Signer
from signer.model.audit_record import Operation
from signer.ports.meter import Meter
from tests.support.arithmetic import Verifier
from tests.support.devices import (
    KEY_ID,
    Device,
    abscissas,
    components,
    honest,
    past_the_order,
    past_the_order_once,
    planted,
    point,
    recorded_outcomes,
    recording,
    recovered,
    signer_over,
)
from tests.support.signings import Unchecked


KEY = bitcurve.PrivateKey.from_int(0xBEEF)
OTHER = bitcurve.PrivateKey.from_int(0xF00D)
DIGEST = hashlib.sha256(b"signed as given").digest()
PURPOSE = Unchecked(Operation.TRANSACTION_SIGNING, network="local")


@given(digest=st.binary(min_size=32, max_size=32).filter(any))
def test_signature_is_low_s_and_recovers(digest: bytes) -> None:
    """The signature has 65 bytes and a low s; independent code recovers the key."""
    signature = signer_over(honest(KEY)).sign_digest(digest, PURPOSE)

    assert Verifier(point(KEY)).accepts(digest, signature.to_bytes())


def test_high_s_is_normalised() -> None:
    """S5: s becomes N - s and the parity flips, for both parities."""
    parities = set()
    for number in range(8):
        digest = hashlib.sha256(bytes([number])).digest()
        r, s, y_parity = components(KEY, digest)
        device = planted(point(KEY), encode_dss_signature(r, N - s))

        signature = signer_over(device).sign_digest(digest, PURPOSE)

        assert (signature.r, signature.s, signature.y_parity) == (r, s, y_parity)
        parities.add(y_parity)

    assert parities == {0, 1}


@pytest.mark.parametrize("start", [1, 2**239, 2**247, 2**255])
@pytest.mark.parametrize("s", [1, 2**232 - 1, 2**240 - 1, N // 2])
def test_short_numbers_are_padded(start: int, s: int) -> None:
    """S6: r and s of 1, 30, 31 and 32 bytes always make 65 bytes."""
    r = next(abscissas(start))
    key = recovered(r, s, 1, DIGEST)
    device = planted(key, encode_dss_signature(r, s))

    signature = signer_over(device).sign_digest(DIGEST, PURPOSE)

    assert len(signature.to_bytes()) == 65
    assert Verifier(key).accepts(DIGEST, signature.to_bytes())


SIGNED = KEY.sign(DIGEST, hasher=None)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (OTHER.sign(DIGEST, hasher=None), RecoveryError),
        (KEY.sign(DIGEST), RecoveryError),  # Hashed again, with SHA-256.
        (b"\x30\x06\x02\x01\x01\x02\x01\x01", RecoveryError),
        (b"", EncodingError),
        (b"not der", EncodingError),
        (SIGNED[:-1], EncodingError),
        (SIGNED + b"\0", EncodingError),
        (encode_dss_signature(0, 1), EncodingError),
        (encode_dss_signature(1, N), EncodingError),
    ],
)
def test_invalid_signature_is_refused(
    answer: bytes, error: type[HotWalletError]
) -> None:
    """S7, S8, S10: another key, double hashing and malformed DER are errors at once."""
    audit, events = recording()
    device = planted(point(KEY), answer)

    with pytest.raises(error):
        signer_over(device, audit).sign_digest(DIGEST, PURPOSE)

    assert device.calls == 1
    assert recorded_outcomes(events) == [error.code]


@pytest.mark.parametrize("recovery_id", [2, 3])
def test_recovery_id_above_one_twice_is_an_error(recovery_id: int) -> None:
    """S4: the device is asked a second time but not a third."""
    digest, key, der = past_the_order(recovery_id)
    audit, events = recording()
    device = planted(key, der, der, der)

    with pytest.raises(RecoveryError):
        signer_over(device, audit).sign_digest(digest, PURPOSE)

    assert device.calls == 2
    assert recorded_outcomes(events) == ["signature-recovery"]


def test_recovery_id_above_one_is_retried() -> None:
    """S4: the second signature, which has a parity, is returned."""
    digest, key, first, second = past_the_order_once()
    audit, events = recording()
    device = planted(key, first, second)

    signature = signer_over(device, audit).sign_digest(digest, PURPOSE)

    assert device.calls == 2
    assert Verifier(key).accepts(digest, signature.to_bytes())
    assert recorded_outcomes(events) == ["success"]


@pytest.mark.parametrize(
    "digest",
    [b"", DIGEST[:31], DIGEST + b"\0", DIGEST * 2, DIGEST.hex(), bytes(32), None],
)
def test_malformed_digest_does_not_reach_the_device(digest: bytes) -> None:
    """S9: the check precedes the device and the audit log."""
    audit, events = recording()
    device = honest(KEY)

    with pytest.raises(InvalidInputError):
        signer_over(device, audit).sign_digest(digest, PURPOSE)

    assert device.calls == 0
    assert list(events) == []


def test_open_pins_the_key() -> None:
    """A signer keeps the public key, the address and the id that it was opened with."""
    signer = Signer.open(honest(KEY), KEY_ID, recording()[0])

    assert signer.public_key.uncompressed == point(KEY)
    assert signer.address == signer.public_key.address
    assert signer.key_id == KEY_ID


@pytest.mark.parametrize("spell", [str, str.lower, lambda a: "0x" + a[2:].upper()])
def test_expected_address_may_have_any_case(spell: Callable[[str], str]) -> None:
    """WALLET_ADDRESS needs no EIP-55 checksum; a key with another one is refused."""
    address = signer_over(honest(KEY)).address

    opened = Signer.open(
        honest(KEY), KEY_ID, recording()[0], expected_address=spell(address)
    )

    assert opened.address == address
    with pytest.raises(KeyUnusableError, match=address):
        Signer.open(honest(OTHER), KEY_ID, recording()[0], expected_address=address)


def test_key_that_changes_under_its_id_is_refused() -> None:
    """A signer accepts only its pinned key, as when an alias is retargeted."""
    device = Device(point(KEY), lambda digest: KEY.sign(digest, hasher=None))
    signer = signer_over(device)
    device.becomes(honest(OTHER))

    with pytest.raises(RecoveryError):
        signer.sign_digest(DIGEST, PURPOSE)


def test_self_test_signs_a_fresh_random_digest() -> None:
    """Each self-test signs another digest, under its own operation."""
    audit, events = recording()
    device = honest(KEY)
    signer = signer_over(device, audit)

    signer.self_test()
    signer.self_test()

    assert device.calls == 2
    assert len({event["digest"] for event in events}) == 2
    assert {event["operation"] for event in events} == {"self-test"}
    assert {event["actor"] for event in events} == {"self-test"}


class _Measured(Meter):
    """Keeps what a signer measured."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, int, int]] = []

    def signed(
        self,
        backend: str,
        outcome: str,
        seconds: float,
        *,
        attempts: int,
        throttled: int,
    ) -> None:
        assert seconds >= 0
        self.seen.append((backend, outcome, attempts, throttled))


def test_signatures_and_failures_are_measured() -> None:
    """With the outcome of the audit log, self-tests included."""
    error = BackendThrottledError("slower")
    error.attempts = error.throttled = 4
    failures: list[Exception] = [error]

    def answer(digest: bytes) -> bytes:
        if failures:
            raise failures.pop()
        return device._answer(digest)

    device = honest(KEY)
    measured = _Measured()
    audit = recording()[0]
    failing = Device(point(KEY), answer)
    signer = Signer.open(failing, KEY_ID, audit, meter=measured)
    with pytest.raises(BackendThrottledError):
        signer.self_test()
    signer.self_test()

    assert measured.seen == [
        ("device", "backend-throttled", 4, 4),
        ("device", "success", 1, 0),
    ]


def test_nothing_is_signed_while_the_log_is_not_shipped() -> None:
    """Neither what is announced now, nor what was before; self-tests go on."""

    def refuse() -> None:
        raise AuditNotShippedError("not shipped")

    device = honest(KEY)
    audit = AuditLog(structlog.get_logger("audit"), require_shipped=refuse)
    signer = signer_over(device, audit)
    signer.self_test()
    for sign in (signer.sign_digest, signer.sign):
        with pytest.raises(AuditNotShippedError):
            sign(DIGEST, PURPOSE)
