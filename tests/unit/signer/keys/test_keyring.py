"""The key ring of one process: what it reads each time, and what it caches."""

from collections.abc import Sequence

import bitcurve
import pytest

from backends.sql import SQLStore
from signer.audit.log import AuditLog
from signer.errors import KeyNotFoundError, KeyRotatedError, KeyUnusableError
from signer.keys.keyring import KeyRing
from signer.keys.signer import Signer
from signer.model.audit_record import Operation, Record
from signer.model.key import Key
from signer.ports.key_backend import KeyId
from signer.ports.ledger import Ledger
from tests.support.devices import honest
from tests.support.keys import key_of, made_active, ring_over
from tests.support.ledgers import seal
from tests.support.refunds import FakeClock, altered
from tests.support.ring import SILENCE
from tests.support.signings import Unchecked


def _signer(n: int, store: SQLStore | None = None, place: str = "") -> Signer:
    """Return a signer of the key *n*, which is at *place*; *store* is its journal."""
    device = honest(bitcurve.PrivateKey.from_int(n))
    audit = AuditLog(SILENCE, journal=store)
    return Signer.open(device, KeyId(place or f"0{n}"), audit)


FIRST, SECOND = _signer(1), _signer(2)
DIGEST = bytes(range(32))
PURPOSE = Unchecked(Operation.MESSAGE_SIGNING)


def test_empty_ring_has_no_active_key(sqlite_store: SQLStore) -> None:
    """Before the first key is enrolled, there is none to sign with."""
    ring = KeyRing(sqlite_store, lambda _: FIRST)

    with pytest.raises(KeyNotFoundError):
        ring.active()
    assert list(ring.cached_keys()) == []
    assert ring.cached_key(FIRST.address) is None


def test_active_key_is_read_each_time(sqlite_store: SQLStore) -> None:
    """O5: a rotation by another process takes effect at once, without a restart."""
    ring = ring_over(sqlite_store, FIRST, SECOND)
    before = ring.active()
    made_active(sqlite_store, key_of(SECOND))
    after = ring.active()

    assert (before.signer, before.key.epoch) == (FIRST, 1)
    assert (after.signer, after.key.epoch) == (SECOND, 2)
    assert [key.epoch for key in ring.cached_keys()] == [2, 1]


def test_signers_are_cached(sqlite_store: SQLStore) -> None:
    """A device is asked for its public key once, however often the key is used."""
    opened: list[Key] = []

    def open_signer(key: Key) -> Signer:
        opened.append(key)
        return FIRST

    sqlite_store.enrol(key_of(FIRST))
    ring = KeyRing(sqlite_store, open_signer)
    before = ring.cached_signer(FIRST.address, FIRST.key_id)
    used = {ring.active().signer, ring.active().signer, ring.signer(FIRST.address)}

    assert before is None
    assert used == {FIRST}
    assert len(opened) == 1
    assert ring.cached_signer(FIRST.address, FIRST.key_id) is FIRST
    assert ring.cached_signer(FIRST.address, SECOND.key_id) is None


def test_nonce_is_signed_by_its_own_key(sqlite_store: SQLStore) -> None:
    """O4, O8: also by a draining key; not by a blocked one, or one outside the ring."""
    ring = ring_over(sqlite_store, FIRST, SECOND)

    with pytest.raises(KeyUnusableError, match="not in the ring"):
        ring.signer(SECOND.address)
    made_active(sqlite_store, key_of(SECOND))
    assert ring.signer(FIRST.address) is FIRST
    assert ring.signer(SECOND.address) is SECOND
    made_active(sqlite_store, key_of(FIRST), block=True)
    with pytest.raises(KeyUnusableError, match="blocked"):
        ring.signer(SECOND.address)


def test_cached_keys_are_at_most_a_minute_old(sqlite_store: SQLStore) -> None:
    clock = FakeClock()
    ring = ring_over(sqlite_store, FIRST, SECOND, timer=lambda: clock().timestamp())
    ring.cached_keys()
    made_active(sqlite_store, key_of(SECOND))
    clock.advance(seconds=59.9)
    early = ring.cached_key(SECOND.address)
    clock.advance(seconds=0.1)
    found = ring.cached_key(SECOND.address)

    assert early is None
    assert found == sqlite_store.active_key()


def test_current_keys_are_read_again_after_a_change(sqlite_store: SQLStore) -> None:
    """And once a minute: another program may have changed a row alone."""
    clock, reads = FakeClock(), []

    def keys() -> Sequence[Key]:
        reads.append(clock())
        return sqlite_store.keys()

    store = altered(sqlite_store, keys=keys)
    ring = ring_over(store, FIRST, SECOND, timer=lambda: clock().timestamp())
    before = ring.current_keys()
    clock.advance(seconds=59.9)
    assert ring.current_keys() == before
    made_active(sqlite_store, key_of(SECOND))
    after = ring.current_keys()
    assert ring.current_keys() == after == tuple(sqlite_store.keys())
    clock.advance(seconds=60)
    ring.current_keys()

    assert [key.epoch for key in before] == [1]
    assert [key.epoch for key in after] == [2, 1]
    assert len(reads) == 3


def test_signing_retries_after_a_rotation(sqlite_store: SQLStore) -> None:
    """O5: an operation that began with the old key is signed by the new key."""
    signers = _ring_with_rotations(sqlite_store, times=2)
    signature, signer = signers.sign_digest(DIGEST, PURPOSE)
    active = sqlite_store.active_key()

    assert active is not None
    assert (signer.address, active.epoch) == (active.address, 3)
    assert signature.recover(DIGEST) == signer.public_key


def test_signing_gives_up_if_the_ring_keeps_changing(sqlite_store: SQLStore) -> None:
    """By rotations, or by failovers before the intent is durable."""
    signers = _ring_with_rotations(sqlite_store, times=99)
    with pytest.raises(KeyRotatedError, match="during every attempt"):
        signers.sign_digest(DIGEST, PURPOSE)
    first = _signer(1, sqlite_store)
    there = _signer(1, sqlite_store, "elsewhere")
    made_active(sqlite_store, key_of(first))

    def keys() -> Sequence[Key]:
        found = sqlite_store.keys()
        _fail_over(sqlite_store, "elsewhere" if found[0].key_id == "01" else "01")
        return found

    ring = _ring_of_places(altered(sqlite_store, keys=keys), first, there)
    with pytest.raises(KeyRotatedError, match="ring changed"):
        ring.announce(first.address, DIGEST, PURPOSE, chain_id=1, named="")


def _ring_with_rotations(store: SQLStore, times: int) -> KeyRing:
    """Return a ring whose active key changes right after it is read."""
    first, second = _signer(1, store), _signer(2, store)

    def active_key() -> Key | None:
        key = store.active_key()
        assert key is not None
        if times > (key.epoch or 0) - 1:
            other = second if key.address == first.address else first
            made_active(store, key_of(other))
        return key

    ledger: Ledger = altered(store, active_key=active_key)
    store.enrol(key_of(first))
    by_address = {signer.address: signer for signer in (first, second)}
    return KeyRing(ledger, lambda key: by_address[key.address])


def test_only_former_keys_are_swept(sqlite_store: SQLStore) -> None:
    """The active key and keys outside the ring are never swept."""
    ring = ring_over(sqlite_store, FIRST, SECOND)
    made_active(sqlite_store, key_of(SECOND))
    former = ring.former(FIRST.address)

    assert (former.signer, former.key.epoch) == (FIRST, 1)
    for address in (SECOND.address, "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"):
        with pytest.raises(KeyUnusableError, match="draining or retired"):
            ring.former(address)


def _fail_over(store: SQLStore, key_id: str) -> Key:
    active = store.active_key()
    assert active is not None
    at = active.updated_at
    return store.relocate(active, key_id, at, Record.of({"event": "moved"}, at))


def _ring_of_places(store: Ledger, *signers: Signer) -> KeyRing:
    if store.active_key() is None:
        store.enrol(key_of(signers[0]))
    by_place = {signer.key_id: signer for signer in signers}
    return KeyRing(store, lambda key: by_place[KeyId(key.key_id)])


def test_failover_opens_the_new_key_id(sqlite_store: SQLStore) -> None:
    """K18: after a failover, the process signs with the replica at the same address."""
    there = _signer(1, place="elsewhere")
    ring = _ring_of_places(sqlite_store, FIRST, there)
    before = (ring.active().signer, ring.signer(FIRST.address))
    _fail_over(sqlite_store, "elsewhere")
    after = (ring.active().signer, ring.signer(FIRST.address))

    assert before == (FIRST, FIRST)
    assert after == (there, there)
    assert ring.cached_signer(FIRST.address, "elsewhere") is there


def test_announcing_retries_after_a_failover(sqlite_store: SQLStore) -> None:
    """K18: no intent is written for the old key id; the replica signs."""
    first = _signer(1, sqlite_store)
    there = _signer(1, sqlite_store, "elsewhere")
    moved: list[Key] = []

    def keys() -> Sequence[Key]:
        found = sqlite_store.keys()
        if not moved:
            moved.append(_fail_over(sqlite_store, "elsewhere"))
        return found

    sqlite_store.enrol(key_of(first))
    ring = _ring_of_places(altered(sqlite_store, keys=keys), first, there)
    announced = ring.announce(first.address, DIGEST, PURPOSE, chain_id=1, named="")

    assert announced is there
    seal(sqlite_store)
    events = [e.record.fields["event"] for e in sqlite_store.sealed(0, 10)]
    assert sorted(events) == ["digest-sign-requested", "moved"]


def test_self_test_uses_the_current_key_id(sqlite_store: SQLStore) -> None:
    """K18: after a failover, the self-test signs with the replica."""
    first = _signer(1, sqlite_store)
    there = _signer(1, sqlite_store, "elsewhere")
    ring = _ring_of_places(sqlite_store, first, there)
    ring.self_test()
    _fail_over(sqlite_store, "elsewhere")
    ring.self_test()

    (signed_here, _), (signed_there, _) = first.last_results, there.last_results
    assert signed_here is not None
    assert signed_there is not None
    assert signed_there > signed_here
    with pytest.raises(KeyRotatedError):
        first.self_test(while_active=True)
