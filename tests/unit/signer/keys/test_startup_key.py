"""A starting process signs with the ring's key, or makes the configured one that."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from backends.sql import SQLStore
from signer.errors import (
    BackendError,
    BackendThrottledError,
    BackendUnavailableError,
    ConfigurationError,
    KeyRotatedError,
    KeyUnusableError,
    Refusal,
    SigningError,
    StoreUnavailableError,
)
from signer.keys.signer import Signer
from signer.keys.startup_key import StartupKey
from signer.model.audit_record import Record
from signer.model.key import Key, KeyState
from signer.ports import KeyId, Ledger
from tests.support.keys import key_at, made_active
from tests.support.refunds import altered
from tests.support.ring import NEW, OLD, OTHER, System


UNKNOWN = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


@pytest.fixture
def system(sqlite_store: SQLStore) -> System:
    """A system with an active key, and two more in its directory."""
    return System(sqlite_store)


def _enrolment(system: System, store: Ledger | None = None) -> StartupKey:
    return StartupKey(
        store or system.store,
        system.directory,
        system.open_signer,
        _prove,
        system.clock,
    )


def _prove(open_signer: Callable[[], Signer], *, while_active: bool = False) -> Signer:
    try:
        signer = open_signer()
        signer.self_test(while_active=while_active)
    except SigningError as e:
        raise ConfigurationError(Refusal("key-unusable", str(e))) from None
    return signer


def _refusal(system: System, name: str, address: str | None = None) -> str:
    with pytest.raises(ConfigurationError) as raised:
        _enrolment(system).settle(name, address)
    (refusal,) = raised.value.refusals
    assert name not in refusal.message
    return refusal.code


def _emptied(system: System) -> Ledger:
    """Return the ledger as it was before the first key was enrolled."""
    system.store._database.transaction(lambda c: c.exec_driver_sql("DELETE FROM keys"))
    return system.store


@pytest.mark.parametrize("given", [True, False])
def test_the_first_key(system: System, *, given: bool) -> None:
    """An empty ring gets the configured key, when it has proved itself."""
    store = _emptied(system)
    expected = system.address(NEW).lower() if given else None
    signer, warnings = _enrolment(system).settle(NEW, expected)
    active = store.active_key()

    assert active is not None
    assert (active.key_id, active.address) == (NEW, system.address(NEW))
    assert (active.state, active.epoch) == (KeyState.ACTIVE, 1)
    assert active.requested_by == "configuration"
    assert (signer.address, warnings) == (active.address, [])
    assert system.directory.devices[NEW].calls == 2


def test_the_first_key_by_an_alias(system: System) -> None:
    """O7: what is enrolled is what the alias means, by the id that never moves."""
    store = _emptied(system)
    system.directory.aliases["alias/first"] = NEW
    _enrolment(system).settle("alias/first", None)
    again = _enrolment(system).settle("alias/first", None)
    active = store.active_key()

    assert active is not None
    assert active.key_id == NEW
    assert again[1] == []


@pytest.mark.parametrize("fault", ["missing", "silent", "another address"])
def test_an_empty_ring_gets_no_bad_key(system: System, fault: str) -> None:
    """A key that is missing, does not sign, or is another one, is not enrolled."""
    store = _emptied(system)
    if fault == "silent":
        system.directory.failure = KeyUnusableError("DisabledException")
    name = "nowhere" if fault == "missing" else NEW
    address = UNKNOWN if fault == "another address" else None

    assert _refusal(system, name, address) == "key-unusable"
    assert list(store.keys()) == []


def test_the_ring_says_which_key(system: System) -> None:
    """O5: behind a rotation a process that starts signs with the new key, and warns."""
    before = _enrolment(system).settle(OLD, system.address(OLD))
    made_active(system.store, key_at(system.address(NEW), key_id=NEW))
    behind = _enrolment(system).settle(OLD, system.address(OLD))
    caught_up = _enrolment(system).settle(NEW, system.address(NEW))

    assert (before[0].address, before[1]) == (system.address(OLD), [])
    assert (behind[0].address, len(behind[1])) == (system.address(NEW), 1)
    assert "rotated away from" in behind[1][0]
    assert (caught_up[0].address, caught_up[1]) == (system.address(NEW), [])


def test_an_id_behind_a_slash_is_known(system: System) -> None:
    """An ARN's last part names the key without a question to the device."""
    arn = f"arn:aws:kms:eu-central-1:111122223333:key/{OTHER}"
    system.directory.devices[arn] = system.directory.devices[OTHER]
    made_active(system.store, key_at(system.address(OTHER), key_id=arn))
    system.directory.devices.pop(OTHER)

    assert _enrolment(system).settle(OTHER, None)[1] == []


@pytest.mark.parametrize("name", [OTHER, "nowhere"])
def test_a_key_that_the_ring_does_not_know(system: System, name: str) -> None:
    """Changing the setting by hand is no rotation, whatever keys there are."""
    assert _refusal(system, name) == "key-not-in-ring"
    assert system.store.active_key() == system.old


@pytest.mark.parametrize("state", ["pending", "awaiting funds", "rejected"])
def test_a_key_that_was_not_active_before_the_backup(
    system: System, state: str
) -> None:
    """A ledger from before a rotation is told from one behind it, though it has the new
    key as one that was about to be active (R24)."""
    new = key_at(system.address(NEW), key_id=NEW)
    pending = system.store.begin_rotation(new, system.clock())
    if state == "awaiting funds":
        system.store.wait_for(pending, "awaiting-funds", system.clock())
    if state == "rejected":
        system.store.reject(pending, "backend-access-denied", system.clock())

    assert _refusal(system, NEW) == "key-not-in-ring"
    assert _refusal(system, OLD, new.address) == "key-not-in-ring"
    assert _enrolment(system).settle(OLD, system.address(OLD))[1] == []


def test_an_address_that_the_ring_does_not_know(system: System) -> None:
    """WALLET_ADDRESS must be one of the ring's, too."""
    assert _refusal(system, OLD, UNKNOWN) == "key-not-in-ring"


def test_a_ring_of_another_backend(system: System) -> None:
    """A ledger of another device is not signed for with this one."""
    elsewhere = replace(key_at(UNKNOWN, key_id="01"), backend="pkcs11")
    made_active(system.store, elsewhere)

    assert _refusal(system, OLD) == "key-backend-mismatch"


def test_an_active_key_that_does_not_sign(system: System) -> None:
    """No process starts whose active key does not prove itself."""
    system.directory.failure = KeyUnusableError("DisabledException")

    assert _refusal(system, OLD) == "key-unusable"


def test_another_process_was_first(system: System) -> None:
    """Of two that enrol different keys at once, the second signs with the first's."""
    late = altered(system.store, active_key=lambda: None)

    signer, warnings = _enrolment(system, late).settle(OLD, None)
    assert (signer.key_id, warnings) == (KeyId(OLD), [])
    with pytest.raises(ConfigurationError):
        _enrolment(system, late).settle(NEW, None)


def test_a_ledger_that_does_not_answer(system: System) -> None:
    """Without the ring nobody knows which key to sign with."""

    def unavailable() -> None:
        raise StoreUnavailableError("the database does not answer")

    with pytest.raises(StoreUnavailableError):
        _enrolment(system, altered(system.store, active_key=unavailable)).settle(
            OLD, None
        )


REPLICA = "arn:aws:kms:eu-central-1:111122223333:key/mrk-1234abcd12ab34cd"
ELSEWHERE = REPLICA.replace("eu-central-1", "eu-west-1")


def _relocated(system: System, name: str, place: str) -> None:
    """Rotate to the key that is called *name*, and pin it to *place*."""
    system.directory.devices[place] = system.directory.devices[name]
    active = made_active(system.store, key_at(system.address(name), key_id=name))
    record = Record.of({"event": "key-failover-succeeded"}, system.clock())
    system.store.relocate(active, place, system.clock(), record)


@pytest.mark.parametrize("name", [REPLICA, REPLICA.rpartition("/")[2]])
def test_a_key_that_was_relocated(system: System, name: str) -> None:
    """K18: the configuration of another region is no reason not to start."""
    _relocated(system, NEW, ELSEWHERE)
    signer, warnings = _enrolment(system).settle(name, system.address(NEW))

    assert signer.key_id == ELSEWHERE
    told = ["relocated" in warning for warning in warnings]
    assert told == ([True] if name == REPLICA else [])


@pytest.mark.parametrize("error", [BackendUnavailableError, BackendThrottledError])
def test_an_alias_that_cannot_be_looked_up(
    system: System, error: type[BackendError]
) -> None:
    """K18: while its region is down, the refusal says so, and not that keys differ."""

    def resolve(name: str) -> KeyId:
        raise error("KMS does not answer")

    system.directory.resolve = resolve  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError) as refused:
        _enrolment(system).settle("alias/wallet", None)

    (refusal,) = refused.value.refusals
    assert refusal.code == "kms-signing-error"
    assert "an ARN needs no look" in str(refusal)


def test_an_alias_of_a_key_that_was_relocated(system: System) -> None:
    """An alias that still means the old place is as good as its ARN."""
    _relocated(system, NEW, ELSEWHERE)
    system.directory.devices[REPLICA] = system.directory.devices[NEW]
    system.directory.aliases["alias/wallet"] = REPLICA
    signer, warnings = _enrolment(system).settle("alias/wallet", None)

    assert (signer.key_id, warnings) == (ELSEWHERE, [])


def test_the_same_id_of_one_region_is_another_key(system: System) -> None:
    """Ids of single-Region keys say nothing of other regions: refused."""
    _relocated(system, NEW, ELSEWHERE.replace("mrk-", ""))

    assert _refusal(system, REPLICA.replace("mrk-", "")) == "key-not-in-ring"


def test_a_rotation_while_a_process_starts(system: System) -> None:
    """A process that finds its key rotated away looks again, and starts."""
    new = key_at(system.address(NEW), key_id=NEW)
    asked: list[Key | None] = []

    def active_key() -> Key | None:
        asked.append(system.store.active_key())
        if len(asked) == 1:
            made_active(system.store, new)
        return asked[-1]

    ledger = altered(system.store, active_key=active_key)
    signer, _ = _enrolment(system, ledger).settle(NEW, None)

    assert signer.key_id == NEW
    assert len(asked) == 2


def test_rotations_again_and_again(system: System) -> None:
    """A ring that changes before each of three tries is told as the ledger's matter."""

    def active_key() -> Key | None:
        found = system.store.active_key()
        assert found is not None
        other = NEW if found.key_id == OLD else OLD
        made_active(system.store, key_at(system.address(other), key_id=other))
        return found

    ledger = altered(system.store, active_key=active_key)
    with pytest.raises(KeyRotatedError, match="faster"):
        _enrolment(system, ledger).settle(NEW, None)
