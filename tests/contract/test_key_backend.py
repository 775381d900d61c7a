"""Every key backend passes the contract."""

from backends.testing import Device, KeyBackendContract
from tests.contract.signatures import all_good, some_signatures


class TestKeyBackend(KeyBackendContract):
    """The contract, which ``backends/testing.py`` has for other packages too."""


def test_hundreds_of_signatures(device: Device) -> None:
    """All are 65 bytes, low-s, and recover to the key (G9)."""
    # `tests/signatures` has ten thousand of each backend.
    signatures = some_signatures(device, 100)

    assert len(signatures) == 100
    assert all_good(device, signatures)
