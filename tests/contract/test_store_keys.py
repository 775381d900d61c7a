"""Contract of ``KeyStore``: one active key, and atomic changes."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from backends.sql import SQLStore
from signer.errors import (
    ConflictError,
    KeyRotatedError,
    RotationInProgressError,
    StaleStateError,
    StoreError,
)
from signer.model.audit_record import Record
from signer.model.key import ROTATION_HOLD, SIGNING, Key, KeyState
from signer.model.refund import Status
from signer.model.wallet import Pause
from signer.ports.key_store import KeyStore
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    a_filler,
    accepted,
    delay,
    later,
    mined,
    moved,
    now,
    opened,
    refund_page,
    reserve,
    reserved,
    save,
    signed,
    stored,
)
from tests.support.audit import overruled, record
from tests.support.keys import activate, key_at, made_active, signing_condition
from tests.support.ledgers import collected_statements, seal, seal_events


THIRD = "0x9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0"

FIRST, SECOND, OTHER = (key_at(each) for each in (WALLET, OTHER_WALLET, THIRD))

AT = now()
ALL = (WALLET, OTHER_WALLET)
AN_HOUR = timedelta(hours=1)


def _states(store: KeyStore) -> dict[str, str]:
    ring = store.keys()
    return {key.address: str(key.state) for key in ring}


def _blocked(store: KeyStore) -> Key:
    ring = store.keys()
    return next(key for key in ring if key.state is KeyState.BLOCKED)


def _draft(key: Key) -> Record:
    return record(event="key-retire-succeeded", address=key.address)


@pytest.fixture(autouse=True)
def _enrolled(request: pytest.FixtureRequest, store: SQLStore) -> None:
    """Enrol the first key as the active one, except for tests of an empty ring."""
    if "empty_ring" not in request.fixturenames:
        store.enrol(FIRST)


@pytest.fixture
def empty_ring() -> None:
    """No key is enrolled."""


def test_the_first_key_is_enrolled_once(store: SQLStore) -> None:
    """Enrolling another key returns the active key and changes nothing."""
    active = replace(FIRST, epoch=1)

    assert store.enrol(FIRST) == active
    assert store.enrol(SECOND) == active
    assert list(store.keys()) == [active]
    assert store.active_key() == active


def test_a_rotation_has_two_steps(store: SQLStore) -> None:
    """The new key is pending, then active with the next epoch; the old one drains."""
    asked = replace(SECOND, requested_by="alice", state=KeyState.PENDING)
    pending = store.begin_rotation(asked, AT)
    meanwhile = _states(store)
    activated = activate(store, pending, AT, record(event="key-rotate-succeeded"))

    assert pending == replace(asked, held_until=AT + ROTATION_HOLD)
    assert meanwhile == {WALLET: "active", OTHER_WALLET: "pending"}
    assert activated == replace(
        asked, state=KeyState.ACTIVE, epoch=2, version=1, updated_at=AT
    )
    assert list(_states(store)) == [OTHER_WALLET, WALLET]
    assert store.active_key() == activated
    assert _states(store) == {WALLET: "draining", OTHER_WALLET: "active"}
    assert seal_events(store) == ["key-rotate-succeeded"]


def test_each_change_changes_the_version_of_the_ring(store: SQLStore) -> None:
    """A process that has read the ring finds out whether it must read it again."""
    versions = [store.ring_version()]
    pending = store.begin_rotation(SECOND, AT)
    versions.append(store.ring_version())
    activate(store, pending, AT, record())
    versions.append(store.ring_version())
    store.prove(OTHER_WALLET, AT)  # Nothing that matters to others.

    assert versions == sorted(set(versions))
    assert store.ring_version() == versions[-1]


def test_one_rotation_at_a_time(store: SQLStore) -> None:
    """O2: during the hold no other rotation begins, with the same key or another."""
    store.begin_rotation(SECOND, AT)
    last = AT + ROTATION_HOLD - timedelta(microseconds=1)

    for key in (SECOND, OTHER):
        with pytest.raises(RotationInProgressError):
            store.begin_rotation(key, last)
    assert _states(store) == {WALLET: "active", OTHER_WALLET: "pending"}


def test_a_hold_may_be_shorter(store: SQLStore) -> None:
    """The caller of ``begin_rotation`` can choose how long the rotation is held."""
    hold = timedelta(seconds=2)
    store.begin_rotation(SECOND, AT, hold=hold)

    with pytest.raises(RotationInProgressError):
        store.begin_rotation(SECOND, AT + hold - timedelta(microseconds=1))
    assert store.begin_rotation(SECOND, AT + hold).address == SECOND.address


def test_an_abandoned_rotation_can_be_resumed(store: SQLStore) -> None:
    """O1: after the hold another process resumes it; the slow process fails."""
    slow = store.begin_rotation(replace(SECOND, requested_by="alice"), AT)
    later = replace(SECOND, requested_by="bob")
    taken = store.begin_rotation(later, AT + ROTATION_HOLD)

    with pytest.raises(StaleStateError):
        activate(store, slow, AT, record())
    with pytest.raises(StaleStateError):
        store.reject(slow, "key-unusable", AT)
    with pytest.raises(StaleStateError):
        store.wait_for(slow, "awaiting-funds", AT)
    assert taken.requested_by == "bob"
    assert activate(store, taken, AT, record()).state is KeyState.ACTIVE
    assert seal_events(store) == ["test"]


def test_another_key_ends_an_abandoned_rotation(store: SQLStore) -> None:
    """O1: a key that was never active is rejected, and blocks no rotation."""
    store.begin_rotation(SECOND, AT)
    store.begin_rotation(OTHER, AT + ROTATION_HOLD)
    ring = store.keys()
    (second,) = (key for key in ring if key.address == OTHER_WALLET)

    assert _states(store) == {
        WALLET: "active",
        OTHER_WALLET: "rejected",
        THIRD: "pending",
    }
    assert (second.blocked_by, second.held_until) == ("abandoned", None)


def test_an_abandoned_rollback_drains_again(store: SQLStore) -> None:
    """O1, O6: a key with nonces of its own still signs for them."""
    made_active(store, SECOND)
    store.begin_rotation(FIRST, AT)
    store.begin_rotation(OTHER, AT + ROTATION_HOLD)

    assert _states(store) == {
        WALLET: "draining",
        OTHER_WALLET: "active",
        THIRD: "pending",
    }


def test_a_rejected_key_may_be_tried_again(store: SQLStore) -> None:
    """A rejection keeps its reason, until the next rotation to the key begins."""
    pending = store.begin_rotation(SECOND, AT)
    rejected = store.reject(pending, "key-unusable", AT)
    again = store.begin_rotation(SECOND, AT)

    assert (rejected.state, rejected.blocked_by) == (KeyState.REJECTED, "key-unusable")
    assert rejected.held_until is None
    assert (again.state, again.blocked_by) == (KeyState.PENDING, None)


def test_a_waiting_rotation_has_no_hold(store: SQLStore) -> None:
    """O3: a key that waits for funds stays pending; any process may resume at once."""
    pending = store.begin_rotation(SECOND, AT)
    waiting = store.wait_for(pending, "awaiting-funds", AT)
    again = store.begin_rotation(SECOND, AT)

    assert waiting.state is KeyState.PENDING
    assert (waiting.held_until, waiting.blocked_by) == (None, "awaiting-funds")
    assert again.held_until == AT + ROTATION_HOLD
    assert again.blocked_by is None


@pytest.mark.parametrize("error", [AN_HOUR, -AN_HOUR])
def test_wrong_clocks_do_not_block_rotations(store: SQLStore, error: timedelta) -> None:
    """A clock that is an hour fast or slow does not block rotations for long."""
    store.begin_rotation(SECOND, AT)
    taken = store.begin_rotation(OTHER, AT + error)

    with pytest.raises(RotationInProgressError):
        store.begin_rotation(SECOND, AT + error)
    assert activate(store, taken, AT + error, record()).address == THIRD


def test_a_key_has_one_id_and_one_address(store: SQLStore) -> None:
    """The ring rejects a known id with a new address, and the reverse."""
    for changed in (
        key_at(THIRD, key_id=FIRST.key_id),
        key_at(WALLET, key_id="another id"),
    ):
        with pytest.raises(ConflictError, match="another key of the ring"):
            store.begin_rotation(changed, AT)
    assert _states(store) == {WALLET: "active"}


def test_a_rotation_to_the_active_key_is_refused(store: SQLStore) -> None:
    with pytest.raises(StaleStateError, match="active"):
        store.begin_rotation(FIRST, AT)
    assert _states(store) == {WALLET: "active"}


def test_activation_and_record_are_atomic(store: SQLStore) -> None:
    """O1: if the record cannot be written, the key does not change."""
    written = record()
    store.append([written])
    pending = store.begin_rotation(SECOND, AT)

    with pytest.raises(StoreError):
        activate(store, pending, AT, written)  # Its id is taken.
    assert _states(store) == {WALLET: "active", OTHER_WALLET: "pending"}
    assert seal_events(store) == ["test"]
    assert activate(store, pending, AT, record()).epoch == 2


def test_a_rollback_is_a_rotation(store: SQLStore) -> None:
    """O6: the former key becomes active again, with a new epoch."""
    made_active(store, SECOND)
    back = made_active(store, FIRST)

    assert (back.address, back.epoch) == (WALLET, 3)
    ring = store.keys()
    assert [(key.address, key.epoch) for key in ring] == [
        (WALLET, 3),
        (OTHER_WALLET, 2),
    ]
    assert _states(store) == {WALLET: "active", OTHER_WALLET: "draining"}


def test_a_blocked_key_is_never_active_again(store: SQLStore) -> None:
    """O8: a rotation to a key that was revoked as compromised is refused."""
    made_active(store, SECOND, block=True)

    with pytest.raises(StaleStateError, match="blocked"):
        store.begin_rotation(FIRST, AT)
    assert store.retire(ALL, AT, _draft) == ()
    assert _states(store) == {WALLET: "blocked", OTHER_WALLET: "active"}


def test_a_reinstated_key_drains(store: SQLStore) -> None:
    """It signs again, and its wallets are compared with their chains first."""
    opened(store)
    made_active(store, SECOND, block=True)
    wallet = store.wallet(31337, WALLET)
    assert wallet is not None
    store.resume(wallet, AT, ())
    blocked = _blocked(store)
    reinstated = store.reinstate(blocked, AT + AN_HOUR, record(event="reinstated"))
    store.append([record()], condition=signing_condition(reinstated, SIGNING))
    wallet = store.wallet(31337, WALLET)

    assert wallet is not None
    assert wallet.paused_by is Pause.CHAIN_AHEAD
    assert (reinstated.state, reinstated.epoch) == (KeyState.DRAINING, 1)
    assert _states(store) == {WALLET: "draining", OTHER_WALLET: "active"}
    assert "reinstated" in seal_events(store)
    assert made_active(store, FIRST).epoch == 3


def test_refunds_that_lost_their_nonces_do_not_get_them_back(store: SQLStore) -> None:
    lost, kept = (reserved(store, accepted(store)) for _ in range(2))
    kept = signed(store, kept)
    made_active(store, SECOND, block=True)
    blocked = _blocked(store)
    store.reinstate(blocked, AT, record())

    queued_again, stays = store.get(lost.id), store.get(kept.id)
    assert queued_again is not None
    assert stays is not None
    assert (queued_again.status, queued_again.nonce) == (Status.QUEUED, None)
    assert (stays.status, stays.nonce) == (Status.SIGNED, kept.nonce)


def test_a_revocation_has_as_many_statements_for_any_queue(store: SQLStore) -> None:
    """It holds the lock of the keys, for which every signature waits."""
    counts = []
    for count in (1, 5):
        made_active(store, FIRST)
        lost = [reserved(store, accepted(store)) for _ in range(count)]
        with collected_statements(store) as statements:
            made_active(store, SECOND, block=True)
        counts.append(len(statements))
        assert {stored(store, each).nonce for each in lost} == {None}
        store.reinstate(_blocked(store), AT, record())
        wallet = store.wallet(31337, WALLET)
        assert wallet is not None
        store.resume(wallet, AT, ())

    assert counts[0] == counts[1]


def test_a_refund_that_another_program_ended(
    store: SQLStore, database_url: str
) -> None:
    """It keeps no key from its revocation, and no other refund from its release."""
    ended, lost = (reserved(store, accepted(store)) for _ in range(2))
    overruled(
        database_url, f"UPDATE refunds SET state = 'failed' WHERE id = '{ended.id}'"
    )

    made_active(store, SECOND, block=True)

    assert [stored(store, each).nonce for each in (ended, lost)] == [0, None]


def test_bytes_for_a_nonce_that_another_payment_got(store: SQLStore) -> None:
    """A process that signed before a revocation does not record the bytes after it."""
    lost = reserved(store, accepted(store))
    assert store.claim(later(11), later(21), 1)  # The process is slow.
    made_active(store, SECOND, block=True)
    store.reinstate(_blocked(store), AT, record())
    filler = a_filler(store, 0, AT)

    with pytest.raises(StaleStateError):
        signed(store, lost)
    with pytest.raises(StaleStateError):
        save(store, lost, delay(lost, AT))
    assert store.find_transaction(31337, WALLET, 0) == filler


def test_only_revoked_keys_are_reinstated(store: SQLStore) -> None:
    """And each version of the row once; without a record nothing changes."""
    made_active(store, SECOND)
    active, former = store.keys()
    for key in (active, former):
        with pytest.raises(StaleStateError):
            store.reinstate(key, AT, record())
    blocked = store.block(former, AT, record())
    written = record()
    store.append([written])
    with pytest.raises(StoreError):
        store.reinstate(blocked, AT, written)  # Its id is taken.
    assert _states(store)[WALLET] == "blocked"
    store.reinstate(blocked, AT, record())
    with pytest.raises(StaleStateError):
        store.reinstate(blocked, AT, record())


def test_only_the_active_key_reserves(store: SQLStore) -> None:
    """O4: a reservation with any other key is refused and changes nothing."""
    for sender in (WALLET, OTHER_WALLET):
        opened(store, sender=sender)
    refund = accepted(store)

    def reserve_from(sender: str) -> None:
        reserve(
            store,
            refund,
            sender=sender,
            key_id=key_at(sender).key_id,
            gas_limit=7,
            counted=0,
            at=AT,
        )

    pending = store.begin_rotation(SECOND, AT)
    with pytest.raises(KeyRotatedError):
        reserve_from(OTHER_WALLET)
    activate(store, pending, AT, record())
    for sender in (WALLET, THIRD):
        with pytest.raises(KeyRotatedError):
            reserve_from(sender)
    assert store.get(refund.id) == refund
    assert len(store.history(refund.id)) == 1
    reserve_from(OTHER_WALLET)
    assert refund_page(store, "gateway").refunds[0].sender == OTHER_WALLET


def test_only_the_active_key_writes_intents(store: SQLStore) -> None:
    store.append([record(event="one")], condition=signing_condition(FIRST))
    made_active(store, SECOND)

    for key in (FIRST, OTHER):
        with pytest.raises(KeyRotatedError):
            store.append([record(event="two")], condition=signing_condition(key))
    store.append([record(event="three")], condition=signing_condition(SECOND))
    assert sorted(seal_events(store)) == ["key-rotate-succeeded", "one", "three"]


def test_a_key_with_open_refunds_is_not_retired(store: SQLStore) -> None:
    """O4: a key drains until its last nonce is final, and retires with its record."""
    refund = signed(store, reserved(store, accepted(store)))
    made_active(store, SECOND)
    assert store.retire(ALL, AT, _draft) == ()
    refund = mined(store, moved(store, refund, Status.BROADCAST))
    assert store.retire(ALL, AT, _draft) == ()
    moved(store, refund, Status.CONFIRMED)
    ((key, written),) = store.retire(ALL, AT, _draft)

    assert (key.address, key.state, key.updated_at) == (WALLET, KeyState.RETIRED, AT)
    assert written.fields["address"] == WALLET
    assert _states(store) == {WALLET: "retired", OTHER_WALLET: "active"}
    assert sorted(seal_events(store)) == [
        "key-retire-succeeded",
        "key-rotate-succeeded",
    ]
    assert store.retire(ALL, AT, _draft) == ()


def test_only_settled_keys_are_retired(store: SQLStore) -> None:
    """O4: a key must be named as settled, and its wallet must not be paused."""
    wallet = opened(store)
    made_active(store, SECOND)

    assert store.retire([], AT, _draft) == ()
    assert store.retire([OTHER_WALLET], AT, _draft) == ()
    store.pause(wallet, Pause.CHAIN_AHEAD, AT)
    assert store.retire(ALL, AT, _draft) == ()
    assert _states(store) == {WALLET: "draining", OTHER_WALLET: "active"}


def test_a_retired_key_can_be_active_again(store: SQLStore) -> None:
    """O6: a rotation back to a retired key is possible."""
    made_active(store, SECOND)
    store.retire(ALL, AT, _draft)
    back = made_active(store, FIRST)

    assert (back.state, back.epoch) == (KeyState.ACTIVE, 3)


@pytest.mark.parametrize("block", [False, True])
def test_only_the_given_key_is_replaced(store: SQLStore, *, block: bool) -> None:
    """O2, O8: if *replacing* is not the active key and version, nothing changes."""
    first = store.keys()[0]
    second = made_active(store, SECOND)
    pending = store.begin_rotation(OTHER, AT)
    before = list(store.keys())

    for key in (first, replace(second, epoch=3), None):
        with pytest.raises(KeyRotatedError):
            store.activate(pending, AT, record(), replacing=key, block=block)
    seal(store)
    assert list(store.keys()) == before
    assert store.head()[0] == 1  # The first rotation's record.


@pytest.mark.usefixtures("empty_ring")
def test_the_first_key_replaces_none(store: SQLStore) -> None:
    """O2: if there is no active key, *replacing* must be None."""
    pending = store.begin_rotation(SECOND, AT)
    with pytest.raises(KeyRotatedError):
        store.activate(pending, AT, record(), replacing=FIRST)
    activated = store.activate(pending, AT, record(), replacing=None)

    assert (activated.epoch, _states(store)) == (1, {OTHER_WALLET: "active"})


def test_a_pending_rollback_is_blocked(store: SQLStore) -> None:
    """O8: a pending former key can be revoked, unless its hold has not expired."""
    made_active(store, SECOND)
    held = store.begin_rotation(FIRST, AT)
    with pytest.raises(RotationInProgressError):
        store.block(held, AT, record())
    waiting = store.wait_for(held, "awaiting-funds", AT)
    with pytest.raises(StaleStateError):
        store.block(held, AT, record())
    blocked = store.block(waiting, AT, record())

    assert (blocked.state, blocked.blocked_by) == (KeyState.BLOCKED, None)
    assert _states(store) == {WALLET: "blocked", OTHER_WALLET: "active"}
    assert store.begin_rotation(OTHER, AT).state is KeyState.PENDING


def test_only_former_keys_are_blocked(store: SQLStore) -> None:
    """O8: neither the active key nor a pending one that was never active."""
    first = store.keys()[0]
    pending = store.begin_rotation(SECOND, AT)

    for key in (first, store.wait_for(pending, "awaiting-funds", AT)):
        with pytest.raises(StaleStateError):
            store.block(key, AT, record())
    assert _states(store) == {WALLET: "active", OTHER_WALLET: "pending"}


def _proofs(store: SQLStore) -> dict[str, datetime | None]:
    ring = store.keys()
    return {key.address: key.proved_at for key in ring}


def test_the_active_key_is_proved(store: SQLStore) -> None:
    """The time is stored without a new version, and the row keeps its MAC."""
    (before,) = store.keys()
    store.prove(FIRST.address, AT)
    store.prove(FIRST.address, AT + AN_HOUR)
    (after,) = store.keys()

    assert before.proved_at is None
    assert after == before
    assert after.mac == before.mac
    assert after.proved_at == AT + AN_HOUR


def test_other_keys_are_not_proved(store: SQLStore) -> None:
    """A key that is not active, or not in the ring, gets no time."""
    pending = store.begin_rotation(SECOND, AT)
    for key in (SECOND, OTHER):
        store.prove(key.address, AT)
    assert _proofs(store) == dict.fromkeys(ALL)
    activate(store, pending, AT, record())
    store.prove(FIRST.address, AT)

    assert _proofs(store) == dict.fromkeys(ALL)


def test_a_change_of_the_key_keeps_the_proof(store: SQLStore) -> None:
    """A process that read the row before the proof does not overwrite its time."""
    (before,) = store.keys()
    store.prove(FIRST.address, AT)
    moved_ = store.relocate(before, "other id", AT, record())

    assert _proofs(store) == {WALLET: AT}
    store.prove(FIRST.address, AT + AN_HOUR)
    pending = store.begin_rotation(SECOND, AT)
    store.activate(pending, AT, record(number=2), replacing=moved_)
    assert _proofs(store) == {WALLET: AT + AN_HOUR, OTHER_WALLET: None}


KEY_IDS = ("place-0", "place-1", "place-2")


@pytest.fixture
def key(store: SQLStore, empty_ring: None) -> Key:
    """The active key, whose key id may change."""
    return store.enrol(key_at(WALLET, key_id=KEY_IDS[0]))


def test_only_the_key_id_changes(store: SQLStore, key: Key) -> None:
    """K18: the row has the new key id and the next version; a record is written."""
    written = record()
    moved = store.relocate(key, KEY_IDS[1], AT, written)
    seal(store)

    assert moved == replace(key, key_id=KEY_IDS[1], version=1, updated_at=AT)
    assert list(store.keys()) == [moved]
    assert [each.record for each in store.sealed(0, 9)] == [written]


def test_each_key_id_belongs_to_one_key(store: SQLStore, key: Key) -> None:
    made_active(store, key_at(OTHER_WALLET, key_id=KEY_IDS[1]))
    draining = store.keys()[1]

    for key_id in KEY_IDS[:2]:
        with pytest.raises(ConflictError):
            store.relocate(draining, key_id, AT, record())
    assert store.keys()[1] == draining
    assert store.relocate(draining, KEY_IDS[2], AT, record()).key_id == KEY_IDS[2]


def test_a_key_that_may_not_sign_is_not_relocated(store: SQLStore, key: Key) -> None:
    """Neither a rejected nor a blocked key gets another key id."""
    pending = store.begin_rotation(key_at(OTHER_WALLET), AT)
    rejected = store.reject(pending, "key-unusable", AT)
    made_active(store, key_at(OTHER_WALLET), block=True)
    blocked = store.keys()[1]

    for given_up in (rejected, blocked):
        with pytest.raises(StaleStateError):
            store.relocate(given_up, KEY_IDS[1], AT, record())
    assert store.keys()[1] == blocked


def test_no_relocation_during_a_rotation(store: SQLStore, key: Key) -> None:
    """A relocation waits until the hold of a rotation has expired."""
    store.begin_rotation(key_at(OTHER_WALLET), AT)

    with pytest.raises(RotationInProgressError):
        store.relocate(key, KEY_IDS[1], AT, record())
    assert store.active_key() == key
    later = AT + ROTATION_HOLD + timedelta(microseconds=1)
    assert store.relocate(key, KEY_IDS[1], later, record()).key_id == KEY_IDS[1]


def test_a_relocation_invalidates_a_slow_rotation(store: SQLStore, key: Key) -> None:
    """A relocated pending key is activated only at its new version."""
    slow = store.begin_rotation(key_at(OTHER_WALLET, key_id=KEY_IDS[1]), AT)
    later = AT + ROTATION_HOLD
    moved = store.relocate(slow, KEY_IDS[2], later, record(event="moved"))

    with pytest.raises(StaleStateError):
        activate(store, slow, later, record(event="key-rotate-succeeded"))
    assert store.active_key() == key
    assert (
        activate(store, moved, later, record(event="key-rotate-succeeded")).key_id
        == KEY_IDS[2]
    )


def test_a_rotated_key_is_not_relocated(store: SQLStore, key: Key) -> None:
    made_active(store, key_at(OTHER_WALLET))

    with pytest.raises(StaleStateError):
        store.relocate(key, KEY_IDS[1], AT, record())
    assert store.keys()[1].key_id == KEY_IDS[0]


def test_the_old_key_id_is_refused(store: SQLStore, key: Key) -> None:
    """Neither a nonce nor an intent with the old key id is written any more."""
    opened(store)
    refund = accepted(store)
    store.relocate(key, KEY_IDS[1], AT, record())

    with pytest.raises(KeyRotatedError):
        reserved(store, refund, key_id=KEY_IDS[0])
    for states in (SIGNING, frozenset({KeyState.ACTIVE})):
        with pytest.raises(KeyRotatedError):
            store.append([record()], condition=signing_condition(key, states))
    assert stored(store, refund) == refund
    paid = reserved(store, refund, key_id=KEY_IDS[1])
    assert (paid.nonce, paid.key_id) == (0, KEY_IDS[1])


def test_a_reservation_before_a_relocation_stays(store: SQLStore, key: Key) -> None:
    """A refund keeps its nonce, sender and the key id that it was reserved with."""
    opened(store)
    refund = reserved(store, accepted(store), key_id=KEY_IDS[0])
    store.relocate(key, KEY_IDS[1], AT, record())
    after = signed(store, refund)

    assert stored(store, refund) == after
    assert (after.nonce, after.sender, after.key_id) == (0, WALLET, KEY_IDS[0])
