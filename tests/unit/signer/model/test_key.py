"""Searching the key ring."""

from signer.model.key import KeyState, find_active_key, find_key, is_blocked
from tests.support.keys import key_at


FIRST = "0x" + "11" * 20
SECOND = "0x" + "22" * 20
THIRD = "0x" + "33" * 20

ACTIVE = key_at(FIRST)
BLOCKED = key_at(SECOND, state=KeyState.BLOCKED)
RING = (BLOCKED, ACTIVE)


def test_find_key_by_address() -> None:
    assert find_key(RING, SECOND) == BLOCKED
    assert find_key(RING, THIRD) is None


def test_find_active_key() -> None:
    assert find_active_key(RING) == ACTIVE
    assert find_active_key(()) is None


def test_is_blocked() -> None:
    addresses = (FIRST, SECOND, THIRD, None)

    assert [is_blocked(RING, each) for each in addresses] == [False, True, False, False]
