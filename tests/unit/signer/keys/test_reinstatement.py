"""A key that was revoked by mistake is a former key again, for a day."""

from typing import Any

import pytest

from signer.errors import (
    ApprovalRequiredError,
    ConflictError,
    HotWalletError,
    InvalidInputError,
    NotFoundError,
    RotationInProgressError,
    StaleStateError,
)
from signer.keys.rotation import RotationOptions
from signer.model.audit_record import Actor
from signer.model.key import REINSTATABLE_FOR, Key, KeyState
from tests.support.refunds import altered
from tests.support.ring import ALICE, NEW, OLD, OTHER, System


WHY = "the wrong address"

CAROL, BOB = Actor("token:carol"), Actor("token:bob")


@pytest.fixture
def system(system: System) -> System:
    """A system that was rotated, and whose first key was then revoked."""
    system.rotation().rotate(NEW, ALICE)
    system.revocation().revoke(system.address(OLD), ALICE)
    return system


def _reinstate(system: System, name: str = OLD, store: Any = None) -> Key:
    address = system.address(name)
    return system.revocation(store).reinstate(address, ALICE.because(WHY))[0]


def test_a_revoked_key_drains_again(system: System) -> None:
    """A repeated call changes nothing, also once the key is retired."""
    reinstated, again = _reinstate(system), _reinstate(system)
    system.store.retire(
        [reinstated.address], system.clock(), lambda _: system.audit.forged([])
    )

    assert reinstated.state is KeyState.DRAINING
    assert (reinstated.revoked_at, reinstated.reinstatable_until) == (None, None)
    assert again == reinstated
    assert _reinstate(system).state is KeyState.RETIRED
    assert system.rotation().rotate(OLD, ALICE).status == "rotated"


def test_the_active_key_of_a_compromised_rotation(system: System) -> None:
    """It does not become the active key again."""
    options = RotationOptions(compromised=True, active_address=system.address(NEW))
    system.rotation().rotate(OTHER, ALICE, options)
    reinstated = _reinstate(system, NEW)

    assert reinstated.state is KeyState.DRAINING
    assert system.states == {OLD: "blocked", NEW: "draining", OTHER: "active"}


def test_a_reinstatement_is_audited(system: System) -> None:
    before = len(system.records)
    _reinstate(system)
    intent, done = system.records[before:]

    facts = {"key_address": system.address(OLD), "reason": WHY}
    assert (intent["event"], intent["details"]) == ("key-reinstate-requested", facts)
    assert done["event"] == "key-reinstate-succeeded"
    assert done["details"] == {"key": "11111111...", **facts}
    assert (done["actor"], done["operation"]) == ("alice", "key-rotation")


@pytest.mark.parametrize("days", [1, -1])
def test_a_day_later_it_is_final(system: System, days: int) -> None:
    """Also if the clock of the host that revoked it was a day ahead."""
    address = system.address(OLD)
    system.clock.advance(days=days, seconds=-days)
    soon, _ = system.revocation().preview_reinstatement(address)
    system.clock.advance(seconds=days)
    with pytest.raises(ConflictError, match="24 hours"):
        system.revocation().preview_reinstatement(address)
    with pytest.raises(ConflictError, match="24 hours"):
        _reinstate(system)

    assert soon.state is KeyState.BLOCKED
    assert soon.revoked_at is not None
    assert soon.reinstatable_until == soon.revoked_at + REINSTATABLE_FOR

    assert ("key-reinstate-refused", "conflict") in system.outcomes
    assert system.states[OLD] == "blocked"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [(NEW, ConflictError, "is active, and not"), (OTHER, NotFoundError, "no key")],
    ids=["active", "not in the ring"],
)
def test_only_revoked_keys_are_reinstated(
    system: System, name: str, error: type[HotWalletError], message: str
) -> None:
    with pytest.raises(error, match=message):
        _reinstate(system, name)

    assert ("key-reinstate-refused", error.code) in system.outcomes
    assert system.states == {NEW: "active", OLD: "blocked"}


@pytest.mark.parametrize(
    ("address", "reason", "field"),
    [
        *((address, WHY, "address") for address in ("", "0x1234", OLD)),
        *((None, reason, "reason") for reason in ("", " ", "a" * 201, "two\nlines")),
    ],
)
def test_a_malformed_request(
    system: System, address: str | None, reason: str, field: str
) -> None:
    """The audit record does not contain the text, which may be a key id."""
    given = system.address(OLD) if address is None else address
    with pytest.raises(InvalidInputError) as raised:
        system.revocation().reinstate(given, ALICE.because(reason))

    assert raised.value.field == field
    assert OLD not in str(system.records)


def _ask(system: System) -> str:
    reinstatement = system.revocation(approvals=system.approvals())
    with pytest.raises(ApprovalRequiredError) as refused:
        reinstatement.reinstate(system.address(OLD), CAROL.because(WHY))
    return refused.value.digest


def _reinstate_with_approval(system: System) -> None:
    reinstatement = system.revocation(approvals=system.approvals())
    reinstatement.reinstate(system.address(OLD), CAROL.because(WHY))


def test_two_administrators(system: System) -> None:
    """The approval names this revocation, and is used once."""
    digest = _ask(system)
    (asked,) = system.approvals().list().approvals
    system.approvals().approve(digest, BOB.because(WHY))
    _reinstate_with_approval(system)
    system.revocation().revoke(system.address(OLD), ALICE)
    system.clock.advance(seconds=1)

    assert asked.reason == WHY
    assert system.address(OLD) in asked.proposal
    assert "revoked_at" in asked.proposal
    assert _ask(system) != digest
    assert system.states[OLD] == "blocked"


def test_the_approval_comes_too_late(system: System) -> None:
    """The day counts from the revocation, also for an approval."""
    system.clock.advance(hours=23)
    system.approvals().approve(_ask(system), BOB.because(WHY))
    system.clock.advance(hours=2)
    with pytest.raises(ConflictError, match="24 hours"):
        _reinstate_with_approval(system)

    assert system.states[OLD] == "blocked"


def test_another_administrator_is_faster(system: System) -> None:
    others = [system.store]

    def late(key: Key, *given: Any) -> Key:
        while others:
            others.pop().reinstate(key, *given)
        return system.store.reinstate(key, *given)

    reinstated = _reinstate(system, store=altered(system.store, reinstate=late))

    assert reinstated.state is KeyState.DRAINING


def test_a_key_that_keeps_changing(system: System) -> None:
    broken = altered(system.store, reinstate=StaleStateError("changed"))
    with pytest.raises(RotationInProgressError, match="keep changing"):
        _reinstate(system, store=broken)

    assert ("key-reinstate-refused", "rotation-in-progress") in system.outcomes
