"""K18: a failover changes a key's id only after a self-test under the new id."""

from dataclasses import replace
from typing import Any

import pytest

from signer.errors import ConflictError, NotFoundError, RotationInProgressError
from signer.model.audit_record import Record
from signer.model.key import Key, KeyState, is_same_key
from tests.support.keys import made_active
from tests.support.refunds import altered
from tests.support.ring import ALICE, ELSEWHERE, NEW, OLD, OTHER, System


KEY = "mrk-1234abcd12ab34cd56ef1234567890ab"
HERE = f"arn:aws:kms:eu-central-1:111122223333:key/{KEY}"
THERE = HERE.replace("eu-central-1", "eu-west-1")


@pytest.fixture
def system(system: System) -> System:
    """A system whose active key has a replica."""
    system.replicate(OLD, ELSEWHERE)
    return system


def test_failover_changes_only_the_key_id(system: System) -> None:
    """The replica is self-tested; address, state and epoch stay as they are."""
    result = system.failover().fail_over(ELSEWHERE, ALICE)

    assert result.status == "relocated"
    assert result.previous == system.old
    assert result.key == replace(
        system.old, key_id=ELSEWHERE, version=1, updated_at=system.clock()
    )
    assert list(system.store.keys()) == [result.key]
    assert "old key id" in result.warnings[0]
    assert system.directory.devices[ELSEWHERE].calls == 1
    assert system.directory.devices[OLD].calls == 0
    assert system.alerts == []


def test_repeated_failover_returns_the_result_again(system: System) -> None:
    """A caller that missed the response can repeat the call; nothing is changed."""
    first = system.failover().fail_over(ELSEWHERE, ALICE)
    again = system.failover().fail_over(ELSEWHERE, ALICE)

    assert (again.status, again.key, again.previous) == (
        "relocated",
        first.key,
        first.key,
    )
    assert "already" in again.warnings[0]
    assert system.directory.devices[ELSEWHERE].calls == 1


def test_dry_run_changes_nothing(system: System) -> None:
    """A dry run self-tests the replica, and the ring is unchanged."""
    result = system.failover().fail_over(ELSEWHERE, ALICE, dry_run=True)

    assert result.status == "would-relocate"
    assert (result.key.key_id, result.previous) == (ELSEWHERE, system.old)
    assert list(system.store.keys()) == [system.old]
    assert system.directory.devices[ELSEWHERE].calls == 1
    assert "key-failover-succeeded" not in {event for event, _ in system.outcomes}


def test_draining_and_retired_keys_fail_over(system: System) -> None:
    """A key that may still sign can fail over, and keeps its state."""
    made_active(system.store, system.key(NEW))
    draining = system.failover().fail_over(ELSEWHERE, ALICE)
    record = Record.of({"event": "key-retire-succeeded"}, system.clock())
    ((retired, _),) = system.store.retire(
        [system.old.address], system.clock(), lambda key: record
    )
    again = system.failover().fail_over(OLD, ALICE)

    assert draining.key.state is KeyState.DRAINING
    assert (again.key.state, again.key.key_id) == (KeyState.RETIRED, OLD)
    assert again.previous == retired


@pytest.mark.parametrize("end", ["rejected", "blocked"])
def test_key_that_may_not_sign_does_not_fail_over(system: System, end: str) -> None:
    """409: a rejected or blocked key does not return under another id."""
    if end == "blocked":
        made_active(system.store, system.key(NEW), block=True)
        there = ELSEWHERE
    else:
        pending = system.begin_rotation(NEW)
        system.store.reject(pending, "key-unusable", system.clock())
        there = system.replicate(NEW, "replica-of-the-new")
    before = list(system.store.keys())
    with pytest.raises(ConflictError, match=end):
        system.failover().fail_over(there, ALICE)

    assert list(system.store.keys()) == before
    assert ("key-failover-refused", "conflict") in system.outcomes


def test_key_outside_the_ring_is_not_found(system: System) -> None:
    """404: another address is another key; the message says to rotate instead."""
    with pytest.raises(NotFoundError, match="use rotate"):
        system.failover().fail_over(OTHER, ALICE)

    assert list(system.store.keys()) == [system.old]
    assert ("key-failover-refused", "not-found") in system.outcomes
    assert system.alerts == []


def test_key_of_another_backend_is_a_conflict(system: System) -> None:
    """409: a failover cannot move a key to another backend."""
    elsewhere = replace(system.old, backend="pkcs11")
    ledger = altered(system.store, keys=lambda: (elsewhere,))
    with pytest.raises(ConflictError, match="the configuration opens"):
        system.failover(ledger).fail_over(ELSEWHERE, ALICE)


def test_rotation_in_progress_is_a_conflict(system: System) -> None:
    system.begin_rotation(NEW)
    with pytest.raises(RotationInProgressError):
        system.failover().fail_over(ELSEWHERE, ALICE)

    assert system.store.active_key() == system.old


def test_concurrent_failovers_have_one_winner(system: System) -> None:
    """409 if another failover commits during the self-test."""
    third = system.replicate(OLD, "a-third-place")
    relocate = system.store.relocate

    def overtaken(*given: Any) -> Key:
        system.failover().fail_over(third, ALICE)
        return relocate(*given)

    slow = system.failover(altered(system.store, relocate=overtaken))
    with pytest.raises(RotationInProgressError, match="another process"):
        slow.fail_over(ELSEWHERE, ALICE)

    active = system.store.active_key()
    assert active is not None
    assert active.key_id == third


PAIRS: dict[str, tuple[str, str, bool]] = {
    "replicas": (HERE, THERE, True),
    "itself": (THERE, THERE, True),
    "itself, of one region": ("a-key", "a-key", True),
    "another replica": (HERE, THERE.replace("1234", "5678"), False),
    "of one region": (HERE.replace("mrk-", ""), THERE.replace("mrk-", ""), False),
    "another account": (HERE, THERE.replace("1111", "4444"), False),
    "another partition": (HERE, THERE.replace("arn:aws:", "arn:aws-cn:"), False),
    "a bare id": (KEY, THERE, False),
    "an alias": (f"{HERE.partition('key/')[0]}alias/{KEY}", THERE, False),
    "with a suffix": (f"{HERE}/x", f"{THERE}/x", False),
}


@pytest.mark.parametrize(("one", "other", "same"), PAIRS.values(), ids=PAIRS)
def test_which_arns_name_the_same_key(one: str, other: str, *, same: bool) -> None:
    """Only replicas of a multi-Region key are the same key in two regions."""
    assert is_same_key(one, other) is same
    assert is_same_key(other, one) is same
