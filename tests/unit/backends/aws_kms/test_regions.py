"""K18: one backend with KMS keys of several regions, over HTTP."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from backends.aws_kms.backend import KMSBackend
from dev.kms_emulator import KMSEmulator
from signer.errors import BackendError, KeyNotFoundError, KeyUnusableError
from signer.ports.key_backend import KeyId
from tests.fixtures.kms import KMSOpener
from tests.support.waiting import eventually


OTHER_REGION = "eu-west-1"
DIGEST = bytes(range(32))


@pytest.fixture
def regions(kms_emulator: KMSEmulator, kms_opener: KMSOpener) -> Iterator[KMSBackend]:
    """A backend whose own region is the emulator's."""
    backend = KMSBackend(kms_opener(kms_emulator.region), kms_opener)
    yield backend
    backend.close()


@pytest.fixture
def pair(kms_emulator: KMSEmulator) -> tuple[KeyId, KeyId]:
    """A multi-Region key, and its replica in another region."""
    arn = kms_emulator.create_key(multi_region=True)
    return KeyId(arn), KeyId(kms_emulator.replicate(arn, OTHER_REGION))


def test_an_arn_is_used_in_its_region(
    regions: KMSBackend,
    kms_opener: KMSOpener,
    kms_emulator: KMSEmulator,
    pair: tuple[KeyId, KeyId],
) -> None:
    before = len(kms_emulator.trail)
    keys = set()
    for arn in (*pair, *pair):
        assert regions.resolve(arn) == arn
        keys.add(regions.public_key(arn))
        regions.sign_digest(arn, DIGEST)

    assert len(keys) == 1
    signed = [(e.region, e.key_id) for e in list(kms_emulator.trail)[before:]]
    assert signed == [(kms_emulator.region, pair[0]), (OTHER_REGION, pair[1])] * 2
    assert kms_opener.regions == [kms_emulator.region, OTHER_REGION]


def test_names_without_a_region_are_local(
    regions: KMSBackend, kms_opener: KMSOpener, pair: tuple[KeyId, KeyId]
) -> None:
    """A key id means the key in AWS_REGION, not a replica."""
    assert regions.resolve(pair[1].rpartition("/")[2]) == pair[0]
    assert len(kms_opener.regions) == 1


def test_a_malformed_arn_opens_no_client(
    regions: KMSBackend, kms_opener: KMSOpener
) -> None:
    with pytest.raises(KeyNotFoundError):
        regions.sign_digest(KeyId(f"arn:aws:kms:{OTHER_REGION}:1:key/x"), DIGEST)

    assert len(kms_opener.regions) == 1


def test_threads_share_the_client_of_a_region(
    regions: KMSBackend, kms_opener: KMSOpener, pair: tuple[KeyId, KeyId]
) -> None:
    """Threads that sign at once open one client."""
    together = Barrier(4)

    def sign() -> bytes:
        together.wait(10)
        return regions.sign_digest(pair[1], DIGEST).der

    with ThreadPoolExecutor(4) as pool:
        made = [each.result() for each in [pool.submit(sign) for _ in range(4)]]

    assert all(made)
    assert kms_opener.regions[1:] == [OTHER_REGION]


def test_a_replica_has_its_own_state(
    regions: KMSBackend, kms_emulator: KMSEmulator, pair: tuple[KeyId, KeyId]
) -> None:
    """The primary key signs while its replica is disabled."""
    kms_emulator.set_state(pair[1], "Disabled")
    with pytest.raises(KeyUnusableError):
        regions.resolve(pair[1])

    assert regions.sign_digest(pair[0], DIGEST).der


def test_an_invalid_region_is_an_error(
    regions: KMSBackend, kms_opener: KMSOpener
) -> None:
    """The error contains no text of the vendor."""
    with pytest.raises(BackendError) as raised:
        regions.resolve("arn:aws:kms:-:123456789012:key/mrk-1234abcd")

    assert "123456789012" not in str(raised.value)
    assert raised.value.__context__ is None


def test_a_backend_of_one_region_has_no_replicas(
    kms: KMSBackend, pair: tuple[KeyId, KeyId]
) -> None:
    with pytest.raises(KeyNotFoundError):
        kms.resolve(pair[1])


def test_a_region_is_not_opened_after_a_fork(kms_emulator: KMSEmulator) -> None:
    """K16: a child that inherited the backend opens no client."""
    script = f"""
import os
from functools import partial
from backends.aws_kms.backend import KMSBackend
from backends.aws_kms.client import build_client
from signer.errors import BackendError

opened = []
def client(region):
    opened.append(region)
    return build_client(region, {kms_emulator.endpoint!r}, 1, 900, 1)

kms = KMSBackend(client("eu-central-1"), client)
child = os.fork()
try:
    kms.resolve("arn:aws:kms:eu-west-1:123456789012:key/mrk-1234abcd")
except BackendError as e:
    if child == 0:
        os._exit(7 if "fork" in str(e) and len(opened) == 1 else 1)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

    finished = subprocess.run(
        [sys.executable, "-c", script], check=False, timeout=60, env=dict(os.environ)
    )

    assert finished.returncode == 7


def test_close_ends_the_connections_to_all_regions(
    regions: KMSBackend, kms_emulator: KMSEmulator, pair: tuple[KeyId, KeyId]
) -> None:
    connections = kms_emulator._server._connections
    before = set(connections)
    for arn in pair:
        regions.resolve(arn)
    ours = set(connections) - before
    regions.close()

    assert len(ours) == 2
    assert eventually(lambda: not ours & connections)
