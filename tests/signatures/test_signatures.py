"""Thousands of signatures of each backend (G9, S14)."""

import os
import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.contract.devices import DEVICES, open_device
from tests.contract.signatures import all_good, some_signatures


MANY = int(os.environ.get("SOAK_SIGNATURES", "100000"))

_BATCH = 10_000


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *((name, 200) for name in DEVICES),
        *(pytest.param(name, MANY, marks=pytest.mark.soak) for name in DEVICES),
    ],
)
def test_every_signature_is_good(
    request: pytest.FixtureRequest, name: str, number: int
) -> None:
    """All are 65 bytes, low-s, distinct, and recover to the key (G9)."""
    device = open_device(name, request)
    for done in range(0, number, _BATCH):
        count = min(_BATCH, number - done)
        signatures = some_signatures(device, count)

        assert len(signatures) == count
        assert all_good(device, signatures), f"after {done}"


@pytest.mark.soak
@pytest.mark.parametrize("name", DEVICES)
def test_no_signature_nonce_is_used_twice(
    request: pytest.FixtureRequest, name: str
) -> None:
    """The same digest signed 1,000 times has 1,000 different r (S14)."""
    device = open_device(name, request)
    digest = secrets.token_bytes(32)

    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(
            lambda _: device.signs.sign_digest(device.key, digest), range(1_000)
        )
        found = {decode_dss_signature(answer.der)[0] for answer in answers}

    assert len(found) == 1_000
