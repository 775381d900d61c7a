"""The ring as one process uses it: what it asks each time, and what it remembers."""

from collections.abc import Sequence

import coincurve
import pytest
import structlog
from structlog.testing import LogCapture

from backends.sql import SQLStore
from signer.audit.log import AuditLog
from signer.errors import KeyNotFoundError, KeyRotatedError, KeyUnusableError
from signer.keys.keyring import KeyRing
from signer.keys.signer import Signer
from signer.model.audit_record import Operation, Purpose, Record
from signer.model.key import Key
from signer.ports import KeyId, Ledger
from tests.support.devices import honest, recording
from tests.support.keys import key_of, made_active, ring_over
from tests.support.refunds import altered


FIRST, SECOND = (
    Signer.open(honest(coincurve.PrivateKey.from_int(n)), KeyId(f"0{n}"), log)
    for n, log in ((n, recording()[0]) for n in (1, 2))
)
DIGEST = bytes(range(32))
PURPOSE = Purpose(Operation.MESSAGE_SIGNING)
_SILENCE = structlog.wrap_logger(structlog.PrintLogger(), processors=[LogCapture()])


class Time:
    """A timer that a test turns."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_an_empty_ring_signs_nothing(sqlite_store: SQLStore) -> None:
    """Before a key was enrolled there is none to sign with, and none is known."""
    ring = KeyRing(sqlite_store, lambda _: FIRST)

    with pytest.raises(KeyNotFoundError):
        ring.active()
    assert list(ring.known()) == []
    assert ring.key(FIRST.address) is None


def test_the_active_key_is_asked_for_each_time(sqlite_store: SQLStore) -> None:
    """O5: a rotation by another process is seen at once; nothing is restarted."""
    ring = ring_over(sqlite_store, FIRST, SECOND)
    before = ring.active()
    made_active(sqlite_store, key_of(SECOND))
    after = ring.active()

    assert (before.signer, before.key.epoch) == (FIRST, 1)
    assert (after.signer, after.key.epoch) == (SECOND, 2)
    assert [key.epoch for key in ring.known()] == [2, 1]


def test_a_signer_is_opened_once(sqlite_store: SQLStore) -> None:
    """A device is asked for its public key once, however often the key is used."""
    opened: list[Key] = []

    def open_signer(key: Key) -> Signer:
        opened.append(key)
        return FIRST

    sqlite_store.enrol(key_of(FIRST))
    ring = KeyRing(sqlite_store, open_signer)
    before = ring.opened(FIRST.address, FIRST.key_id)
    used = {ring.active().signer, ring.active().signer, ring.signer(FIRST.address)}

    assert before is None
    assert used == {FIRST}
    assert len(opened) == 1
    assert ring.opened(FIRST.address, FIRST.key_id) is FIRST
    assert ring.opened(FIRST.address, SECOND.key_id) is None


def test_a_nonce_is_signed_for_by_its_key(sqlite_store: SQLStore) -> None:
    """O4: a draining key signs on, and one that is not in the ring does not."""
    ring = ring_over(sqlite_store, FIRST, SECOND)

    with pytest.raises(KeyUnusableError, match="not in the ring"):
        ring.signer(SECOND.address)
    made_active(sqlite_store, key_of(SECOND))
    assert ring.signer(FIRST.address) is FIRST
    assert ring.signer(SECOND.address) is SECOND


def test_a_blocked_key_signs_nothing(sqlite_store: SQLStore) -> None:
    """O8: a compromised key does not even sign for the nonces that it gave out."""
    ring = ring_over(sqlite_store, FIRST, SECOND)
    assert ring.active().signer is FIRST
    made_active(sqlite_store, key_of(SECOND), block=True)

    with pytest.raises(KeyUnusableError, match="blocked"):
        ring.signer(FIRST.address)


def test_what_is_known_is_a_minute_old_at_most(sqlite_store: SQLStore) -> None:
    """A ring that is only looked at asks the store once a minute."""
    timer = Time()
    ring = ring_over(sqlite_store, FIRST, SECOND, timer=timer)
    ring.known()
    made_active(sqlite_store, key_of(SECOND))
    timer.now = 59.9
    early = ring.key(SECOND.address)
    timer.now = 60.0
    found = ring.key(SECOND.address)

    assert early is None
    assert found == sqlite_store.active_key()


def test_a_rotation_meanwhile_costs_another_try(sqlite_store: SQLStore) -> None:
    """O5: who began with the old key signs with the new one, and nobody notices."""
    signers = _rotating_at_the_last_moment(sqlite_store, times=2)
    signature, signer = signers.sign_digest(DIGEST, PURPOSE)
    active = sqlite_store.active_key()

    assert active is not None
    assert (signer.address, active.epoch) == (active.address, 3)
    assert signature.recover(DIGEST) == signer.public_key


def test_rotations_again_and_again(sqlite_store: SQLStore) -> None:
    """A ring that changes before each of three tries is given up, without harm."""
    signers = _rotating_at_the_last_moment(sqlite_store, times=99)

    with pytest.raises(KeyRotatedError, match="faster than it signs"):
        signers.sign_digest(DIGEST, PURPOSE)


def _rotating_at_the_last_moment(store: SQLStore, times: int) -> KeyRing:
    """Return a ring whose active key changes behind its back when it is looked up."""
    first, second = (
        Signer.open(honest(coincurve.PrivateKey.from_int(n)), KeyId(f"0{n}"), log)
        for n, log in ((n, AuditLog(_SILENCE, journal=store)) for n in (1, 2))
    )

    def active_key() -> Key | None:
        key = store.active_key()
        assert key is not None
        if times > (key.epoch or 0) - 1:
            other = second if key.address == first.address else first
            made_active(store, key_of(other))
        return key

    sneaky: Ledger = altered(store, active_key=active_key)
    store.enrol(key_of(first))
    by_address = {signer.address: signer for signer in (first, second)}
    return KeyRing(sneaky, lambda key: by_address[key.address])


def test_only_former_keys_are_swept(sqlite_store: SQLStore) -> None:
    """What pays refunds is never swept, nor is what the ring does not know."""
    ring = ring_over(sqlite_store, FIRST, SECOND)
    made_active(sqlite_store, key_of(SECOND))
    former = ring.former(FIRST.address)

    assert (former.signer, former.key.epoch) == (FIRST, 1)
    for address in (SECOND.address, "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"):
        with pytest.raises(KeyUnusableError, match="draining or retired"):
            ring.former(address)


def _elsewhere(signer: Signer) -> Signer:
    """Return a signer of the same key in another place."""
    device = honest(coincurve.PrivateKey.from_int(1))
    return Signer.open(device, KeyId("elsewhere"), signer._audit)


def _relocated(store: SQLStore, key_id: str) -> Key:
    active = store.active_key()
    assert active is not None
    at = active.updated_at
    return store.relocate(active, key_id, at, Record.of({"event": "moved"}, at))


def _journaled(store: SQLStore) -> Signer:
    audit = AuditLog(_SILENCE, journal=store)
    return Signer.open(honest(coincurve.PrivateKey.from_int(1)), KeyId("01"), audit)


def _ring_of_places(store: Ledger, *signers: Signer) -> KeyRing:
    if store.active_key() is None:
        store.enrol(key_of(signers[0]))
    by_place = {signer.key_id: signer for signer in signers}
    return KeyRing(store, lambda key: by_place[KeyId(key.key_id)])


def test_a_relocated_key_is_opened_where_it_is(sqlite_store: SQLStore) -> None:
    """K18: after a relocation no process asks the old place; the address stays."""
    there = _elsewhere(FIRST)
    ring = _ring_of_places(sqlite_store, FIRST, there)
    before = (ring.active().signer, ring.signer(FIRST.address))
    _relocated(sqlite_store, "elsewhere")
    after = (ring.active().signer, ring.signer(FIRST.address))

    assert before == (FIRST, FIRST)
    assert after == (there, there)
    assert ring.opened(FIRST.address, "elsewhere") is there


def test_a_relocation_meanwhile_costs_another_try(sqlite_store: SQLStore) -> None:
    """K18: an intent for the old place is not written; the new place signs."""
    first = _journaled(sqlite_store)
    there = _elsewhere(first)
    moved: list[Key] = []

    def keys() -> Sequence[Key]:
        found = sqlite_store.keys()
        if not moved:
            moved.append(_relocated(sqlite_store, "elsewhere"))
        return found

    sqlite_store.enrol(key_of(first))
    ring = _ring_of_places(altered(sqlite_store, keys=keys), first, there)
    announced = ring.announced(first.address, DIGEST, PURPOSE)

    assert announced is there
    sqlite_store.seal()
    events = [e.record.fields["event"] for e in sqlite_store.sealed(0, 10)]
    assert sorted(events) == ["digest-sign-requested", "moved"]


def test_relocations_again_and_again(sqlite_store: SQLStore) -> None:
    """A key that moves before each of three tries is given up, without harm."""
    first = _journaled(sqlite_store)
    there = _elsewhere(first)

    def keys() -> Sequence[Key]:
        found = sqlite_store.keys()
        other = "elsewhere" if found[0].key_id == "01" else "01"
        _relocated(sqlite_store, other)
        return found

    sqlite_store.enrol(key_of(first))
    ring = _ring_of_places(altered(sqlite_store, keys=keys), first, there)
    with pytest.raises(KeyRotatedError, match="ring changes"):
        ring.announced(first.address, DIGEST, PURPOSE)


def test_the_self_test_is_of_the_place_of_now(sqlite_store: SQLStore) -> None:
    """K18: health is proved where the key is, not where the process found it first."""
    first = _journaled(sqlite_store)
    there = _elsewhere(first)
    ring = _ring_of_places(sqlite_store, first, there)
    ring.self_test()
    _relocated(sqlite_store, "elsewhere")
    ring.self_test()

    assert first.last_signature_at is not None
    assert there.last_signature_at is not None
    assert there.last_signature_at > first.last_signature_at
    with pytest.raises(KeyRotatedError):
        first.self_test(while_active=True)
