"""A starting process signs with the active key, or reads the proof that it signs."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from structlog.testing import capture_logs

from backends.sql import SQLStore
from signer.errors import (
    BackendError,
    BackendThrottledError,
    BackendUnavailableError,
    ConfigurationError,
    HotWalletError,
    KeyRotatedError,
    KeyUnusableError,
    Refusal,
    SigningError,
    StoreUnavailableError,
)
from signer.keys.key_proofs import (
    PROVE_EVERY_SECONDS,
    KeyProof,
)
from signer.keys.signer import Signer
from signer.keys.startup_key import StartupKey
from signer.model.audit_record import Record
from signer.model.key import Key, KeyState
from signer.ports.key_backend import KeyId
from signer.ports.ledger import Ledger
from tests.support.keys import key_at, made_active
from tests.support.refunds import SECOND, World, altered
from tests.support.ring import NEW, OLD, OTHER, System


UNKNOWN = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


def _startup_key(
    system: System, store: Ledger | None = None, *, needs_device: bool = True
) -> StartupKey:
    return StartupKey(
        store or system.store,
        system.signers,
        _self_test,
        system.clock,
        needs_device=needs_device,
    )


def _open(
    startup_key: StartupKey, name: str, address: str | None
) -> tuple[Signer, list[str]]:
    """Return signer and warnings; the device answers."""
    signer, warnings = startup_key.open(name, address)
    assert signer is not None
    return signer, warnings


def _self_test(
    open_signer: Callable[[], Signer], *, while_active: bool = False
) -> Signer:
    try:
        signer = open_signer()
        signer.self_test(while_active=while_active)
    except SigningError as e:
        refusal = Refusal("key-unusable", str(e), is_transient=e.retryable)
        raise ConfigurationError(refusal) from None
    return signer


def _refusal(system: System, name: str, address: str | None = None) -> str:
    with pytest.raises(ConfigurationError) as raised:
        _open(_startup_key(system), name, address)
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
    signer, warnings = _open(_startup_key(system), NEW, expected)
    active = store.active_key()

    assert active is not None

    assert (active.key_id, active.address) == (NEW, system.address(NEW))

    assert (active.state, active.epoch) == (KeyState.ACTIVE, 1)
    assert active.requested_by == "configuration"
    assert (signer.address, warnings) == (active.address, [])
    assert system.directory.devices[NEW].calls == 2
    system.directory.aliases["alias/first"] = NEW  # O7: its permanent id is enrolled.
    assert _open(_startup_key(system), "alias/first", None)[1] == []


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
    before = _open(_startup_key(system), OLD, system.address(OLD))
    made_active(system.store, system.key(NEW))
    outdated = _open(_startup_key(system), OLD, system.address(OLD))
    updated = _open(_startup_key(system), NEW, system.address(NEW))

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

    assert _open(_startup_key(system), OTHER, None)[1] == []


@pytest.mark.parametrize("name", [OTHER, "nowhere"])
def test_configured_key_outside_the_ring_is_refused(system: System, name: str) -> None:
    """A changed setting, also of the address, does not rotate the key."""
    assert _refusal(system, name) == "key-not-in-ring"
    assert _refusal(system, OLD, UNKNOWN) == "key-not-in-ring"
    # A device that answers that there is no such key was not down.
    assert _compare_without_device(system, "nowhere", None) == "key-not-in-ring"
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
    assert _open(_startup_key(system), OLD, system.address(OLD))[1] == []


def test_concurrent_enrolments_have_one_winner(system: System) -> None:
    """Of two concurrent enrolments, the second process uses the first's key."""
    late = altered(system.store, active_key=lambda: None)

    signer, warnings = _open(_startup_key(system, late), OLD, None)
    assert (signer.key_id, warnings) == (KeyId(OLD), [])
    with pytest.raises(ConfigurationError):
        _open(_startup_key(system, late), NEW, None)


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
    signer, warnings = _open(_startup_key(system), name, system.address(NEW))

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
        _open(_startup_key(system), "alias/wallet", None)

    (refusal,) = refused.value.refusals
    assert refusal.code == "kms-signing-error"
    assert "needs no lookup" in str(refusal)


def test_alias_of_the_old_region_is_accepted(system: System) -> None:
    """An alias of the key in its old region is as good as the ARN."""
    _fail_over(system, NEW, ELSEWHERE)
    system.directory.devices[REPLICA] = system.directory.devices[NEW]
    system.directory.aliases["alias/wallet"] = REPLICA
    signer, warnings = _open(_startup_key(system), "alias/wallet", None)

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
    signer, _ = _open(_startup_key(system, ledger), NEW, None)

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
        _open(_startup_key(system, ledger), NEW, None)


DOWN = (BackendUnavailableError("no answer"), BackendThrottledError("slow down"))


def _compare_without_device(system: System, name: str, address: str | None) -> str:
    """Return the warning, or the code of the refusal."""
    startup_key = _startup_key(system, needs_device=False)
    try:
        signer, warnings = startup_key.open(name, address)
    except ConfigurationError as e:
        return e.refusals[0].code
    assert signer is None
    return warnings[0]


@pytest.mark.parametrize("error", DOWN)
@pytest.mark.parametrize("name", [OLD, "alias/wallet"])
def test_a_process_that_needs_no_device_starts_without(
    system: System, error: BackendError, name: str
) -> None:
    """The ring has the key already; an alias is not compared without the device."""

    def resolve(name: str) -> KeyId:
        raise error

    system.directory.resolve = resolve  # type: ignore[method-assign]
    system.directory.failure = error

    warning = _compare_without_device(system, name, system.address(OLD))

    assert "the device does not answer" in warning


@pytest.mark.parametrize("error", [*DOWN, KeyUnusableError("disabled")])
def test_a_device_that_is_down_excuses_nothing_else(
    system: System, error: BackendError
) -> None:
    """Not an address outside of the ring, another backend or an empty ring."""
    old = system.address(OLD)
    signer, warnings = _startup_key(system, needs_device=False).open(OLD, None)
    assert (signer and signer.address, warnings) == (old, [])
    system.directory.failure = error
    if error.retryable:
        assert _compare_without_device(system, OLD, UNKNOWN) == "key-not-in-ring"
    else:
        assert _compare_without_device(system, OLD, old) == "key-unusable"
    made_active(system.store, replace(key_at(UNKNOWN, key_id="01"), backend="pkcs11"))
    assert _compare_without_device(system, OLD, old) == "key-backend-mismatch"
    assert _refusal(system, OLD) == "key-backend-mismatch"

    _emptied(system)
    assert _compare_without_device(system, OLD, old) == "key-unusable"


# Proofs that the active key signs, for the processes that have no key.


@pytest.fixture
def world(sqlite_store: SQLStore) -> World:
    """A worker whose key is active."""
    return World(sqlite_store)


def _proof(world: World, check: Callable[[], object] = lambda: None) -> KeyProof:
    """Return the proof of a worker that starts now."""
    return KeyProof(
        world.store, world.ring, check, world.clock, lambda: world.clock().timestamp()
    )


def _proved_at(world: World) -> datetime | None:
    return world.key.proved_at


def _fail(errors: list[HotWalletError]) -> Callable[[], None]:
    """Return a check that fails with each of *errors* in turn, and then succeeds."""

    def check() -> None:
        if errors:
            raise errors.pop(0)

    return check


def test_a_key_is_proved_every_ten_seconds(world: World) -> None:
    """A worker calls it before each claim; a check costs the device a signature."""
    checks: list[float] = []
    begun = world.clock()
    before = world.ring.active().key
    proof = _proof(
        world, lambda: checks.append((world.clock() - begun).total_seconds())
    )

    for _ in range(60):
        proof()
        world.clock.advance(seconds=0.5)

    assert checks == [0, PROVE_EVERY_SECONDS, 2 * PROVE_EVERY_SECONDS]
    proved_at = _proved_at(world)
    assert proved_at is not None
    assert (proved_at - begun).total_seconds() == checks[-1]
    assert world.key == before  # Nothing else of the row changes.
    assert world.key.version == before.version


@pytest.mark.parametrize(
    "error", [BackendUnavailableError("u:p@host"), KeyUnusableError("u:p@host")]
)
def test_a_key_that_does_not_sign_is_not_proved(
    world: World, error: HotWalletError
) -> None:
    """The error is logged by its code, and the next check is ten seconds later."""
    proof = _proof(world, _fail([error, error]))

    with capture_logs() as logs:
        for _ in range(2):
            proof()
            proof()
            assert _proved_at(world) is None
            world.clock.advance(seconds=PROVE_EVERY_SECONDS)
        proof()

    assert (
        logs
        == [{"event": "key-not-proved", "log_level": "warning", "code": error.code}] * 2
    )
    assert _proved_at(world) == world.clock()


@pytest.mark.parametrize("method", ["prove", "active"])
def test_a_failing_ledger_does_not_stop_the_worker(world: World, method: str) -> None:
    """The proof is tried again ten seconds later."""
    gone = StoreUnavailableError("gone")
    proof = _proof(world)
    if method == "prove":
        proof.store = altered(world.store, prove=gone)
    else:
        proof.ring = altered(world.ring, active=gone)

    with capture_logs() as logs:
        proof()

    assert [entry["code"] for entry in logs] == ["store-unavailable"]
    assert _proved_at(world) is None


def test_the_key_that_is_active_now_is_proved(world: World) -> None:
    """A former key keeps its last proof, which nothing reads (O4)."""
    proof = _proof(world)
    proof()
    begun = world.clock()
    made_active(world.store, key_at(SECOND.address))
    world.clock.advance(seconds=PROVE_EVERY_SECONDS)
    proof.ring.refresh()

    proof()

    active, former = world.store.keys()
    assert (active.address, active.proved_at) == (SECOND.address, world.clock())
    assert (former.address, former.proved_at) == (world.signer.address, begun)


@pytest.mark.parametrize("errors", [[], [BackendUnavailableError("gone")]])
def test_a_new_active_key_is_proved_at_once(
    world: World, errors: list[HotWalletError]
) -> None:
    """Until then, the processes that accept refunds are not ready (O4)."""
    failing: list[HotWalletError] = []
    proof = _proof(world, _fail(failing))
    proof()
    made_active(world.store, key_at(SECOND.address))
    failing.extend(errors)

    for _ in range(5):
        world.clock.advance(seconds=1)
        proof()

    expected = None if errors else world.clock() - timedelta(seconds=4)
    active = world.store.active_key()
    assert active is not None
    assert (active.address, active.proved_at) == (SECOND.address, expected)


def test_an_unreadable_ring_is_no_new_key(world: World) -> None:
    """The proof itself, when it is due, reports the error."""
    proof = _proof(world)
    proof()
    begun = world.clock()
    proof.store = altered(world.store, active_key=StoreUnavailableError("gone"))
    world.clock.advance(seconds=1)

    with capture_logs() as logs:
        proof()

    assert logs == []
    assert _proved_at(world) == begun


def test_a_worker_proves_its_key_when_it_is_idle(world: World) -> None:
    """Also a worker without refunds keeps the other processes ready."""
    worker = world.worker

    assert worker.work() == 0

    assert _proved_at(world) == world.clock()
