"""O8: a former key is revoked permanently, and every attempt is audited."""

from typing import Any

import pytest

from signer.errors import (
    ConflictError,
    HotWalletError,
    InvalidInputError,
    NotFoundError,
    RotationInProgressError,
    StaleStateError,
)
from signer.model.audit_record import Record
from signer.model.key import Key, KeyState
from tests.support.refunds import altered
from tests.support.ring import ALICE, NEW, OLD, OTHER, POOR, System


@pytest.fixture
def system(system: System) -> System:
    """A system that was rotated from its first key to the next one."""
    system.rotation().rotate(NEW, ALICE)
    return system


def _record(key: Key) -> Record:
    return Record.of({"event": "test", "address": key.address}, key.created_at)


def test_draining_key_is_revoked(system: System) -> None:
    """A draining key can be revoked; a repeated call changes nothing."""
    blocked, stranded = system.revocation().revoke(system.address(OLD), ALICE)
    again, _ = system.revocation().revoke(system.address(OLD).lower(), ALICE)

    assert (blocked.state, stranded) == (KeyState.BLOCKED, ())
    assert again == blocked
    with pytest.raises(ConflictError, match="revoked"):
        system.rotation().rotate(OLD, ALICE)


def test_revocation_is_audited(system: System) -> None:
    """Intent and outcome name actor, token and key, but no whole key id."""
    before = len(system.records)
    system.revocation().revoke(system.address(OLD), ALICE)
    intent, done = system.records[before:]

    assert (intent["event"], done["event"]) == (
        "key-revoke-requested",
        "key-revoke-succeeded",
    )
    assert intent["details"] == {"key_address": system.address(OLD)}
    assert done["details"] == {"key": "11111111...", "key_address": system.address(OLD)}
    for each in (intent, done):
        assert (each["actor"], each["token_id"]) == ("alice", "token-1")
        assert (each["operation"], each["outcome"]) == ("key-rotation", "success")


@pytest.mark.parametrize("address", ["", "0x1234", OLD, "0x" + "F" * 40, "f" * 40])
def test_malformed_address_is_refused(system: System, address: str) -> None:
    """The refusal is audited without the text, which may be a key id."""
    with pytest.raises(InvalidInputError) as raised:
        system.revocation().revoke(address, ALICE)

    assert raised.value.field == "address"
    assert ("key-revoke-requested", "success") in system.outcomes
    assert ("key-revoke-refused", "invalid-input") in system.outcomes
    assert OLD not in str(system.records)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [(NEW, ConflictError, "rotate to another"), (OTHER, NotFoundError, None)],
    ids=["active", "not in the ring"],
)
def test_only_former_keys_are_revoked(
    system: System, name: str, error: type[HotWalletError], message: str | None
) -> None:
    """The refusal of the active key says to rotate first; both are audited."""
    with pytest.raises(error, match=message):
        system.revocation().preview(system.address(name))
    with pytest.raises(error, match=message):
        system.revocation().revoke(system.address(name), ALICE)

    assert ("key-revoke-requested", "success") in system.outcomes
    assert ("key-revoke-refused", error.code) in system.outcomes
    assert system.states == {NEW: "active", OLD: "draining"}
    assert system.alerts == []


def test_key_that_was_never_active_is_not_revoked(system: System) -> None:
    """A pending or rejected key is refused with a hint at how to end its rotation."""
    pending = system.begin_rotation(OTHER)
    with pytest.raises(ConflictError, match="pending and was never active"):
        system.revocation().revoke(pending.address, ALICE)
    system.store.reject(pending, "key-unusable", system.clock())
    with pytest.raises(ConflictError, match="rejected and was never active"):
        system.revocation().revoke(pending.address, ALICE)
    with pytest.raises(StaleStateError):
        system.store.block(pending, system.clock(), _record(pending))


def test_revocation_ends_a_waiting_rollback(system: System) -> None:
    """A key that waits for funds to become active again can be revoked."""
    system.holdings = (POOR,)
    system.rotation(needs_funds=True).rotate(OLD, ALICE)
    pending = system.states[OLD]
    blocked, _ = system.revocation().revoke(system.address(OLD), ALICE)

    assert pending == "pending"
    assert (blocked.state, blocked.blocked_by) == (KeyState.BLOCKED, None)
    assert system.states == {NEW: "active", OLD: "blocked"}
    assert system.rotation().rotate(OTHER, ALICE).status == "rotated"


def test_revocation_waits_for_a_rollback_in_progress(system: System) -> None:
    """A rollback whose hold has not expired is not interrupted: try again."""
    system.begin_rotation(OLD)
    with pytest.raises(RotationInProgressError):
        system.revocation().revoke(system.address(OLD), ALICE)
    system.clock.advance(seconds=20)
    blocked, _ = system.revocation().revoke(system.address(OLD), ALICE)

    assert blocked.state is KeyState.BLOCKED


def test_a_preview_changes_nothing(system: System) -> None:
    """It returns the key and the refunds that revoking it would leave unfinished."""
    ids = {system.address(OLD): ("rf_1", "rf_2")}
    store = altered(system.store, stranded=lambda address, limit: ids[address])
    before = system.states, len(system.records)
    key, stranded = system.revocation(store).preview(system.address(OLD).lower())

    assert (key.state, key.address) == (KeyState.DRAINING, system.address(OLD))
    assert stranded == ("rf_1", "rf_2")
    assert (system.states, len(system.records)) == before


def test_key_retired_meanwhile_is_revoked(system: System) -> None:
    """If a worker retires the key first, the second try revokes it."""
    late = iter([system.store.retire])

    def retired_first(*given: Any) -> Key:
        for retire in late:
            retire([system.address(OLD)], system.clock(), _record)
        return system.store.block(*given)

    ledger = altered(system.store, block=retired_first)
    blocked, _ = system.revocation(ledger).revoke(system.address(OLD), ALICE)

    assert blocked.state is KeyState.BLOCKED


def test_key_that_keeps_changing_is_a_conflict(system: System) -> None:
    """After three stale reads, the error says to try again."""
    with pytest.raises(RotationInProgressError, match="keep changing"):
        system.revocation(
            altered(system.store, block=StaleStateError("changed"))
        ).revoke(system.address(OLD), ALICE)

    assert ("key-revoke-refused", "rotation-in-progress") in system.outcomes
