"""
A person who wants a revoked key to sign again, and whom no second person helps.

The key was stolen, and the thief still has it: a reinstatement would give the thief's
signatures back their way through the service.
"""

from collections.abc import Callable
from datetime import timedelta

import pytest

from backends.sql import SQLStore
from signer.errors import (
    ApprovalRequiredError,
    ConflictError,
    KeyRotatedError,
    RowNotAuthenticError,
)
from signer.keys.revocation import Revocation
from signer.model.approval import ApprovalState
from signer.model.audit_record import Actor
from signer.model.key import SIGNING, Key, KeyState
from tests.attacks.theft import REFUSED, Thief
from tests.fixtures.ledger import FORGED_APPROVAL, now
from tests.fixtures.roles import Processes, Roles
from tests.support.audit import record
from tests.support.keys import signing_condition
from tests.support.ring import ALICE, NEW, OLD, System


WHY = "the wrong address"

CAROL, BOB = Actor("token:carol"), Actor("token:bob")

Attack = Callable[..., None]


@pytest.fixture
def writable_url(database_url: str) -> str:
    """The ledger of ``store``."""
    return database_url


@pytest.fixture
def system(store: SQLStore) -> System:
    """A system whose first key was revoked, where two people must agree."""
    system = System(store)
    system.rotation().rotate(NEW, ALICE)
    system.revocation().revoke(system.address(OLD), ALICE)
    return system


def _reinstatement(system: System) -> Revocation:
    return system.revocation(approvals=system.approvals())


def _is_refused(system: System) -> bool:
    with pytest.raises(ApprovalRequiredError):
        _reinstatement(system).reinstate(system.address(OLD), CAROL.because(WHY))
    return system.states[OLD] == "blocked"


def _old(system: System) -> Key:
    ring = system.store.keys()
    return next(key for key in ring if key.key_id == OLD)


def test_alone(system: System) -> None:
    assert _is_refused(system)


def test_as_two_people_with_one_name(system: System) -> None:
    _is_refused(system)
    (asked,) = system.approvals().list().approvals
    for other in (CAROL, Actor("token:Carol"), Actor("cli:bob")):
        with pytest.raises(Exception, match=r"another administrator|OPERATOR_TOKEN"):
            system.approvals().approve(asked.digest, other.because(WHY))

    assert _is_refused(system)


def test_with_the_approval_of_an_earlier_reinstatement(system: System) -> None:
    _is_refused(system)
    (asked,) = system.approvals().list().approvals
    system.approvals().approve(asked.digest, BOB.because(WHY))
    _reinstatement(system).reinstate(system.address(OLD), CAROL.because(WHY))
    system.revocation().revoke(system.address(OLD), ALICE)

    assert _is_refused(system)


def test_after_the_day(system: System) -> None:
    """An approval does not extend it, nor does a rotation or a failover."""
    _is_refused(system)
    (asked,) = system.approvals().list().approvals
    system.clock.advance(hours=23)
    system.approvals().approve(asked.digest, BOB.because(WHY))
    system.clock.advance(hours=1)
    for change in (
        lambda: _reinstatement(system).reinstate(
            system.address(OLD), CAROL.because(WHY)
        ),
        lambda: system.rotation().rotate(OLD, CAROL),
        lambda: system.failover().fail_over(OLD, CAROL),
    ):
        with pytest.raises(ConflictError):
            change()

    assert system.states[OLD] == "blocked"


@pytest.mark.parametrize(
    "change",
    [
        "state = 'draining'",
        "state = 'draining', version = version + 1",
        "updated_at = created_at",
        "version = version + 1",
    ],
)
def test_by_a_change_of_the_row(system: System, steal: Attack, change: str) -> None:
    """Also to count the day from another time: nothing is signed with such a ring."""
    old = _old(system)
    steal(f"UPDATE keys SET {change} WHERE address = '{old.address}'")
    with pytest.raises(RowNotAuthenticError):
        _reinstatement(system).reinstate(old.address, CAROL.because(WHY))
    with pytest.raises(RowNotAuthenticError):
        system.store.append([record()], condition=signing_condition(old, SIGNING))


def test_by_a_forged_approval(system: System, steal: Attack) -> None:
    _is_refused(system)
    (asked,) = system.approvals().list().approvals
    steal(
        f"DELETE FROM approvals WHERE digest = '{asked.digest}'",
        FORGED_APPROVAL.format(digest=asked.digest),
    )

    assert _is_refused(system)
    found = system.store.find_approval(asked.digest)
    assert found is not None
    assert found.state is ApprovalState.WAITING


@pytest.mark.parametrize("role", ["worker", "admin"])
def test_by_a_stolen_role(processes: Processes, shipped: Roles, role: str) -> None:
    """The old row with its valid MAC cannot be put back, and no other MAC is valid."""
    system = System(processes.stores["admin"], is_empty=True)
    (before,) = processes.stores["worker"].keys()
    old = before.address
    pending = processes.stores["admin"].begin_rotation(system.key(NEW), now())
    store = processes.stores["admin"]
    store.activate(pending, now(), record(), replacing=before, block=True)
    thief = Thief(shipped.of(role))
    back = f"UPDATE keys SET state = 'draining', mac = '{before.mac}', version ="

    assert thief.steal(f"{back} {before.version} WHERE address = '{old}'") == REFUSED
    assert thief.steal(f"{back} version + 1 WHERE address = '{old}'") is None
    with pytest.raises(RowNotAuthenticError):
        store.append([record()], condition=signing_condition(before, SIGNING))


def test_the_administrators_role_suffices(processes: Processes) -> None:
    """With the MAC key: the process of administrators needs no other grant."""
    store = processes.stores["admin"]
    system = System(store, is_empty=True)
    (before,) = store.keys()
    pending = store.begin_rotation(system.key(NEW), now())
    store.activate(pending, now(), record(), replacing=before, block=True)
    system.clock.now = now()
    done, _ = system.revocation().reinstate(before.address, ALICE.because(WHY))

    assert done.state is KeyState.DRAINING


def test_a_process_that_knew_the_key_before(
    system: System, other_ledger: SQLStore
) -> None:
    """It signs nothing until the reinstatement is committed."""
    old = _old(system)
    condition = signing_condition(old, SIGNING)
    with pytest.raises(KeyRotatedError):
        other_ledger.append([record()], condition=condition)
    system.revocation().reinstate(old.address, ALICE.because(WHY))
    other_ledger.append([record()], condition=condition)
    system.revocation().revoke(old.address, ALICE)
    with pytest.raises(KeyRotatedError):
        other_ledger.append([record()], condition=condition)


def test_a_wrong_clock_of_a_host(system: System) -> None:
    """The ledger's clock counts the day, and a revocation from the future none."""
    system.clock.advance(days=30)
    with pytest.raises(ConflictError):
        _reinstatement(system).preview_reinstatement(system.address(OLD))
    system.clock.now -= timedelta(days=60)
    with pytest.raises(ConflictError):
        _reinstatement(system).preview_reinstatement(system.address(OLD))
