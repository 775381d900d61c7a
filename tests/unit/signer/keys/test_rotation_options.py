"""O2, O8: a rotation replaces the key that the administrator meant, or none."""

from dataclasses import replace
from typing import Any

import pytest

from api.http.problems import problem_of
from api.views.administration import RotationDocument
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
from signer.keys.rotation import RotationOptions
from signer.model.audit_record import Actor
from signer.model.key import Key
from tests.fixtures.ledger import accepted, now, opened, reserve, signed
from tests.support.refunds import altered
from tests.support.ring import ALICE, ELSEWHERE, NEW, OLD, OTHER, POOR, RICH, System


BOB = Actor("bob")

DRY_RUN = RotationOptions(dry_run=True)
SILENT = AddressBalance("local", error="chain-unavailable")


def _from(address: str, **options: bool) -> RotationOptions:
    return RotationOptions(active_address=address, **options)


def _compromised(system: System, **options: bool) -> RotationOptions:
    return _from(system.address(OLD), compromised=True, **options)


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
        if (each["event"], each.get("outcome")) == ("key-rotate-succeeded", "success")
    ]


def test_compromised_key_is_blocked(system: System) -> None:
    """O8: the old key is blocked at once, and no rotation back to it is possible."""
    opened(system.store, 1, system.old.address)
    refund = signed(
        system.store,
        reserve(
            system.store,
            accepted(system.store, chain_id=1),
            sender=system.old.address,
            key_id=OLD,
            gas_limit=65_000,
            counted=0,
            at=now(),
        ),
    )
    rotated = system.rotation(needs_funds=True).rotate(NEW, ALICE, _compromised(system))

    assert rotated.stranded == (refund.id,)
    assert len(rotated.warnings) == 1  # The address is new; it is funded.

    for options in (RotationOptions(), DRY_RUN):
        with pytest.raises(ConflictError, match="compromised"):
            system.rotation().rotate(OLD, ALICE, options)
    assert system.states == {NEW: "active", OLD: "blocked"}
    assert [
        o
        for e, o in system.outcomes
        if e in ("key-rotate-refused", "key-rotate-succeeded")
    ] == ["conflict", "conflict", "success"]


@pytest.mark.parametrize("holding", [POOR, SILENT], ids=["unfunded", "unknown"])
@pytest.mark.parametrize("needs_funds", [False, True])
def test_compromised_key_is_replaced_without_funds(
    system: System, holding: AddressBalance, *, needs_funds: bool
) -> None:
    """O8: it waits for funds, unless the caller says not to; that is audited."""
    system.holdings = (holding,)
    rotation = system.rotation(needs_funds=needs_funds)
    waits = [
        rotation.rotate(NEW, ALICE, _compromised(system, dry_run=dry_run))
        for dry_run in (True, False)
    ]
    statuses = [wait.status for wait in waits]
    waiting = system.states
    override = _compromised(system, without_funds=True)
    dry_run = rotation.rotate(NEW, ALICE, replace(override, dry_run=True))
    rotated = rotation.rotate(NEW, ALICE, override)
    details = [
        each["details"].get("without_funds", False)
        for each in system.records
        if each["event"] == "key-rotate-requested"
    ]

    assert statuses == ["would-await-funds", "awaiting-funds"]
    assert "the compromised key is still active" in waits[1].warnings[-1]
    assert waiting == {OLD: "active", NEW: "pending"}
    assert (dry_run.status, rotated.status) == ("would-rotate", "rotated")
    assert system.states == {NEW: "active", OLD: "blocked"}
    assert "the new address lacks funds" in rotated.warnings[-1]
    assert [*holding.warnings()] == [*rotated.warnings[1:-1]]
    assert details == [False, False, True, True]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (RotationOptions(compromised=True), "active_address"),
        (RotationOptions(without_funds=True), "without_funds"),
        (RotationOptions(active_address=OLD), "active_address"),
    ],
)
def test_options_that_do_not_fit_together(
    system: System, options: RotationOptions, field: str
) -> None:
    """Nothing is changed; the audit record has no text that may be a key id."""
    with pytest.raises(InvalidInputError) as raised:
        system.rotation().rotate(NEW, ALICE, options)

    assert raised.value.field == field
    assert system.states == {OLD: "active"}
    assert ("key-rotate-refused", "invalid-input") in system.outcomes
    assert OLD not in str(system.records)


def test_waiting_rotation_continues_as_compromised(system: System) -> None:
    """O8: a rotation that waits for funds can be continued with `compromised`."""
    system.holdings = (POOR,)
    waiting = system.rotation(needs_funds=True).rotate(NEW, ALICE)
    override = _compromised(system, without_funds=True)
    rotated = system.rotation(needs_funds=True).rotate(NEW, BOB, override)

    assert (waiting.status, rotated.status) == ("awaiting-funds", "rotated")
    assert system.states == {NEW: "active", OLD: "blocked"}


def test_first_key_blocks_no_other_key(sqlite_store: SQLStore) -> None:
    """Without an active key, there is none to block, and none that could be named."""
    system = System(sqlite_store, is_empty=True)
    with pytest.raises(ConflictError, match="no key is active"):
        system.rotation().rotate(NEW, ALICE, _from(system.address(OTHER)))
    rotated = system.rotation().rotate(NEW, ALICE)

    assert (rotated.status, rotated.previous, rotated.stranded) == ("rotated", None, ())
    assert system.states == {NEW: "active"}


@pytest.mark.parametrize("step", ["begin_rotation", "activate"])
@pytest.mark.parametrize("compromised", [False, True])
def test_key_activated_meanwhile_is_not_replaced(
    system: System, step: str, *, compromised: bool
) -> None:
    """O2, O8: a key that another administrator has just activated stays active: 409."""
    options = _compromised(system) if compromised else RotationOptions()
    rotation = system.rotation(_overtaken(system, step, OTHER))
    with pytest.raises(ConflictError, match="another key became the active one") as e:
        rotation.rotate(NEW, ALICE, options)

    assert (problem_of(e.value).status, problem_of(e.value).headers) == (409, {})
    assert system.states == {OTHER: "active", OLD: "draining", NEW: "rejected"}
    assert [done["previous_key_address"] for done in _done(system)] == [
        system.address(OLD)
    ]
    again = system.rotation().rotate(NEW, ALICE)
    assert again.status == "rotated"  # The rejected row has no hold.


def test_failover_during_a_rotation(system: System) -> None:
    """K18: a key that fails over meanwhile is replaced, and named by its new id."""
    system.replicate(OLD, ELSEWHERE)

    def late(*given: Any) -> Key:
        system.failover().fail_over(ELSEWHERE, BOB)
        return system.store.begin_rotation(*given)

    ledger = altered(system.store, begin_rotation=late)
    rotated = system.rotation(ledger).rotate(NEW, ALICE, _compromised(system))

    assert rotated.previous is not None
    assert rotated.previous.key_id == ELSEWHERE
    assert [done["previous_key"] for done in _done(system)] == ["44444444..."]
    assert system.states == {NEW: "active", ELSEWHERE: "blocked"}


@pytest.mark.parametrize("compromised", [False, True])
def test_same_key_activated_meanwhile_is_a_success(
    system: System, *, compromised: bool
) -> None:
    """O2, O8: it is a 200; a compromised key that was drained meanwhile is blocked."""
    ledger = _overtaken(system, "begin_rotation", NEW)
    options = _compromised(system) if compromised else RotationOptions()
    rotated = system.rotation(ledger).rotate(NEW, ALICE, options)

    assert (rotated.status, rotated.key.epoch) == ("rotated", 2)
    assert "already" in rotated.warnings[0]
    assert system.states[OLD] == ("blocked" if compromised else "draining")


@pytest.mark.parametrize("meanwhile", [True, False])
def test_the_new_key_replaced_another_one(system: System, *, meanwhile: bool) -> None:
    """O2, O8: another one than was named, before or meanwhile: 409, none is blocked."""
    options = _compromised(system)
    ledger = None
    if meanwhile:
        ledger = _overtaken(system, "begin_rotation", OTHER, NEW)
    else:
        system.rotation().rotate(OTHER, BOB)
        system.rotation().rotate(NEW, BOB)
    with pytest.raises(ConflictError, match="would not replace"):
        system.rotation(ledger).rotate(NEW, ALICE, options)

    assert system.states == {NEW: "active", OTHER: "draining", OLD: "draining"}


def test_key_revoked_meanwhile_is_a_conflict(system: System) -> None:
    """O8: a rotation to a key that is revoked before the rotation begins is a 409."""
    system.rotation().rotate(NEW, ALICE)

    def late(*given: Any) -> Key:
        system.revocation().revoke(system.address(OLD), BOB)
        return system.store.begin_rotation(*given)

    ledger = altered(system.store, begin_rotation=late)
    with pytest.raises(ConflictError, match="revoked"):
        system.rotation(ledger).rotate(OLD, ALICE)

    assert system.states == {NEW: "active", OLD: "blocked"}


def test_ring_that_keeps_changing_is_a_conflict(sqlite_store: SQLStore) -> None:
    """If the ledger refuses a rotation twice, the error says to try again."""
    system = System(sqlite_store, is_empty=True)
    with pytest.raises(RotationInProgressError, match="keep changing"):
        system.rotation(
            altered(system.store, begin_rotation=StaleStateError("changed"))
        ).rotate(NEW, ALICE)


def test_active_address_names_the_key_to_replace(system: System) -> None:
    """O2: an address in lower case is accepted, and audited with its checksum."""
    address = system.address(OLD)
    system.rotation().rotate(NEW, ALICE, _from(address.lower()))
    system.rotation().rotate(OLD, ALICE, _from(system.address(NEW)))
    intents = [
        each for each in system.records if each["event"] == "key-rotate-requested"
    ]

    assert system.states == {OLD: "active", NEW: "draining"}
    assert {each["details"]["active_address"] for each in intents} == {
        address,
        system.address(NEW),
    }


def test_active_address_of_another_key_is_a_conflict(system: System) -> None:
    """O2: the 409 names the active address and the next step; nothing is changed."""
    before = list(system.store.keys())
    with pytest.raises(ConflictError) as raised:
        system.rotation().rotate(NEW, ALICE, _from(system.address(OTHER)))
    problem = problem_of(raised.value)

    assert (problem.status, problem.code) == (409, "conflict")
    assert system.address(OLD) in (problem.detail or "")
    assert "keys revoke" in (problem.detail or "")
    assert list(system.store.keys()) == before
    assert system.directory.devices[NEW].calls == 0
    assert ("key-rotate-refused", "conflict") in system.outcomes
    assert system.alerts == []


def test_repeated_call_does_not_block_a_newer_key(system: System) -> None:
    """O2, O8: a repeated call never blocks a key activated since."""
    emergency = _from(system.address(OLD), compromised=True)
    system.rotation().rotate(NEW, ALICE, emergency)
    system.rotation().rotate(OTHER, BOB)
    with pytest.raises(ConflictError, match=system.address(OTHER)):
        system.rotation().rotate(NEW, ALICE, emergency)

    assert system.states == {OTHER: "active", NEW: "draining", OLD: "blocked"}


@pytest.mark.parametrize("compromised", [False, True])
def test_repeated_call_with_active_address(
    system: System, *, compromised: bool
) -> None:
    """O2: a caller that missed the response can repeat the call any number of times."""
    options = _from(system.address(OLD), compromised=compromised)
    answers = [system.rotation().rotate(NEW, ALICE, options) for _ in range(3)]

    assert [each.status for each in answers] == ["rotated"] * 3
    assert {each.previous and each.previous.address for each in answers} == {
        system.address(OLD)
    }
    assert system.states[OLD] == ("blocked" if compromised else "draining")


@pytest.mark.parametrize("name", [OLD, NEW], ids=["active", "new"])
@pytest.mark.parametrize(
    "how", [{}, {"compromised": True}, {"compromised": True, "dry_run": True}]
)
def test_new_key_cannot_replace_itself(
    system: System, name: str, how: dict[str, bool]
) -> None:
    """O8: a 409, also if it is the only key: `rotated` would be wrong."""
    with pytest.raises(ConflictError, match="it would replace"):
        system.rotation().rotate(name, ALICE, _from(system.address(name), **how))

    assert system.states == {OLD: "active"}


def test_compromised_can_be_added_by_a_second_call(system: System) -> None:
    """O8: it blocks the drained key, but not its funds, and not in a dry run."""
    system.holdings = (POOR,)
    system.rotation().rotate(NEW, ALICE)
    with pytest.raises(ConflictError, match="nothing was revoked"):
        system.rotation().rotate(NEW, ALICE, _compromised(system))
    override = _compromised(system, without_funds=True)
    dry_run = system.rotation().rotate(NEW, ALICE, replace(override, dry_run=True))
    unchanged = system.states
    rotated = system.rotation().rotate(NEW, ALICE, override)

    assert (dry_run.status, dry_run.stranded) == ("would-rotate", ())
    assert unchanged == {NEW: "active", OLD: "draining"}
    assert system.states == {NEW: "active", OLD: "blocked"}
    assert system.address(OLD) in rotated.warnings[1]
    assert RotationDocument.of(rotated).dump()["previousAddress"] == system.address(OLD)


def test_dry_run_reports_missing_funds(system: System) -> None:
    """O3: a dry run reports that the rotation would wait; no key is pending."""
    rotation = system.rotation(needs_funds=True)
    system.holdings = (POOR,)
    poor = rotation.rotate(NEW, ALICE, DRY_RUN)
    system.holdings = (RICH,)
    rich = rotation.rotate(NEW, ALICE, DRY_RUN)

    assert (poor.status, rich.status) == ("would-await-funds", "would-rotate")
    assert len(poor.warnings) == 3
    assert list(system.store.keys()) == [system.old]


DENIED = AccessDeniedError("AccessDeniedException")
DISABLED = KeyUnusableError("DisabledException")

REFUSALS: dict[str, tuple[HotWalletError, RotationOptions, int]] = {
    "no retry": (DENIED, RotationOptions(), 1),
    "dry run": (DISABLED, DRY_RUN, 0),
    "retry of a temporary error": (DENIED, RotationOptions(will_retry=True), 0),
    "retry of a permanent error": (DISABLED, RotationOptions(will_retry=True), 1),
    "retry of a dry run": (DENIED, RotationOptions(dry_run=True, will_retry=True), 0),
}


@pytest.mark.parametrize(
    ("error", "options", "alerts"), REFUSALS.values(), ids=REFUSALS
)
def test_which_refusals_raise_an_alert(
    system: System, error: HotWalletError, options: RotationOptions, alerts: int
) -> None:
    """Only failed rotations raise an alert, not dry runs or retried ones."""
    system.directory.failure = error
    with pytest.raises(NewKeyUnhealthyError) as raised:
        system.rotation().rotate(NEW, ALICE, options)

    assert [alert["alert"] for alert in system.alerts] == ["rotation-refused"] * alerts
    assert ("key-rotate-refused", raised.value.reason) in system.outcomes
