"""K18: contract of ``KeyStore.relocate``, which pins a key to its replica."""

import itertools
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection

import psycopg
import pytest
from sqlalchemy import func, select

from backends.sql import SQLStore
from backends.sql.schema import refunds as refund_rows
from signer.errors import (
    ConflictError,
    HotWalletError,
    KeyRotatedError,
    RotationInProgressError,
    StaleStateError,
    StoreError,
)
from signer.model.key import ROTATION_HOLD, SIGNING, Key, KeyState
from signer.ports import KeyStore
from tests.contract.locks import share_the_key, until_waiting
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accepted,
    filled,
    now,
    opened,
    queued,
    reserved,
    signed,
    stored,
)
from tests.support.audit import record
from tests.support.keys import activate, key_at, made_active, standing


PLACES = [f"place-{n}" for n in range(11)]

AT = now()

_SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def key(store: SQLStore) -> Key:
    """The active key, in the first place."""
    return store.enrol(key_at(WALLET, key_id=PLACES[0]))


def _moved(store: SQLStore, place: str) -> Key:
    active = store.active_key()
    assert active is not None
    return store.relocate(active, place, now(), record(event="key-failover-succeeded"))


def _records(store: SQLStore) -> Counter[str]:
    store.seal(100_000)
    return Counter(e.record.fields["event"] for e in store.sealed(0, 100_000))


def test_only_the_place_changes(store: SQLStore, key: Key) -> None:
    """The row has the new place and the next version; a record is written with it."""
    moved = store.relocate(key, PLACES[1], AT, record(event="key-failover-succeeded"))

    assert moved == replace(key, key_id=PLACES[1], version=1, updated_at=AT)
    assert list(store.keys()) == [moved]
    assert _records(store) == {"key-failover-succeeded": 1}


def test_a_place_is_one_keys(store: SQLStore, key: Key) -> None:
    """No key is pinned where another one is, nor where it is already."""
    made_active(store, key_at(OTHER_WALLET, key_id=PLACES[1]))
    draining = store.keys()[1]

    for place in PLACES[:2]:
        with pytest.raises(ConflictError):
            store.relocate(draining, place, AT, record())
    assert store.keys()[1] == draining
    assert store.relocate(draining, PLACES[2], AT, record()).key_id == PLACES[2]


def test_what_signs_nothing_stays(store: SQLStore, key: Key) -> None:
    """Neither a rejected nor a blocked key is pinned to another place."""
    pending = store.begin_rotation(key_at(OTHER_WALLET), AT)
    rejected = store.reject(pending, "key-unusable", AT)
    made_active(store, key_at(OTHER_WALLET), block=True)
    blocked = store.keys()[1]

    for given_up in (rejected, blocked):
        with pytest.raises(StaleStateError):
            store.relocate(given_up, PLACES[1], AT, record())
    assert store.keys()[1] == blocked


def test_no_relocation_during_a_rotation(store: SQLStore, key: Key) -> None:
    """A rotation's hold is respected, for as long as it lasts."""
    store.begin_rotation(key_at(OTHER_WALLET), AT)

    with pytest.raises(RotationInProgressError):
        store.relocate(key, PLACES[1], AT, record())
    assert store.active_key() == key
    later = AT + ROTATION_HOLD + timedelta(microseconds=1)
    assert store.relocate(key, PLACES[1], later, record()).key_id == PLACES[1]


def test_a_rotation_that_was_slow(store: SQLStore, key: Key) -> None:
    """A relocated pending key is activated only at its new version."""
    slow = store.begin_rotation(key_at(OTHER_WALLET, key_id=PLACES[1]), AT)
    later = AT + ROTATION_HOLD
    moved = store.relocate(slow, PLACES[2], later, record(event="moved"))

    with pytest.raises(StaleStateError):
        activate(store, slow, later, record(event="key-rotate-succeeded"))
    assert store.active_key() == key
    assert (
        activate(store, moved, later, record(event="key-rotate-succeeded")).key_id
        == PLACES[2]
    )


def test_a_rotation_meanwhile_leaves_the_place(store: SQLStore, key: Key) -> None:
    """A key that was rotated since it was read is not relocated."""
    made_active(store, key_at(OTHER_WALLET))

    with pytest.raises(StaleStateError):
        store.relocate(key, PLACES[1], AT, record())
    assert store.keys()[1].key_id == PLACES[0]


def test_only_where_the_key_is_something_begins(store: SQLStore, key: Key) -> None:
    """Neither a nonce nor an intent of the old place is written any more."""
    opened(store)
    refund = accepted(store)
    _moved(store, PLACES[1])

    with pytest.raises(KeyRotatedError):
        reserved(store, refund, key_id=PLACES[0])
    for states in (SIGNING, frozenset({KeyState.ACTIVE})):
        with pytest.raises(KeyRotatedError):
            store.append([record()], standing=standing(key, states))
    assert stored(store, refund) == refund
    paid = reserved(store, refund, key_id=PLACES[1])
    assert (paid.nonce, paid.key_id) == (0, PLACES[1])


def test_what_began_there_is_recorded(store: SQLStore, key: Key) -> None:
    """A refund keeps nonce and sender, and where it was reserved is history."""
    opened(store)
    refund = reserved(store, accepted(store), key_id=PLACES[0])
    _moved(store, PLACES[1])
    after = signed(store, refund)

    assert stored(store, refund) == after
    assert (after.nonce, after.sender, after.key_id) == (0, WALLET, PLACES[0])


def _ring(store: KeyStore) -> Sequence[Key]:
    return store.keys()


def _outcome(work: Callable[[], object]) -> str:
    try:
        work()
    except HotWalletError as e:
        return e.code
    return "done"


def test_one_of_many_relocates(store: SQLStore, key: Key) -> None:
    """Of many concurrent relocations one succeeds; the others get an error."""
    places = PLACES[1:5]
    with ThreadPoolExecutor(len(places)) as pool:
        outcomes = pool.map(
            lambda place: _outcome(
                lambda: store.relocate(
                    key, place, AT, record(event="key-failover-succeeded")
                )
            ),
            places,
        )

    assert sorted(outcomes) == ["done", *["stale-state"] * 3]
    assert _records(store) == {"key-failover-succeeded": 1}
    (found,) = store.keys()
    assert (found.version, found.key_id in places) == (1, True)


def test_a_relocation_and_a_rotation_at_once(store: SQLStore, key: Key) -> None:
    """In either order, one key is active, with a key id that one of the two gave."""
    for n in range(5):
        active = store.active_key()
        assert active is not None
        other = key_at(f"0x{n:040x}", key_id=f"other-{n}")
        place = f"place-of-{n}"
        with ThreadPoolExecutor(2) as pool:
            relocate = partial(store.relocate, active, place, now(), record())
            moving = pool.submit(_outcome, relocate)
            rotating = pool.submit(_outcome, partial(made_active, store, other))
            moved, rotated = moving.result(), rotating.result()

        assert rotated == "done"
        assert moved in {"done", "stale-state", "rotation-in-progress"}
        ring = {each.address: each for each in _ring(store)}
        former = ring[active.address]
        assert former.state is KeyState.DRAINING
        assert former.key_id == (place if moved == "done" else active.key_id)


def test_nothing_begins_after_a_relocation(store: SQLStore, key: Key) -> None:
    """Once a relocation returns, neither nonces nor intents have the old place."""
    opened(store)
    refunds = [queued() for _ in range(2000)]
    filled(store, refunds)
    over: list[bool] = []
    counts: dict[str, tuple[int, int]] = {}

    def pay() -> None:
        while not over:
            active = store.active_key()
            assert active is not None
            time.sleep(0.002)  # In which the key may move.
            with suppress(KeyRotatedError):
                reserved_there(active.key_id)
            with suppress(KeyRotatedError):
                intent = record(event=active.key_id)
                store.append([intent], standing=standing(active, SIGNING))

    def reserved_there(place: str) -> None:
        given = {"sender": WALLET, "key_id": place, "gas_limit": 7, "counted": 0}
        store.reserve(refunds.pop(), at=now(), **given)  # type: ignore[arg-type]

    def begun(place: str) -> tuple[int, int]:
        paid = select(func.count()).where(refund_rows.c.key_id == place)
        count: int = store._database.run(lambda c: c.execute(paid).scalar_one())
        return count, _records(store)[place]

    def move() -> None:
        try:
            for old, new in itertools.pairwise(PLACES):
                time.sleep(0.02)
                _moved(store, new)
                counts[old] = begun(old)
        finally:
            over.append(True)

    with ThreadPoolExecutor(5) as pool:
        for each in [pool.submit(move), *(pool.submit(pay) for _ in range(4))]:
            each.result()

    assert counts == {place: begun(place) for place in PLACES[:-1]}
    nonces, intents = zip(*counts.values(), strict=True)
    assert sum(nonces) > len(PLACES)
    assert sum(intents) > len(PLACES)


def test_a_relocation_waits_for_those_who_sign(postgresql_url: str) -> None:
    """While a reservation is in flight its key stays where it is; lost, nothing is."""
    store = SQLStore(postgresql_url, timeout=10)
    store.enrol(key_at(WALLET, key_id=PLACES[0]))
    with psycopg.connect(postgresql_url) as other, ThreadPoolExecutor(1) as thread:
        share_the_key(other)
        moving = thread.submit(_moved, store, PLACES[1])
        for pid in until_waiting(postgresql_url):
            with psycopg.connect(postgresql_url) as third:
                third.execute("SELECT pg_terminate_backend(%s)", [pid])
        with pytest.raises(StoreError):
            moving.result(timeout=10)
        assert store.oldest_unsealed() is None
        again = thread.submit(_moved, store, PLACES[1])
        until_waiting(postgresql_url)
        meanwhile = store.keys()[0].key_id
        other.commit()
        moved = again.result(timeout=10)

    assert (meanwhile, moved.key_id) == (PLACES[0], PLACES[1])
    store.close()


def _move_for_ever(url: str, acknowledge: Connection) -> None:
    """Relocate between two key ids until killed, and report each version."""
    store = SQLStore(url)
    for n in itertools.count(1):
        acknowledge.send(_moved(store, PLACES[n % 2]).version)


def test_kill_leaves_one_place(database_url: str, store: SQLStore, key: Key) -> None:
    """After a kill -9 the key has one key id, and every relocation is recorded."""
    ours, theirs = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(
        target=_move_for_ever, args=(database_url, theirs), daemon=True
    )
    process.start()
    theirs.close()
    assert ours.poll(30)
    time.sleep(0.1)
    process.kill()
    process.join(10)
    known = 0
    with suppress(EOFError):
        while True:
            known = ours.recv()

    (found,) = store.keys()
    assert 0 < known <= found.version
    assert found.key_id == PLACES[found.version % 2]
    assert _records(store) == {"key-failover-succeeded": found.version}
