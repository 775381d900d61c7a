"""The worker retires each drained key once, with an audit record."""

import pytest
import structlog

from backends.sql import SQLStore
from signer.errors import StoreUnavailableError
from signer.keys.rotation import KeyRetirement
from signer.model.key import KeyState
from tests.support.devices import recording
from tests.support.keys import key_at, made_active
from tests.support.ledgers import seal
from tests.support.refunds import SECOND, FakeClock, World, altered


ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef"


@pytest.fixture
def world(sqlite_store: SQLStore) -> World:
    """A service with an open refund of a draining key."""
    world = World(sqlite_store)
    world.broadcast()
    made_active(sqlite_store, key_at(SECOND.address, key_id=f"{ARN}99"))
    return world


def _states(world: World) -> list[str]:
    ring = world.store.keys()
    return [str(key.state) for key in ring]


def test_key_retires_after_its_last_refund(world: World) -> None:
    """O4: the worker completes the old key's refunds, and then retires the key."""
    world.work()
    waiting = _states(world)
    world.mine_deep()
    for _ in range(20):
        world.work()

    assert waiting == ["active", "draining"]
    assert _states(world) == ["active", "retired"]


def test_retirement_is_audited_once(world: World) -> None:
    """The record names key, address and epoch, and contains no whole key id."""
    _finish(world)
    audit, events = recording(journal=world.store)
    retirement = KeyRetirement(world.store, audit, FakeClock())
    for _ in range(2):
        retirement.retire([key.address for key in world.ring.cached_keys()])
    seal(world.store)
    last = world.store.sealed(0, 1000)[-1].record.fields
    retired = world.store.keys()[-1]

    assert [event["event"] for event in events] == ["key-retire-succeeded"]
    assert (last["event"], last["operation"]) == (
        "key-retire-succeeded",
        "key-rotation",
    )
    assert (last["actor"], last["outcome"]) == ("worker", "success")
    assert last["details"] == {
        "key_id": "1234abcd...",
        "address": retired.address,
        "epoch": 1,
    }


def test_unavailable_ledger_does_not_stop_the_worker(world: World) -> None:
    """The failure is logged, and the worker continues."""
    _finish(world)
    retirement = KeyRetirement(
        altered(world.store, retire=StoreUnavailableError("gone")),
        recording()[0],
        world.clock,
    )
    with structlog.testing.capture_logs() as events:
        retirement.retire([key.address for key in world.ring.cached_keys()])

    assert [(event["event"], event["code"]) for event in events] == [
        ("key-retirement-failed", "store-unavailable")
    ]
    assert world.store.keys()[-1].state is KeyState.DRAINING


def _finish(world: World) -> None:
    """Complete the refund without retiring its key."""
    world.mine_deep()
    for _ in range(3):
        world.confirmation_tracker.track()
