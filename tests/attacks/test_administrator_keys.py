"""An administrator's token, with which another key is named."""

import gc
import weakref
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import TYPE_CHECKING

import pytest
from falcon.testing import Result, TestClient

from api.http.app import create_app
from backends.aws_kms.backend import KMSBackend
from backends.aws_kms.client import known_regions
from backends.sql import SQLStore
from dev.kms_emulator import KMSEmulator
from signer.config.allowed_keys import AllowedKeys, default_patterns
from signer.errors import KeyNotFoundError, KeyUnusableError
from signer.ports.key_backend import KeyId
from tests.api.administrators import post_as_admin
from tests.api.service import build_container, replaced
from tests.api.support import SettableClock
from tests.fixtures.kms import KMSOpener
from tests.support.ring import System


if TYPE_CHECKING:
    from types_boto3_kms import KMSClient


ROTATE, FAILOVER = "/v1/admin/kms/rotate", "/v1/admin/kms/failover"
UUID = "1234abcd-12ab-34cd-56ef-1234567890ab"

Attack = Callable[[str, str], Result]
"""Posts the name of a key to a route."""


@pytest.fixture
def backend(
    kms_emulator: KMSEmulator, kms_key: KeyId, kms_opener: KMSOpener
) -> Iterator[KMSBackend]:
    """The backend of a service whose ``KMS_KEY_ID`` is the ARN of a key."""
    allowed = AllowedKeys(default_patterns(kms_key, kms_emulator.region))
    backend = KMSBackend(kms_opener(kms_emulator.region), kms_opener, allowed)
    yield backend
    backend.close()


@pytest.fixture
def attack(backend: KMSBackend, sqlite_store: SQLStore) -> Attack:
    """Each attempt comes a minute after the last one, as the rate limit demands."""
    system = System(sqlite_store)
    system.directory = backend  # type: ignore[assignment]
    clock = SettableClock()
    container = replaced(
        build_container(sqlite_store, clock),
        rotation=system.rotation(),
        failover=system.failover(),
    )
    client = TestClient(create_app(container))

    def post(path: str, name: str) -> Result:
        clock.advance(60)
        return post_as_admin(client, path, {"newKeyId": name}, now=clock())

    return post


def _arn(region: str, account: str = "123456789012", key: str = f"key/{UUID}") -> str:
    return f"arn:aws:kms:{region}:{account}:{key}"


def _require_refused(answer: Result) -> None:
    assert answer.status_code == 400
    assert (answer.json["code"], answer.json["field"]) == ("invalid-input", "newKeyId")
    assert "KMS_ALLOWED_KEYS" in answer.json["detail"]


@pytest.mark.parametrize("path", [ROTATE, FAILOVER])
def test_thirty_regions_cost_no_client(
    attack: Attack, kms_opener: KMSOpener, path: str
) -> None:
    """Neither invented regions nor regions of AWS, for key and alias ARNs."""
    invented = [f"eu-nowhere-{number}" for number in range(30)]
    real = sorted(known_regions() - set(kms_opener.regions))
    keys = cycle((f"key/{UUID}", "key/mrk-1234abcd", "alias/refunds"))
    for region in (*invented, *real[:30]):
        _require_refused(attack(path, _arn(region, key=next(keys))))

    assert len(kms_opener.regions) == 1


def test_a_key_of_another_account(attack: Attack, kms_emulator: KMSEmulator) -> None:
    """KMS is not asked for it."""
    asked = len(kms_emulator.journal)
    for path in (ROTATE, FAILOVER):
        for key in (f"key/{UUID}", "alias/refunds"):
            arn = _arn(kms_emulator.region, "444455556666", key)
            _require_refused(attack(path, arn))

    assert len(kms_emulator.journal) == asked


@pytest.mark.parametrize("path", [ROTATE, FAILOVER])
def test_an_alias_of_a_key_that_is_not_allowed(
    attack: Attack, kms_emulator: KMSEmulator, backend: KMSBackend, path: str
) -> None:
    """An alias and a bare id are judged by the key that they lead to."""
    backend._allowed = AllowedKeys((_arn(kms_emulator.region),))
    arn = kms_emulator.create_key()

    _require_refused(attack(path, arn.rpartition("/")[2]))


def test_a_row_of_the_ring_with_a_key_of_another_account(backend: KMSBackend) -> None:
    """A party that can write to the database chooses no key elsewhere."""
    for arn in map(KeyId, (_arn("eu-west-1"), _arn("eu-central-1", "444455556666"))):
        with pytest.raises(KeyUnusableError, match="KMS_ALLOWED_KEYS"):
            backend.public_key(arn)
        with pytest.raises(KeyUnusableError, match="KMS_ALLOWED_KEYS"):
            backend.sign_digest(arn, bytes(32))


def test_allowed_regions_keep_four_clients(
    kms_emulator: KMSEmulator, kms_opener: KMSOpener
) -> None:
    """Replicas are allowed in every region; the memory of the others is given back."""
    alive: weakref.WeakSet[KMSClient] = weakref.WeakSet()

    def build(region: str) -> "KMSClient":
        client = kms_opener(region)
        alive.add(client)
        return client

    primary = kms_emulator.create_key(multi_region=True)
    allowed = AllowedKeys(default_patterns(primary, kms_emulator.region))
    backend = KMSBackend(build(kms_emulator.region), build, allowed)
    elsewhere = sorted(known_regions() - {kms_emulator.region})[:8]
    for region in elsewhere:
        with pytest.raises(KeyNotFoundError):
            backend.resolve(primary.replace(kms_emulator.region, region))
    gc.collect()

    assert len(kms_opener.regions) == 9
    assert len(alive) == 4
    assert backend.resolve(primary) == primary
    assert len(kms_opener.regions) == 9
    backend.close()
