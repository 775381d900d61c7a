"""Contract of which key is replaced, and which may be revoked (O2, O8)."""

from dataclasses import replace

import pytest

from backends.sql import SQLStore
from signer.errors import KeyRotatedError, RotationInProgressError, StaleStateError
from signer.model.key import Key, KeyState
from signer.ports import KeyStore
from tests.fixtures.ledger import OTHER_WALLET, WALLET, now
from tests.support.audit import record
from tests.support.keys import key_at, made_active


THIRD = "0x9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0"

FIRST, SECOND, OTHER = (key_at(each) for each in (WALLET, OTHER_WALLET, THIRD))

AT = now()


@pytest.fixture
def first(store: SQLStore) -> Key:
    """The ring's active key."""
    return store.enrol(FIRST)


def _states(store: KeyStore) -> dict[str, str]:
    ring = store.keys()
    return {key.address: str(key.state) for key in ring}


@pytest.mark.parametrize("block", [False, True])
def test_only_the_key_that_was_seen_is_replaced(
    store: SQLStore, first: Key, *, block: bool
) -> None:
    """O2, O8: with another key active by now, or once more, nothing is changed."""
    second = made_active(store, SECOND)
    pending = store.begin_rotation(OTHER, AT)
    before = list(store.keys())

    for key in (first, replace(second, epoch=3), None):
        with pytest.raises(KeyRotatedError):
            store.activate(pending, AT, record(), replacing=key, block=block)
    store.seal()
    assert list(store.keys()) == before
    assert store.head()[0] == 1  # The first rotation's record.


def test_the_first_key_replaces_none(store: SQLStore) -> None:
    """O2: if there is no active key, *replacing* must be None."""
    pending = store.begin_rotation(SECOND, AT)
    with pytest.raises(KeyRotatedError):
        store.activate(pending, AT, record(), replacing=FIRST)
    activated = store.activate(pending, AT, record(), replacing=None)

    assert (activated.epoch, _states(store)) == (1, {OTHER_WALLET: "active"})


@pytest.mark.usefixtures("first")
def test_a_waiting_rollback_is_blocked(store: SQLStore) -> None:
    """O8: a pending former key can be revoked, unless its hold has not expired."""
    made_active(store, SECOND)
    held = store.begin_rotation(FIRST, AT)
    with pytest.raises(RotationInProgressError):
        store.block(held, AT, record())
    waiting = store.wait_for(held, "awaiting-funds", AT)
    with pytest.raises(StaleStateError):
        store.block(held, AT, record())
    blocked = store.block(waiting, AT, record())

    assert (blocked.state, blocked.blocked_by) == (KeyState.BLOCKED, None)
    assert _states(store) == {WALLET: "blocked", OTHER_WALLET: "active"}
    assert store.begin_rotation(OTHER, AT).state is KeyState.PENDING


def test_what_is_no_former_key_is_not_blocked(store: SQLStore, first: Key) -> None:
    """O8: neither the active key, nor a pending one that never gave a nonce out."""
    pending = store.begin_rotation(SECOND, AT)

    for key in (first, store.wait_for(pending, "awaiting-funds", AT)):
        with pytest.raises(StaleStateError):
            store.block(key, AT, record())
    assert _states(store) == {WALLET: "active", OTHER_WALLET: "pending"}
