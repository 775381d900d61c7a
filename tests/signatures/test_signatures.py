"""Thousands of signatures of each backend (G9)."""

import pytest

from tests.contract.devices import open_device
from tests.contract.signatures import all_good, some_signatures


# ministack signs slowly.
NUMBERS = {"reference": 10_000, "softhsm": 10_000, "kms": 10_000, "ministack": 1_000}


@pytest.mark.parametrize(("name", "number"), NUMBERS.items())
def test_every_signature_is_good(
    request: pytest.FixtureRequest, name: str, number: int
) -> None:
    """All are 65 bytes, low-s, distinct, and recover to the key."""
    device = open_device(name, request)

    signatures = some_signatures(device, number)

    assert len(signatures) == number
    assert all_good(device, signatures)
