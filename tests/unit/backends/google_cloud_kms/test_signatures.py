"""A signer refuses wrong signatures of Google Cloud KMS, and lowers s."""

import pytest

from backends.google_cloud_kms.backend import GoogleCloudKMSBackend
from dev import kms_faults as faults
from dev.google_kms_emulator import SIGN
from dev.kms_wire import Fault, Faults
from signer.errors import (
    EncodingError,
    RecoveryError,
    SigningError,
)
from signer.keys.signer import Signer
from signer.model.audit_record import Operation
from signer.ports.key_backend import KeyId
from tests.support.arithmetic import N
from tests.support.devices import recording
from tests.support.signings import Unchecked


DIGEST = bytes(range(32))
PURPOSE = Unchecked(Operation.TRANSACTION_SIGNING, network="local", actor="tests")


@pytest.fixture
def signer(
    google_cloud_kms: GoogleCloudKMSBackend,
    google_cloud_kms_key: KeyId,
    google_kms_faults: Faults,
) -> Signer:
    """A signer with the key pinned, before any fault."""
    return Signer.open(google_cloud_kms, google_cloud_kms_key, recording()[0])


FORGED: dict[str, tuple[Fault, type[SigningError]]] = {
    "another key's": (faults.other_key(), RecoveryError),
    "of the digest hashed again": (faults.double_hash(), RecoveryError),
    "truncated": (faults.signature(bytes.fromhex("3044022001")), EncodingError),
    "empty": (faults.signature(b""), EncodingError),
}


@pytest.mark.parametrize(("fault", "error"), FORGED.values(), ids=FORGED)
def test_no_wrong_signature_leaves_the_signer(
    signer: Signer, google_kms_faults: Faults, fault: Fault, error: type[SigningError]
) -> None:
    """Even with correct checksums and the right name."""
    google_kms_faults.always(SIGN, fault)

    with pytest.raises(error):
        signer.sign_digest(DIGEST, PURPOSE)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(faults.high_s(), id="high s"),
        pytest.param(faults.short_r(), id="short r"),
        pytest.param(faults.short_s(), id="short s"),
    ],
)
def test_signatures_are_normalised(
    signer: Signer, google_kms_faults: Faults, fault: Fault
) -> None:
    google_kms_faults.on(SIGN, fault)

    signature = signer.sign_digest(DIGEST, PURPOSE)

    assert signature.s <= N // 2
    assert signature.recover(DIGEST) == signer.public_key
