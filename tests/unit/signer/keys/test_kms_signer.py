"""A signer checks the answers of KMS, and reports failures without its words."""

import logging
import time
from collections.abc import Callable
from typing import Any

import bitcurve
import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from eth_utils.crypto import keccak
from structlog.testing import CapturingLogger

from backends.aws_kms.backend import KMSBackend
from dev import kms_crafted
from dev import kms_faults as faults
from dev.kms_emulator import KMSEmulator
from dev.kms_wire import Fault, Faults
from signer.audit.log import AuditLog
from signer.crypto.secp256k1 import Signature
from signer.errors import (
    AccessDeniedError,
    BackendUnavailableError,
    EncodingError,
    HotWalletError,
    KeyUnusableError,
    RecoveryError,
)
from signer.keys.signer import Signer
from signer.model.audit_record import Operation
from signer.ports.key_backend import KeyId
from tests.support.signings import Unchecked


DIGEST = keccak(b"a refund")
PURPOSE = Unchecked(Operation.TRANSACTION_SIGNING, network="local", actor="tests")
DEADLINE = 1.8
# What the machine needs for everything else, a busy neighbour included.
SLACK = 10.0
OpenSigner = Callable[[], Signer]


@pytest.fixture
def audit() -> CapturingLogger:
    """What the audit log would hold."""
    return CapturingLogger()


@pytest.fixture
def open_signer(
    hasty_kms: KMSBackend, kms_key: KeyId, audit: CapturingLogger
) -> OpenSigner:
    """Return a function that opens a signer with one attempt per KMS call."""
    return lambda: Signer.open(hasty_kms, kms_key, AuditLog(audit))


def _address(signature: Signature, digest: bytes) -> str:
    """Recover the address with independent code."""
    compact = (
        signature.r.to_bytes(32)
        + signature.s.to_bytes(32)
        + bytes([signature.y_parity])
    )
    key = bitcurve.PublicKey.from_signature_and_message(compact, digest, hasher=None)
    return "0x" + keccak(key.format(compressed=False)[1:])[12:].hex()


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(faults.high_s(), id="high s"),
        pytest.param(faults.short_r(), id="short r"),
        pytest.param(faults.short_s(), id="short s"),
    ],
)
def test_signatures_are_normalised(
    kms: KMSBackend,
    kms_emulator: KMSEmulator,
    kms_key: KeyId,
    kms_faults: Faults,
    fault: Fault,
    audit: CapturingLogger,
) -> None:
    """S5, S6: for every r and s, s becomes low and the address is the key's."""
    signer = Signer.open(kms, kms_key, AuditLog(audit))
    kms_faults.on("Sign", fault)

    signature = signer.sign_digest(DIGEST, PURPOSE)

    assert signature.s <= kms_crafted.N // 2
    assert signature.y_parity in (0, 1)
    assert _address(signature, DIGEST) == kms_emulator.address(kms_key).lower()


@pytest.mark.parametrize("recovery_id", [2, 3])
def test_recovery_id_above_one_is_retried_once(
    open_signer: OpenSigner,
    kms_faults: Faults,
    kms_emulator: KMSEmulator,
    recovery_id: int,
) -> None:
    """S4: r + n < p cannot be encoded for Ethereum: sign once more, then raise."""
    made = kms_crafted.overflowing(DIGEST, recovery_id)
    kms_faults.on("GetPublicKey", faults.public_key(made.public_key))
    kms_faults.always("Sign", faults.signature(made.signature))
    signer = open_signer()
    before = len(kms_emulator.trail)

    with pytest.raises(RecoveryError):
        signer.sign_digest(DIGEST, PURPOSE)

    assert len(kms_emulator.trail) == before + 2


N = kms_crafted.N
WRONG: dict[str, tuple[Fault, type[HotWalletError]]] = {
    "another key": (faults.other_key(), RecoveryError),
    "hashed again": (faults.double_hash(), RecoveryError),
    "garbage": (faults.signature(b"not DER at all"), EncodingError),
    "empty": (faults.signature(b""), EncodingError),
    "r is zero": (faults.signature(encode_dss_signature(0, 1)), EncodingError),
    "s is n": (faults.signature(encode_dss_signature(1, N)), EncodingError),
    "trailing byte": (
        faults.signature(encode_dss_signature(1, 1) + b"\0"),
        EncodingError,
    ),
    "disabled": (faults.disabled(), KeyUnusableError),
    "access denied": (faults.access_denied(), AccessDeniedError),
    "hang": (faults.hang(), BackendUnavailableError),
    "trickle": (faults.trickle(0.1), BackendUnavailableError),
    "lost reply": (faults.drop_reply(), BackendUnavailableError),
}


@pytest.mark.parametrize(("fault", "error"), WRONG.values(), ids=WRONG)
def test_wrong_answer_raises_our_error(
    *,
    open_signer: OpenSigner,
    kms_emulator: KMSEmulator,
    kms_key: KeyId,
    kms_faults: Faults,
    audit: CapturingLogger,
    caplog: pytest.LogCaptureFixture,
    fault: Fault,
    error: type[HotWalletError],
) -> None:
    """S7, S8: the right error in time; no text of KMS appears in it or in a log."""
    caplog.set_level(logging.DEBUG)
    signer = open_signer()
    kms_faults.always("Sign", fault)
    started = time.monotonic()

    with pytest.raises(HotWalletError) as raised:
        signer.sign_digest(DIGEST, PURPOSE)

    assert time.monotonic() - started < DEADLINE + SLACK
    assert type(raised.value) is error
    events: list[Any] = [call.kwargs for call in audit.calls]
    assert [event.get("outcome") for event in events] == [None, error.code]
    shown = f"{raised.value!r} {events} {caplog.text}"
    for canary in (
        *("arn:aws", "123456789012", "refund-signer-role", "eu-central-1"),
        kms_key.rpartition("/")[2],
        kms_emulator.endpoint.removeprefix("http://"),
    ):
        assert canary not in shown


def test_malformed_public_key_is_not_pinned(
    open_signer: OpenSigner, kms_faults: Faults
) -> None:
    """K10: bytes that are not a SubjectPublicKeyInfo are not pinned."""
    kms_faults.on("GetPublicKey", faults.public_key(b"\x30\x00"))

    with pytest.raises(EncodingError):
        open_signer()
