"""O8: a former key is given up for good, whatever it does; every try is on record."""

from typing import Any

import pytest

from backends.sql import SQLStore
from signer.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    RotationInProgressError,
    StaleStateError,
)
from signer.model.audit_record import Record
from signer.model.key import Key, KeyState
from tests.support.keys import key_at
from tests.support.refunds import altered
from tests.support.ring import ALICE, NEW, OLD, OTHER, POOR, System


@pytest.fixture
def system(sqlite_store: SQLStore) -> System:
    """A system that was rotated from its first key to the next one."""
    system = System(sqlite_store)
    system.rotation().rotate(NEW, ALICE)
    return system


def _record(key: Key) -> Record:
    return Record.of({"event": "test", "address": key.address}, key.created_at)


def _new_outcomes(system: System, before: int) -> list[tuple[str, str]]:
    return [(each["event"], each["outcome"]) for each in system.records[before:]]


def test_a_former_key_is_given_up_later(system: System) -> None:
    """It was drained as usual, and then somebody found out; again is fine."""
    blocked, stranded = system.blocking().block(system.address(OLD), ALICE)
    again, _ = system.blocking().block(system.address(OLD), ALICE)

    assert (blocked.state, stranded) == (KeyState.BLOCKED, ())
    assert again == blocked
    with pytest.raises(ConflictError, match="given up"):
        system.rotation().rotate(OLD, ALICE)


def test_it_is_on_record(system: System) -> None:
    """Intent and outcome name who, which key, and the token; no whole ids."""
    before = len(system.records)
    system.blocking().block(system.address(OLD), ALICE)
    intent, done = system.records[before:]

    assert (intent["event"], done["event"]) == (
        "key-revoke-requested",
        "key-revoke-succeeded",
    )
    assert intent["details"] == {"key_address": system.address(OLD)}
    assert done["details"] == {
        "key": "11111111...",
        "key_address": system.address(OLD),
    }
    for each in (intent, done):
        assert (each["actor"], each["token_id"]) == ("alice", "token-1")
        assert (each["operation"], each["outcome"]) == ("key-rotation", "success")


@pytest.mark.parametrize("spelled", [str.lower, str], ids=["lower case", "EIP-55"])
def test_either_spelling_is_the_address(system: System, spelled: Any) -> None:
    """What a block explorer shows in lower case is found all the same."""
    address = spelled(system.address(OLD))
    blocked, _ = system.blocking().block(address, ALICE)

    assert blocked.state is KeyState.BLOCKED


MALFORMED = ("", "0x1234", OLD, "0x" + "F" * 40, "f" * 40)


@pytest.mark.parametrize("address", MALFORMED)
def test_a_malformed_address(system: System, address: str) -> None:
    """It is said to be none; on record without what may be a key's id."""
    before = len(system.records)
    with pytest.raises(InvalidInputError) as raised:
        system.blocking().block(address, ALICE)

    assert raised.value.field == "address"
    assert _new_outcomes(system, before) == [
        ("key-revoke-requested", "success"),
        ("key-revoke-refused", "invalid-input"),
    ]
    assert OLD not in str(system.records[before:])


def test_the_active_key_is_not_blocked(system: System) -> None:
    """It serves until another does; what to do is told, and the refusal on record."""
    before = len(system.records)
    with pytest.raises(ConflictError, match="rotate to another"):
        system.blocking().block(system.address(NEW), ALICE)

    assert _new_outcomes(system, before) == [
        ("key-revoke-requested", "success"),
        ("key-revoke-refused", "conflict"),
    ]
    assert system.states == {NEW: "active", OLD: "draining"}
    assert system.told == []


def test_a_stranger_is_not_blocked(system: System) -> None:
    """An address of nobody's is not found; on record as well."""
    before = len(system.records)
    with pytest.raises(NotFoundError):
        system.blocking().block(system.address(OTHER), ALICE)

    assert _new_outcomes(system, before)[-1] == ("key-revoke-refused", "not-found")


def test_a_key_that_never_served(system: System) -> None:
    """There is nothing to give up, pending or rejected; the way to end it is named."""
    pending = system.store.begin_rotation(
        key_at(system.address(OTHER), key_id=OTHER), system.clock()
    )
    with pytest.raises(ConflictError, match="pending, and never served"):
        system.blocking().block(pending.address, ALICE)
    system.store.reject(pending, "key-unusable", system.clock())
    with pytest.raises(ConflictError, match="rejected, and never served"):
        system.blocking().block(pending.address, ALICE)
    with pytest.raises(StaleStateError):
        system.store.block(pending, system.clock(), _record(pending))


def test_a_rollback_that_waits_for_funds(system: System) -> None:
    """The key that was to come back is given up: the rotation to it is over."""
    system.holdings = (POOR,)
    system.rotation(needs_funds=True).rotate(OLD, ALICE)
    pending = system.states[OLD]
    blocked, _ = system.blocking().block(system.address(OLD), ALICE)

    assert pending == "pending"
    assert (blocked.state, blocked.blocked_by) == (KeyState.BLOCKED, None)
    assert system.states == {NEW: "active", OLD: "blocked"}
    assert system.rotation().rotate(OTHER, ALICE).status == "rotated"


def test_a_rollback_that_is_under_way(system: System) -> None:
    """Whoever rotates back to it this very moment is not interrupted: ask again."""
    system.store.begin_rotation(key_at(system.address(OLD), key_id=OLD), system.clock())
    with pytest.raises(RotationInProgressError):
        system.blocking().block(system.address(OLD), ALICE)
    system.clock.advance(seconds=20)
    blocked, _ = system.blocking().block(system.address(OLD), ALICE)

    assert blocked.state is KeyState.BLOCKED


def test_a_key_that_is_retired_meanwhile(system: System) -> None:
    """A worker was faster by a moment: the key is looked at again, and given up."""
    late = iter([system.store.retire])

    def retired_first(*given: Any) -> Key:
        for retire in late:
            retire([system.address(OLD)], system.clock(), _record)
        return system.store.block(*given)

    ledger = altered(system.store, block=retired_first)
    blocked, _ = system.blocking(ledger).block(system.address(OLD), ALICE)

    assert blocked.state is KeyState.BLOCKED


def test_a_key_that_never_stands_still(system: System) -> None:
    """Who is always slower is told to ask later, in the end."""

    def stale(*_: Any) -> Key:
        raise StaleStateError("the key has changed")

    with pytest.raises(RotationInProgressError, match="faster"):
        system.blocking(altered(system.store, block=stale)).block(
            system.address(OLD), ALICE
        )

    assert ("key-revoke-refused", "rotation-in-progress") in system.outcomes
