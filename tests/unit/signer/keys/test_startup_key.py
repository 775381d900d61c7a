"""A starting process signs with the ring's active key, or enrols the configured one."""

from collections.abc import Callable
from dataclasses import replace

import pytest

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


def _startup_key(system: System, store: Ledger | None = None) -> StartupKey:
    return StartupKey(store or system.store, system.signers, _self_test, system.clock)


def _self_test(
    open_signer: Callable[[], Signer], *, while_active: bool = False
) -> Signer:
    try:
        signer = open_signer()
        signer.self_test(while_active=while_active)
    except SigningError as e:
        raise ConfigurationError(Refusal("key-unusable", str(e))) from None
    return signer


def _refusal(system: System, name: str, address: str | None = None) -> str:
    with pytest.raises(ConfigurationError) as raised:
        _startup_key(system).open(name, address)
    (refusal,) = raised.value.refusals
    assert name not in refusal.message
    return refusal.code


def _emptied(system: System) -> Ledger:
    """Return the ledger as it was before the first key was enrolled."""
    system.store._database.transaction(lambda c: c.exec_driver_sql("DELETE FROM keys"))
    return system.store


@pytest.mark.parametrize("given", [True, False])
def test_first_key_is_enrolled(system: System, *, given: bool) -> None:
    """An empty ring gets the configured key after a self-test."""
    store = _emptied(system)
    expected = system.address(NEW).lower() if given else None
    signer, warnings = _startup_key(system).open(NEW, expected)
    active = store.active_key()

    assert active is not None
    assert (active.key_id, active.address) == (NEW, system.address(NEW))
    assert (active.state, active.epoch) == (KeyState.ACTIVE, 1)
    assert active.requested_by == "configuration"
    assert (signer.address, warnings) == (active.address, [])
    assert system.directory.devices[NEW].calls == 2


def test_alias_is_enrolled_by_its_key_id(system: System) -> None:
    """O7: the enrolled id is the permanent one that the alias resolved to."""
    store = _emptied(system)
    system.directory.aliases["alias/first"] = NEW
    _startup_key(system).open("alias/first", None)
    again = _startup_key(system).open("alias/first", None)
    active = store.active_key()

    assert active is not None
    assert active.key_id == NEW
    assert again[1] == []


@pytest.mark.parametrize("fault", ["missing", "silent", "another address"])
def test_bad_key_is_not_enrolled(system: System, fault: str) -> None:
    """A key that is missing, does not sign or has another address is not enrolled."""
    store = _emptied(system)
    if fault == "silent":
        system.directory.failure = KeyUnusableError("DisabledException")
    name = "nowhere" if fault == "missing" else NEW
    address = UNKNOWN if fault == "another address" else None

    assert _refusal(system, name, address) == "key-unusable"
    assert list(store.keys()) == []


def test_ring_decides_after_a_rotation(system: System) -> None:
    """O5: a process with the old setting signs with the new key, and warns."""
    before = _startup_key(system).open(OLD, system.address(OLD))
    made_active(system.store, system.key(NEW))
    outdated = _startup_key(system).open(OLD, system.address(OLD))
    updated = _startup_key(system).open(NEW, system.address(NEW))

    assert (before[0].address, before[1]) == (system.address(OLD), [])
    assert (outdated[0].address, len(outdated[1])) == (system.address(NEW), 1)
    assert "rotated away from" in outdated[1][0]
    assert (updated[0].address, updated[1]) == (system.address(NEW), [])


def test_bare_id_of_an_arn_needs_no_lookup(system: System) -> None:
    """The id in an ARN is recognised without asking the device."""
    arn = f"arn:aws:kms:eu-central-1:111122223333:key/{OTHER}"
    system.directory.devices[arn] = system.directory.devices[OTHER]
    made_active(system.store, key_at(system.address(OTHER), key_id=arn))
    system.directory.devices.pop(OTHER)

    assert _startup_key(system).open(OTHER, None)[1] == []


@pytest.mark.parametrize("name", [OTHER, "nowhere"])
def test_configured_key_outside_the_ring_is_refused(system: System, name: str) -> None:
    """A changed setting does not rotate the key, whether or not the key exists."""
    assert _refusal(system, name) == "key-not-in-ring"
    assert system.store.active_key() == system.old


@pytest.mark.parametrize("state", ["pending", "awaiting funds", "rejected"])
def test_key_activated_after_the_backup_is_refused(system: System, state: str) -> None:
    """R24: a ledger restored from before a rotation refuses the new key, which is
    pending or rejected there."""
    pending = system.begin_rotation(NEW)
    if state == "awaiting funds":
        system.store.wait_for(pending, "awaiting-funds", system.clock())
    if state == "rejected":
        system.store.reject(pending, "backend-access-denied", system.clock())

    assert _refusal(system, NEW) == "key-not-in-ring"
    assert _refusal(system, OLD, pending.address) == "key-not-in-ring"
    assert _startup_key(system).open(OLD, system.address(OLD))[1] == []


def test_address_outside_the_ring_is_refused(system: System) -> None:
    """WALLET_ADDRESS must be the address of a key that is or was active."""
    assert _refusal(system, OLD, UNKNOWN) == "key-not-in-ring"


def test_ring_of_another_backend_is_refused(system: System) -> None:
    """A process does not start with a ledger whose active key is in another backend."""
    elsewhere = replace(key_at(UNKNOWN, key_id="01"), backend="pkcs11")
    made_active(system.store, elsewhere)

    assert _refusal(system, OLD) == "key-backend-mismatch"


def test_active_key_must_sign(system: System) -> None:
    """A process does not start if the active key fails its self-test."""
    system.directory.failure = KeyUnusableError("DisabledException")

    assert _refusal(system, OLD) == "key-unusable"


def test_concurrent_enrolments_have_one_winner(system: System) -> None:
    """Of two concurrent enrolments, the second process uses the first's key."""
    late = altered(system.store, active_key=lambda: None)

    signer, warnings = _startup_key(system, late).open(OLD, None)
    assert (signer.key_id, warnings) == (KeyId(OLD), [])
    with pytest.raises(ConfigurationError):
        _startup_key(system, late).open(NEW, None)


def test_unavailable_ledger_is_an_error(system: System) -> None:
    """Without the ring, a process cannot know which key to sign with."""
    with pytest.raises(StoreUnavailableError):
        _startup_key(
            system, altered(system.store, active_key=StoreUnavailableError("gone"))
        ).open(OLD, None)


REPLICA = "arn:aws:kms:eu-central-1:111122223333:key/mrk-1234abcd12ab34cd"
ELSEWHERE = REPLICA.replace("eu-central-1", "eu-west-1")


def _fail_over(system: System, name: str, place: str) -> None:
    """Rotate to the key *name*, and fail it over to *place*."""
    system.directory.devices[place] = system.directory.devices[name]
    active = made_active(system.store, system.key(name))
    record = Record.of({"event": "key-failover-succeeded"}, system.clock())
    system.store.relocate(active, place, system.clock(), record)


@pytest.mark.parametrize("name", [REPLICA, REPLICA.rpartition("/")[2]])
def test_configuration_of_another_region_is_accepted(system: System, name: str) -> None:
    """K18: after a failover, a process starts with the ARN of the old region."""
    _fail_over(system, NEW, ELSEWHERE)
    signer, warnings = _startup_key(system).open(name, system.address(NEW))

    assert signer.key_id == ELSEWHERE
    warned = ["failed over" in warning for warning in warnings]
    assert warned == ([True] if name == REPLICA else [])


@pytest.mark.parametrize("error", [BackendUnavailableError, BackendThrottledError])
def test_alias_lookup_that_fails_is_reported(
    system: System, error: type[BackendError]
) -> None:
    """K18: while its region is down, the refusal reports that, not another key."""

    def resolve(name: str) -> KeyId:
        raise error("KMS does not answer")

    system.directory.resolve = resolve  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError) as refused:
        _startup_key(system).open("alias/wallet", None)

    (refusal,) = refused.value.refusals
    assert refusal.code == "kms-signing-error"
    assert "needs no lookup" in str(refusal)


def test_alias_of_the_old_region_is_accepted(system: System) -> None:
    """An alias of the key in its old region is as good as the ARN."""
    _fail_over(system, NEW, ELSEWHERE)
    system.directory.devices[REPLICA] = system.directory.devices[NEW]
    system.directory.aliases["alias/wallet"] = REPLICA
    signer, warnings = _startup_key(system).open("alias/wallet", None)

    assert (signer.key_id, warnings) == (ELSEWHERE, [])


def test_same_single_region_id_is_another_key(system: System) -> None:
    """The same id of a single-Region key in another region is another key: refused."""
    _fail_over(system, NEW, ELSEWHERE.replace("mrk-", ""))

    assert _refusal(system, REPLICA.replace("mrk-", "")) == "key-not-in-ring"


def test_rotation_during_start_up(system: System) -> None:
    """A process whose key is rotated away while it starts tries again."""
    new = system.key(NEW)
    reads: list[Key | None] = []

    def active_key() -> Key | None:
        reads.append(system.store.active_key())
        if len(reads) == 1:
            made_active(system.store, new)
        return reads[-1]

    ledger = altered(system.store, active_key=active_key)
    signer, _ = _startup_key(system, ledger).open(NEW, None)

    assert signer.key_id == NEW
    assert len(reads) == 2


def test_ring_that_keeps_changing_stops_start_up(system: System) -> None:
    """After three rotations during three tries, the process reports `key-rotated`."""

    def active_key() -> Key | None:
        found = system.store.active_key()
        assert found is not None
        other = NEW if found.key_id == OLD else OLD
        made_active(system.store, system.key(other))
        return found

    ledger = altered(system.store, active_key=active_key)
    with pytest.raises(KeyRotatedError, match="during every self-test"):
        _startup_key(system, ledger).open(NEW, None)
