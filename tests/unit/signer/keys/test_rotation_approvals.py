"""A key is revoked as compromised only after two administrators agreed."""

from dataclasses import replace

import pytest

from signer.errors import ApprovalRequiredError, NewKeyUnhealthyError
from signer.keys.rotation import AWAITING_FUNDS, RotationOptions
from signer.model.audit_record import Actor
from signer.model.key import KeyState
from tests.support.ring import ALICE, NEW, OLD, OTHER, POOR, System


ADMIN, BOB = Actor("token:alice"), Actor("token:bob")
WHY = "the host was stolen"


def _compromised(system: System, *, without_funds: bool = True) -> RotationOptions:
    return RotationOptions(
        compromised=True,
        active_address=system.address(OLD),
        without_funds=without_funds,
    )


def _rotate(
    system: System, options: RotationOptions, name: str = NEW, actor: Actor = ADMIN
) -> str:
    rotation = system.rotation(approvals=system.approvals())
    return rotation.rotate(name, actor, options).status


def _ask(system: System, options: RotationOptions, name: str = NEW) -> str:
    with pytest.raises(ApprovalRequiredError) as refused:
        _rotate(system, options, name)
    return refused.value.digest


def _state(system: System, name: str) -> KeyState:
    ring = system.store.keys()
    found = {key.address: key.state for key in ring}
    return found[system.address(name)]


def test_a_planned_rotation_and_a_dry_run_need_one_person(system: System) -> None:
    dry_run = replace(_compromised(system), dry_run=True)

    assert _rotate(system, dry_run).startswith("would-")
    assert _rotate(system, RotationOptions()) == "rotated"
    assert system.approvals().list().approvals == []


def test_a_key_is_revoked_after_an_approval(system: System) -> None:
    """Nothing changes before: the ring has no pending key either."""
    options = _compromised(system)
    digest = _ask(system, options)
    assert list(system.store.keys()) == [system.old]
    system.approvals().approve(digest, BOB.because(WHY))

    assert _rotate(system, options) == "rotated"
    assert _state(system, OLD) is KeyState.BLOCKED
    assert _rotate(system, options) == "rotated"  # Nothing is left to approve.


def test_an_approval_is_for_one_new_key(system: System) -> None:
    """A thief of one token cannot use it to rotate to another key."""
    options = _compromised(system)
    system.approvals().approve(_ask(system, options), BOB.because(WHY))

    _ask(system, options, OTHER)
    assert system.store.active_key() == system.old


def test_a_rotation_that_waits_for_funds_keeps_its_approval(system: System) -> None:
    options = _compromised(system, without_funds=False)
    system.approvals().approve(_ask(system, options), BOB.because(WHY))
    rich, system.holdings = system.holdings, (POOR,)
    waiting = _rotate(system, options)
    system.holdings = rich

    assert waiting == AWAITING_FUNDS
    assert _rotate(system, options) == "rotated"
    assert _state(system, OLD) is KeyState.BLOCKED


def test_a_rotation_that_fails_keeps_its_approval(system: System) -> None:
    options = _compromised(system)
    system.approvals().approve(_ask(system, options), BOB.because(WHY))
    device = system.directory.devices.pop(NEW)
    with pytest.raises(NewKeyUnhealthyError):
        _rotate(system, options)
    system.directory.devices[NEW] = device

    assert _rotate(system, options, actor=BOB) == "rotated"


def test_the_key_that_a_rotation_replaced_is_revoked_after_an_approval(
    system: System,
) -> None:
    """The request that says so may come after the rotation."""
    system.rotation().rotate(NEW, ALICE)
    options = _compromised(system)
    digest = _ask(system, options)
    assert _state(system, OLD) is KeyState.DRAINING
    system.approvals().approve(digest, BOB.because(WHY))

    assert _rotate(system, options) == "rotated"
    assert _state(system, OLD) is KeyState.BLOCKED


def test_a_former_key_is_revoked_after_an_approval(system: System) -> None:
    """Otherwise a planned rotation and a revocation would need one person."""
    system.rotation().rotate(NEW, ALICE)
    revocation = system.revocation(approvals=system.approvals())
    with pytest.raises(ApprovalRequiredError) as refused:
        revocation.revoke(system.address(OLD), ADMIN)
    assert _state(system, OLD) is KeyState.DRAINING
    system.approvals().approve(refused.value.digest, BOB.because(WHY))
    revocation.revoke(system.address(OLD), ADMIN)
    revocation.revoke(system.address(OLD), ADMIN)  # Nothing is left to approve.

    assert _state(system, OLD) is KeyState.BLOCKED
    assert system.approvals().list().approvals == []
