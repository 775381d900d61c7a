"""A hundred thousand signatures per backend, and a thousand of one digest (G9, S14)."""

import os
import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.contract.devices import DEVICES, Device, open_device
from tests.contract.signatures import all_good, some_signatures


pytestmark = pytest.mark.soak

COUNT = int(os.environ.get("SOAK_SIGNATURES", "100000"))
_BATCH = 10_000


@pytest.fixture(scope="session", params=DEVICES)
def device(request: pytest.FixtureRequest) -> Device:
    """Each key backend in turn, with a key in it."""
    return open_device(request.param, request)


def test_every_signature_is_good(device: Device) -> None:
    """All are 65 bytes, low-s, distinct, and recover to the key (G9)."""
    for done in range(0, COUNT, _BATCH):
        signatures = some_signatures(device, min(_BATCH, COUNT - done))

        assert all_good(device, signatures), f"after {done}"


def test_no_nonce_is_used_twice(device: Device) -> None:
    """The same digest signed 1,000 times has 1,000 different r (S14)."""
    digest = secrets.token_bytes(32)

    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(
            lambda _: device.signs.sign_digest(device.key, digest), range(1_000)
        )
        found = {decode_dss_signature(answer.der)[0] for answer in answers}

    assert len(found) == 1_000
