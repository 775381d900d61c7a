"""10,000 signatures on the KMS emulator, over HTTP (G9)."""

import pytest

from tests.contract.devices import open_device
from tests.contract.signatures import all_good, some_signatures


NUMBER = 10_000


def test_every_signature_is_good(request: pytest.FixtureRequest) -> None:
    """All are 65 bytes, low-s, distinct, and recover to the key."""
    device = open_device("kms", request)

    signatures = some_signatures(device, NUMBER)

    assert len(signatures) == NUMBER
    assert all_good(device, signatures)
