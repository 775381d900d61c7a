"""O2, O8: what an administrator in a hurry asks for is what is done, or nothing is."""

from typing import Any

import pytest

from api.http.keys import rotation_document
from api.http.problems import problem_of
from backends.sql import SQLStore
from signer.errors import (
    AccessDeniedError,
    ConflictError,
    HotWalletError,
    InvalidInputError,
    KeyUnusableError,
    NewKeyUnhealthyError,
    RotationInProgressError,
    StaleStateError,
)
from signer.keys.balances import AddressBalance
from signer.keys.changeover import RotationOptions
from signer.model.audit_record import Actor
from signer.model.key import Key, KeyState
from tests.support.refunds import altered
from tests.support.ring import ALICE, ELSEWHERE, NEW, OLD, OTHER, POOR, RICH, System


BOB = Actor("bob")

COMPROMISED = RotationOptions(compromised=True)
REHEARSAL = RotationOptions(rehearse=True)
SILENT = AddressBalance("local", error="chain-unavailable")


@pytest.fixture
def system(sqlite_store: SQLStore) -> System:
    """A system whose first key is the active one."""
    return System(sqlite_store)


def _from(address: str, **terms: bool) -> RotationOptions:
    return RotationOptions(active_address=address, **terms)


def _overtaken(system: System, step: str, *names: str) -> Any:
    """Return a ledger in which Bob rotates to *names* just before *step*, once."""
    left = list(names)

    def late(*given: Any, **how: Any) -> Any:
        while left:
            system.clock.advance(seconds=21)
            system.rotation().rotate(left.pop(0), BOB)
        return getattr(system.store, step)(*given, **how)

    return altered(system.store, **{step: late})


def _done(system: System) -> list[dict[str, Any]]:
    return [
        each["details"]
        for each in system.records
        if (each["event"], each.get("outcome")) == ("rotation", "success")
    ]


def test_a_compromised_key(system: System) -> None:
    """O8: the old key is blocked at once, and can never be rotated back to."""
    system.rotation().rotate(NEW, ALICE, COMPROMISED)

    for terms in (RotationOptions(), REHEARSAL):
        with pytest.raises(ConflictError, match="compromised"):
            system.rotation().rotate(OLD, ALICE, terms)
    assert system.states == {NEW: "active", OLD: "blocked"}
    assert [o for e, o in system.outcomes if e == "rotation"] == [
        "conflict",
        "conflict",
        "success",
    ]


@pytest.mark.parametrize("holding", [POOR, SILENT], ids=["unfunded", "unknown"])
def test_a_compromised_key_waits_for_no_funds(
    system: System, holding: AddressBalance
) -> None:
    """O8: no empty address and no silent node keeps it active; a warning tells."""
    system.holdings = (holding,)
    rotation = system.rotation(needs_funds=True)
    rehearsed = rotation.rotate(
        NEW, ALICE, RotationOptions(rehearse=True, compromised=True)
    )
    rotated = rotation.rotate(NEW, ALICE, COMPROMISED)

    assert (rehearsed.status, rotated.status) == ("would-rotate", "rotated")
    assert system.states == {NEW: "active", OLD: "blocked"}
    assert "the new address lacks funds" in rotated.warnings[-1]
    assert [*holding.warnings()] == [*rotated.warnings[1:-1]]


def test_who_waits_for_funds_may_find_out(system: System) -> None:
    """O8: a rotation that waits for funds is gone on with when the key is stolen."""
    system.holdings = (POOR,)
    waiting = system.rotation(needs_funds=True).rotate(NEW, ALICE)
    rotated = system.rotation(needs_funds=True).rotate(NEW, BOB, COMPROMISED)

    assert (waiting.status, rotated.status) == ("awaiting-funds", "rotated")
    assert system.states == {NEW: "active", OLD: "blocked"}


def test_funds_that_are_there_are_no_warning(system: System) -> None:
    """Where the new address has what it needs, nothing is said of it."""
    rotated = system.rotation(needs_funds=True).rotate(NEW, ALICE, COMPROMISED)

    assert len(rotated.warnings) == 1


def test_the_first_key_replaces_nothing(sqlite_store: SQLStore) -> None:
    """Where no key ever served there is none to block, and none to name."""
    system = System(sqlite_store, is_empty=True)
    with pytest.raises(ConflictError, match="no key is active"):
        system.rotation().rotate(NEW, ALICE, _from(system.address(OTHER)))
    rotated = system.rotation().rotate(NEW, ALICE, COMPROMISED)

    assert (rotated.status, rotated.previous, rotated.stranded) == ("rotated", None, ())
    assert system.states == {NEW: "active"}


@pytest.mark.parametrize("step", ["begin_rotation", "activate"])
@pytest.mark.parametrize(
    "terms", [RotationOptions(), COMPROMISED], ids=["rotate", "compromised"]
)
def test_a_key_that_nobody_has_seen_is_not_replaced(
    system: System, step: str, terms: RotationOptions
) -> None:
    """O2, O8: a colleague made another key active since the look: it stays; 409."""
    rotation = system.rotation(_overtaken(system, step, OTHER))
    with pytest.raises(ConflictError, match="another key became the active one") as e:
        rotation.rotate(NEW, ALICE, terms)

    assert (problem_of(e.value).status, problem_of(e.value).headers) == (409, {})
    assert system.states == {OTHER: "active", OLD: "draining", NEW: "rejected"}
    assert [done["previous_key_address"] for done in _done(system)] == [
        system.address(OLD)
    ]
    again = system.rotation().rotate(NEW, ALICE)
    assert again.status == "rotated"  # It is held by nobody.


def test_a_key_that_is_relocated_since_the_look(system: System) -> None:
    """K18: it is replaced all the same; answer and record have the row that was."""
    system.replicate(OLD, ELSEWHERE)

    def late(*given: Any) -> Key:
        system.relocation().relocate(ELSEWHERE, BOB)
        return system.store.begin_rotation(*given)

    ledger = altered(system.store, begin_rotation=late)
    rotated = system.rotation(ledger).rotate(NEW, ALICE, COMPROMISED)

    assert rotated.previous is not None
    assert rotated.previous.key_id == ELSEWHERE
    assert [done["previous_key"] for done in _done(system)] == ["44444444..."]
    assert system.states == {NEW: "active", ELSEWHERE: "blocked"}


def test_whoever_is_slower_with_the_same_key(system: System) -> None:
    """O2: a colleague activates the very key since the look: it is done, 200."""
    ledger = _overtaken(system, "begin_rotation", NEW)
    rotated = system.rotation(ledger).rotate(NEW, ALICE)

    assert (rotated.status, rotated.key.epoch) == ("rotated", 2)
    assert "already" in rotated.warnings[0]


def test_whoever_is_slower_with_a_compromised_key(system: System) -> None:
    """O8: what the colleague drained is blocked; what was seen, and nothing else."""
    ledger = _overtaken(system, "begin_rotation", NEW)
    rotated = system.rotation(ledger).rotate(NEW, ALICE, COMPROMISED)

    assert rotated.previous is not None
    assert rotated.previous.address == system.address(OLD)
    assert system.states == {NEW: "active", OLD: "blocked"}


def test_whoever_is_slower_by_two_rotations(system: System) -> None:
    """O8: when the key that was seen is not the one before the new one, it is a 409."""
    ledger = _overtaken(system, "begin_rotation", OTHER, NEW)
    with pytest.raises(ConflictError, match="would not replace"):
        system.rotation(ledger).rotate(NEW, ALICE, COMPROMISED)

    assert system.states == {NEW: "active", OTHER: "draining", OLD: "draining"}


def test_a_key_that_is_given_up_since_the_look(system: System) -> None:
    """O8: what is blocked when the ledger is asked is a 409, as it is before."""
    system.rotation().rotate(NEW, ALICE)

    def late(*given: Any) -> Key:
        system.blocking().block(system.address(OLD), BOB)
        return system.store.begin_rotation(*given)

    ledger = altered(system.store, begin_rotation=late)
    with pytest.raises(ConflictError, match="given up"):
        system.rotation(ledger).rotate(OLD, ALICE)

    assert system.states == {NEW: "active", OLD: "blocked"}


def test_a_ring_that_never_stands_still(sqlite_store: SQLStore) -> None:
    """Who is refused by the ledger again and again is told to ask later, in the end."""
    system = System(sqlite_store, is_empty=True)

    def stale(*_: Any) -> Key:
        raise StaleStateError("the key is active")

    with pytest.raises(RotationInProgressError, match="faster"):
        system.rotation(altered(system.store, begin_rotation=stale)).rotate(NEW, ALICE)


def test_from_the_active_key(system: System) -> None:
    """O2: the key to replace is named, in either spelling, and on record."""
    address = system.address(OLD)
    system.rotation().rotate(NEW, ALICE, _from(address.lower()))
    system.rotation().rotate(OLD, ALICE, _from(system.address(NEW)))
    intents = [each for each in system.records if each["event"] == "rotation-intent"]

    assert system.states == {OLD: "active", NEW: "draining"}
    assert {each["details"]["active_address"] for each in intents} == {
        address.lower(),
        system.address(NEW),
    }


def test_from_a_key_that_is_not_active(system: System) -> None:
    """O2: 409 with the active address and what to do; unchanged, and on record."""
    before = list(system.store.keys())
    with pytest.raises(ConflictError) as raised:
        system.rotation().rotate(NEW, ALICE, _from(system.address(OTHER)))
    problem = problem_of(raised.value)

    assert (problem.status, problem.code) == (409, "conflict")
    assert system.address(OLD) in (problem.detail or "")
    assert "keys block" in (problem.detail or "")
    assert list(system.store.keys()) == before
    assert system.directory.devices[NEW].calls == 0
    assert ("rotation", "conflict") in system.outcomes
    assert system.told == []


def test_asking_again_after_a_colleague_went_on(system: System) -> None:
    """O2, O8: a repeated answer never blocks the key that a colleague made active."""
    emergency = _from(system.address(OLD), compromised=True)
    system.rotation().rotate(NEW, ALICE, emergency)
    system.rotation().rotate(OTHER, BOB)
    with pytest.raises(ConflictError, match=system.address(OTHER)):
        system.rotation().rotate(NEW, ALICE, emergency)

    assert system.states == {OTHER: "active", NEW: "draining", OLD: "blocked"}


@pytest.mark.parametrize("compromised", [False, True])
def test_asking_again_from_the_same_key(system: System, *, compromised: bool) -> None:
    """O2: whoever did not hear that it was done hears of it, again and again."""
    terms = _from(system.address(OLD), compromised=compromised)
    answers = [system.rotation().rotate(NEW, ALICE, terms) for _ in range(3)]

    assert [each.status for each in answers] == ["rotated"] * 3
    assert {each.previous and each.previous.address for each in answers} == {
        system.address(OLD)
    }
    assert system.states[OLD] == ("blocked" if compromised else "draining")


def test_an_active_key_that_took_over_from_another(system: System) -> None:
    """O2: the new key is active, but replaced another one: nobody is blocked, 409."""
    for name in (NEW, OTHER):
        system.rotation().rotate(name, BOB)
    with pytest.raises(ConflictError, match="would not replace"):
        system.rotation().rotate(
            OTHER, ALICE, _from(system.address(OLD), compromised=True)
        )

    assert system.states == {OTHER: "active", NEW: "draining", OLD: "draining"}


@pytest.mark.parametrize("name", [OLD, NEW], ids=["active", "new"])
def test_from_the_new_key_itself(system: System, name: str) -> None:
    """Who names one key twice has mixed something up: 409, active or not."""
    with pytest.raises(ConflictError, match="the very one"):
        system.rotation().rotate(name, ALICE, _from(system.address(name)))

    assert system.states == {OLD: "active"}


def test_a_malformed_address_to_replace(system: System) -> None:
    """400 for what is no address; on record without what may be a key's id."""
    with pytest.raises(InvalidInputError) as raised:
        system.rotation().rotate(NEW, ALICE, _from(OLD))

    assert raised.value.field == "active_address"
    assert ("rotation", "invalid-input") in system.outcomes
    assert OLD not in str(system.records)


def test_who_names_the_compromised_key(system: System) -> None:
    """O8: the only key cannot replace itself; "rotated" would be a false comfort."""
    for terms in (COMPROMISED, RotationOptions(rehearse=True, compromised=True)):
        with pytest.raises(ConflictError, match="name the new key"):
            system.rotation().rotate(OLD, ALICE, terms)

    assert system.states == {OLD: "active"}


def test_who_forgot_to_say_so_may_ask_again(system: System) -> None:
    """The key is rotated away from already, and is given up by the second call (O8)."""
    system.rotation().rotate(NEW, ALICE)
    rotated = system.rotation().rotate(NEW, ALICE, COMPROMISED)

    assert rotated.key.state is KeyState.ACTIVE
    assert rotated.previous is not None
    assert rotated.previous.state is KeyState.BLOCKED
    assert system.address(OLD) in rotated.warnings[1]
    assert rotation_document(rotated)["previousAddress"] == system.address(OLD)


def test_a_rehearsal_of_the_active_key(system: System) -> None:
    """It has signed, and would stay: a proof is never told without one."""
    rehearsed = system.rotation().rotate(OLD, ALICE, REHEARSAL)
    proofs = system.directory.devices[OLD].calls
    system.directory.failure = KeyUnusableError("DisabledException")
    with pytest.raises(NewKeyUnhealthyError):
        system.rotation().rotate(OLD, ALICE, REHEARSAL)

    assert (rehearsed.status, rehearsed.key) == ("would-rotate", system.old)
    assert "already" in rehearsed.warnings[0]
    assert proofs == 1
    assert list(system.store.keys()) == [system.old]


def test_a_rehearsal_blocks_nobody(system: System) -> None:
    """O8: asked again with --compromised, a rehearsal leaves the former key."""
    system.rotation().rotate(NEW, ALICE)
    terms = RotationOptions(rehearse=True, compromised=True)
    rehearsed = system.rotation().rotate(NEW, ALICE, terms)

    assert (rehearsed.status, rehearsed.stranded) == ("would-rotate", ())
    assert system.states == {NEW: "active", OLD: "draining"}


def test_a_rehearsal_that_would_wait_for_funds(system: System) -> None:
    """O3: what the policy would say is said beforehand, and nothing is pending."""
    rotation = system.rotation(needs_funds=True)
    system.holdings = (POOR,)
    poor = rotation.rotate(NEW, ALICE, REHEARSAL)
    system.holdings = (RICH,)
    rich = rotation.rotate(NEW, ALICE, REHEARSAL)

    assert (poor.status, rich.status) == ("would-await-funds", "would-rotate")
    assert len(poor.warnings) == 3
    assert list(system.store.keys()) == [system.old]


DENIED = AccessDeniedError("AccessDeniedException")
DISABLED = KeyUnusableError("DisabledException")

REFUSALS: dict[str, tuple[HotWalletError, RotationOptions, int]] = {
    "for good": (DENIED, RotationOptions(), 1),
    "a rehearsal": (DISABLED, REHEARSAL, 0),
    "who insists": (DENIED, RotationOptions(insists=True), 0),
    "who insists in vain": (DISABLED, RotationOptions(insists=True), 1),
    "who insists on a rehearsal": (
        DENIED,
        RotationOptions(rehearse=True, insists=True),
        0,
    ),
}


@pytest.mark.parametrize(("error", "terms", "alerts"), REFUSALS.values(), ids=REFUSALS)
def test_who_is_alarmed(
    system: System, error: HotWalletError, terms: RotationOptions, alerts: int
) -> None:
    """An alert is for a rotation that failed: no rehearsal, none that goes on."""
    system.directory.failure = error
    with pytest.raises(NewKeyUnhealthyError) as raised:
        system.rotation().rotate(NEW, ALICE, terms)

    assert [alert["alert"] for alert in system.told] == ["rotation-refused"] * alerts
    assert ("rotation", raised.value.reason) in system.outcomes
