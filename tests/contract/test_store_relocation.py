"""K18: contract of ``KeyStore.relocate``, which gives a key its replica's key id."""

from dataclasses import replace
from datetime import timedelta

import pytest

from backends.sql import SQLStore
from signer.errors import (
    ConflictError,
    KeyRotatedError,
    RotationInProgressError,
    StaleStateError,
)
from signer.model.key import ROTATION_HOLD, SIGNING, Key, KeyState
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accepted,
    now,
    opened,
    reserved,
    signed,
    stored,
)
from tests.support.audit import record
from tests.support.keys import activate, key_at, made_active, signing_condition
from tests.support.ledgers import seal


KEY_IDS = ("place-0", "place-1", "place-2")

AT = now()


@pytest.fixture
def key(store: SQLStore) -> Key:
    """The active key."""
    return store.enrol(key_at(WALLET, key_id=KEY_IDS[0]))


def test_only_the_key_id_changes(store: SQLStore, key: Key) -> None:
    """The row has the new key id and the next version; a record is written with it."""
    written = record()
    moved = store.relocate(key, KEY_IDS[1], AT, written)
    seal(store)

    assert moved == replace(key, key_id=KEY_IDS[1], version=1, updated_at=AT)
    assert list(store.keys()) == [moved]
    assert [each.record for each in store.sealed(0, 9)] == [written]


def test_each_key_id_belongs_to_one_key(store: SQLStore, key: Key) -> None:
    made_active(store, key_at(OTHER_WALLET, key_id=KEY_IDS[1]))
    draining = store.keys()[1]

    for key_id in KEY_IDS[:2]:
        with pytest.raises(ConflictError):
            store.relocate(draining, key_id, AT, record())
    assert store.keys()[1] == draining
    assert store.relocate(draining, KEY_IDS[2], AT, record()).key_id == KEY_IDS[2]


def test_a_key_that_may_not_sign_is_not_relocated(store: SQLStore, key: Key) -> None:
    """Neither a rejected nor a blocked key gets another key id."""
    pending = store.begin_rotation(key_at(OTHER_WALLET), AT)
    rejected = store.reject(pending, "key-unusable", AT)
    made_active(store, key_at(OTHER_WALLET), block=True)
    blocked = store.keys()[1]

    for given_up in (rejected, blocked):
        with pytest.raises(StaleStateError):
            store.relocate(given_up, KEY_IDS[1], AT, record())
    assert store.keys()[1] == blocked


def test_no_relocation_during_a_rotation(store: SQLStore, key: Key) -> None:
    """A relocation waits until the hold of a rotation has expired."""
    store.begin_rotation(key_at(OTHER_WALLET), AT)

    with pytest.raises(RotationInProgressError):
        store.relocate(key, KEY_IDS[1], AT, record())
    assert store.active_key() == key
    later = AT + ROTATION_HOLD + timedelta(microseconds=1)
    assert store.relocate(key, KEY_IDS[1], later, record()).key_id == KEY_IDS[1]


def test_a_relocation_invalidates_a_slow_rotation(store: SQLStore, key: Key) -> None:
    """A relocated pending key is activated only at its new version."""
    slow = store.begin_rotation(key_at(OTHER_WALLET, key_id=KEY_IDS[1]), AT)
    later = AT + ROTATION_HOLD
    moved = store.relocate(slow, KEY_IDS[2], later, record(event="moved"))

    with pytest.raises(StaleStateError):
        activate(store, slow, later, record(event="key-rotate-succeeded"))
    assert store.active_key() == key
    assert (
        activate(store, moved, later, record(event="key-rotate-succeeded")).key_id
        == KEY_IDS[2]
    )


def test_a_rotated_key_is_not_relocated(store: SQLStore, key: Key) -> None:
    made_active(store, key_at(OTHER_WALLET))

    with pytest.raises(StaleStateError):
        store.relocate(key, KEY_IDS[1], AT, record())
    assert store.keys()[1].key_id == KEY_IDS[0]


def test_the_old_key_id_is_refused(store: SQLStore, key: Key) -> None:
    """Neither a nonce nor an intent with the old key id is written any more."""
    opened(store)
    refund = accepted(store)
    store.relocate(key, KEY_IDS[1], AT, record())

    with pytest.raises(KeyRotatedError):
        reserved(store, refund, key_id=KEY_IDS[0])
    for states in (SIGNING, frozenset({KeyState.ACTIVE})):
        with pytest.raises(KeyRotatedError):
            store.append([record()], condition=signing_condition(key, states))
    assert stored(store, refund) == refund
    paid = reserved(store, refund, key_id=KEY_IDS[1])
    assert (paid.nonce, paid.key_id) == (0, KEY_IDS[1])


def test_a_reservation_before_a_relocation_stays(store: SQLStore, key: Key) -> None:
    """A refund keeps its nonce, sender and the key id that it was reserved with."""
    opened(store)
    refund = reserved(store, accepted(store), key_id=KEY_IDS[0])
    store.relocate(key, KEY_IDS[1], AT, record())
    after = signed(store, refund)

    assert stored(store, refund) == after
    assert (after.nonce, after.sender, after.key_id) == (0, WALLET, KEY_IDS[0])
