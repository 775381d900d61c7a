"""A refund whose key is in Google Cloud KMS, from the request to its confirmation."""

from pathlib import Path

import pytest

from dev.demo import Progress, pay_once
from dev.google_kms_emulator import SIGN, GoogleKMSEmulator
from dev.stack import running_stack


@pytest.mark.soak
def test_a_refund_is_paid_once(tmp_path: Path) -> None:
    """The worker signs with the emulator's key, and with no other."""
    with (
        GoogleKMSEmulator() as kms,
        running_stack(tmp_path, kms=kms, settings={"WEB_CONCURRENCY": "1"}) as stack,
    ):
        pay_once(Progress(), stack)
        signed = [call.target for call in kms.journal if call.operation == SIGN]

    assert signed
    assert set(signed) == {f"{stack.key_id}.{SIGN}"}
