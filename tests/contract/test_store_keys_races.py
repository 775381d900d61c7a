"""Contract of ``KeyStore`` under concurrency: rotations and relocations (K18)."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection

import bitcurve
import psycopg
import pytest
from sqlalchemy import ColumnElement, func

from backends.sql import SQLStore
from backends.sql.refund_rows import PAID
from backends.sql.tables import refunds as rows
from backends.sql.tables import transactions
from signer.audit.log import AuditLog
from signer.errors import (
    HotWalletError,
    KeyRotatedError,
    RotationInProgressError,
    StoreError,
)
from signer.keys.signer import Signer
from signer.model.audit_record import Operation
from signer.model.key import SIGNING, Key, KeyState
from signer.ports.key_backend import KeyId
from tests.contract.locks import share_the_key, until_waiting
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accepted,
    bound,
    now,
    opened,
    reserve,
)
from tests.fixtures.races import race, reports_until_killed
from tests.support.audit import record
from tests.support.devices import honest, signer_over
from tests.support.keys import (
    activate,
    key_at,
    made_active,
    ring_over,
    signing_condition,
)
from tests.support.ledgers import open_ledger, seal
from tests.support.ring import SILENCE
from tests.support.signings import Unchecked
from tests.support.waiting import eventually


CHANGES = 6

_PRIVATE = [bitcurve.PrivateKey.from_int(n + 1) for n in range(CHANGES + 1)]

KEYS = [key_at(signer_over(honest(key)).address) for key in _PRIVATE]
"""The keys that are rotated through."""


def _active(store: SQLStore) -> Key:
    key = store.active_key()
    assert key is not None
    return key


def _relocate(store: SQLStore, key_id: str) -> Key:
    moved = record(event="key-failover-succeeded")
    return store.relocate(_active(store), key_id, now(), moved)


def _events(store: SQLStore) -> Counter[str]:
    seal(store, 100_000)
    return Counter(each.record.fields["event"] for each in store.sealed(0, 100_000))


def _outcome(work: Callable[[], object]) -> str:
    try:
        work()
    except HotWalletError as e:
        return e.code
    return "done"


def _enrol_own(store: SQLStore, index: int) -> tuple[str, int | None]:
    key = store.enrol(KEYS[index])
    return key.address, key.epoch


def test_one_process_enrols(database_url: str, store: SQLStore) -> None:
    """If many processes enrol a first key, all get the same active key."""
    enrolled = race(_enrol_own, database_url, 4)

    (key,) = store.keys()
    assert set(enrolled) == {(key.address, 1)}
    assert key.state is KeyState.ACTIVE


def _begin_own(store: SQLStore, index: int) -> str:
    return _outcome(lambda: store.begin_rotation(KEYS[index], now()))


def test_one_process_begins(database_url: str, store: SQLStore) -> None:
    """O2: of many concurrent rotations one succeeds; the others get an error."""
    store.enrol(key_at(WALLET))
    begun = race(_begin_own, database_url, 4)

    assert sorted(begun) == ["done", *[RotationInProgressError.code] * 3]
    assert len(store.keys()) == 2
    assert store.keys()[1].state is KeyState.PENDING


def test_one_thread_begins_and_one_activates(store: SQLStore) -> None:
    """O2: of many threads that rotate to one key at once, one does, each time."""
    store.enrol(key_at(WALLET))
    with ThreadPoolExecutor(6) as threads:
        begun = list(threads.map(lambda _: _begin_own(store, 0), range(6)))
        pending = store.keys()[1]
        rotate = partial(activate, store, pending, now(), record())
        activated = list(threads.map(lambda _: _outcome(rotate), range(6)))

    assert sorted(begun) == ["done", *["rotation-in-progress"] * 5]
    assert activated.count("done") == 1
    assert {*activated} <= {"done", "stale-state", "key-rotated"}
    assert _events(store) == {"test": 1}  # Only the winner's record.


def test_one_of_many_relocates(store: SQLStore) -> None:
    """Of many concurrent relocations one succeeds; the others get an error."""
    key = store.enrol(key_at(WALLET))
    places = ["place-1", "place-2", "place-3", "place-4"]
    with ThreadPoolExecutor(len(places)) as threads:
        outcomes = threads.map(
            lambda place: _outcome(
                lambda: store.relocate(key, place, now(), record(event=place))
            ),
            places,
        )

    assert sorted(outcomes) == ["done", *["stale-state"] * 3]
    (found,) = store.keys()
    assert found.version == 1
    assert _events(store) == {found.key_id: 1}


def test_a_relocation_and_a_rotation_at_once(store: SQLStore) -> None:
    """In either order, one key is active, with a key id that one of the two gave."""
    active = store.enrol(key_at(WALLET))
    for n in range(5):
        place = f"place-of-{n}"
        relocate = partial(store.relocate, active, place, now(), record())
        with ThreadPoolExecutor(2) as threads:
            relocating = threads.submit(_outcome, relocate)
            rotating = threads.submit(made_active, store, KEYS[n])
            moved, active = relocating.result(), rotating.result()

        assert moved in {"done", "stale-state", "rotation-in-progress"}
        former = store.keys()[1]
        assert former.state is KeyState.DRAINING
        assert (former.key_id == place) is (moved == "done")


def _activation(store: SQLStore) -> Callable[[], Key]:
    pending = store.begin_rotation(key_at(OTHER_WALLET), now())
    return lambda: activate(store, pending, now(), record())


def _relocation(store: SQLStore) -> Callable[[], Key]:
    return lambda: _relocate(store, "elsewhere")


@pytest.mark.parametrize("prepare", [_activation, _relocation])
def test_a_change_waits_for_reservations_in_flight(
    postgresql_url: str, prepare: Callable[[SQLStore], Callable[[], Key]]
) -> None:
    """O1, O4: the active key stays meanwhile; a lost connection changes nothing."""
    store = open_ledger(postgresql_url, timeout=10)
    store.enrol(key_at(WALLET))
    change = prepare(store)
    before = store.keys()
    with psycopg.connect(postgresql_url) as other, ThreadPoolExecutor(1) as thread:
        share_the_key(other)
        lost = thread.submit(change)
        for pid in until_waiting(postgresql_url):
            with psycopg.connect(postgresql_url) as third:
                third.execute("SELECT pg_terminate_backend(%s)", [pid])
        with pytest.raises(StoreError):
            lost.result(timeout=10)
        assert store.oldest_unsealed() is None
        waiting = thread.submit(change)
        until_waiting(postgresql_url)
        assert store.keys() == before
        other.commit()
        changed = waiting.result(timeout=10)

    assert store.active_key() == changed
    store.close()


def _use_while_changing(
    store: SQLStore,
    use: Callable[[Key], str],
    changes: Iterable[Callable[[], object]],
    count: Callable[[Key], int],
) -> Counter[str]:
    """
    Use the active key in four threads during *changes*; return the uses per key id.

    *use* returns the id of the key that it used.  A thread goes on with a key until the
    store refuses it, so that it always tries to use an old key.  A change waits until
    the key was used.  *count* must find no use of a key after its change returned.
    """
    used: Counter[str] = Counter()
    counts: dict[Key, int] = {}
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            key = _active(store)
            with suppress(KeyRotatedError):
                while not over.is_set():
                    used[use(key)] += 1

    with ThreadPoolExecutor(4) as threads:
        workers = [threads.submit(work) for _ in range(4)]
        try:
            for change in changes:
                old = _active(store)
                assert eventually(partial(used.__getitem__, old.key_id))
                change()
                counts[old] = count(old)
        finally:
            over.set()
            for worker in workers:
                worker.result()

    assert len(counts) == CHANGES
    assert counts == {key: count(key) for key in counts}
    return used


def _reserve(store: SQLStore, key: Key, **of_sweep: str) -> str:
    """Reserve a new refund for *key*, or with *of_sweep*, a sweep that pays it."""
    payer = key_at(WALLET) if of_sweep else key
    refund = accepted(store, **of_sweep)
    try:
        reserve(
            store,
            refund,
            sender=payer.address,
            key_id=payer.key_id,
            gas_limit=7,
            counted=0,
            at=now(),
        )
    except KeyRotatedError:
        assert store.get(refund.id) == refund
        raise
    return key.key_id


def _reservations(store: SQLStore, condition: ColumnElement[bool]) -> int:
    query = PAID.with_only_columns(func.count()).where(condition)
    count: int = store._database.run(lambda c: c.execute(query).scalar_one())
    return count


def test_no_reservation_after_a_rotation(store: SQLStore) -> None:
    """O4, O5: once a key is not the active one, no thread's reservation has it."""
    store.enrol(KEYS[0])
    for key in KEYS:
        opened(store, sender=key.address)

    _use_while_changing(
        store,
        lambda key: _reserve(store, key),
        [partial(made_active, store, key) for key in KEYS[1:]],
        lambda key: _reservations(store, rows.c.sender == key.address),
    )


def test_no_sweep_after_a_rotation(store: SQLStore) -> None:
    """Once a key is not the active one, no thread's sweep is reserved to pay it."""
    opened(store)
    made_active(store, KEYS[0])
    of_sweep = bound()

    _use_while_changing(
        store,
        lambda key: _reserve(store, key, **of_sweep, recipient=key.address),
        [partial(made_active, store, key) for key in KEYS[1:]],
        lambda key: _reservations(store, rows.c.recipient == key.address),
    )


def test_nothing_begins_after_a_relocation(store: SQLStore) -> None:
    """Once a relocation returns, neither nonces nor intents have the old key id."""
    opened(store)

    def use(key: Key) -> str:
        with suppress(KeyRotatedError):
            _reserve(store, key)
        intent = record(event=key.key_id)
        store.append([intent], condition=signing_condition(key, SIGNING))
        return key.key_id

    def count(key: Key) -> int:
        reserved = _reservations(store, transactions.c.key_id == key.key_id)
        return reserved + _events(store)[key.key_id]

    places = [f"place-{n}" for n in range(CHANGES)]
    relocations = [partial(_relocate, store, place) for place in places]
    _use_while_changing(store, use, relocations, count)


def test_no_signature_after_a_rotation(store: SQLStore) -> None:
    """O5: all signatures succeed, and no intent names a key after its rotation."""
    audit = AuditLog(SILENCE, journal=store)
    signers = [
        Signer.open(honest(private), KeyId(key.key_id), audit)
        for private, key in zip(_PRIVATE, KEYS, strict=True)
    ]
    ring = ring_over(store, *signers)
    digest, purpose = bytes(range(32)), Unchecked(Operation.MESSAGE_SIGNING)

    def sign(_: Key) -> str:
        signature, signer = ring.sign_digest(digest, purpose)
        assert signature.recover(digest) == signer.public_key
        return signer.key_id

    def announced(key: Key) -> int:
        seal(store, 100_000)
        fields = [each.record.fields for each in store.sealed(0, 100_000)]
        return sum(
            (each["event"], each.get("address"))
            == ("digest-sign-requested", key.address)
            for each in fields
        )

    rotations = [partial(made_active, store, key) for key in KEYS[1:]]
    signatures = _use_while_changing(store, sign, rotations, announced)

    assert signatures == Counter({key.key_id: announced(key) for key in KEYS})


def _rotate_forever(url: str, line: Connection) -> None:
    """Rotate between two keys, and report the active epochs."""
    store = open_ledger(url)
    for n in itertools.count():
        line.send(made_active(store, KEYS[n % 2]).epoch)


def test_kill_leaves_one_active_key(database_url: str, store: SQLStore) -> None:
    """O1: after each kill -9 one key is active, and every activation is recorded."""
    store.enrol(KEYS[0])
    for _ in range(3):
        known = max(reports_until_killed(_rotate_forever, database_url))
        ring = store.keys()
        (epoch,) = [key.epoch for key in ring if key.state is KeyState.ACTIVE]

        assert epoch == max(key.epoch or 0 for key in ring)
        assert known <= epoch
        assert _events(store) == Counter({"key-rotate-succeeded": epoch - 1})
        # The next process must not wait until the hold of the killed one expires.
        for key in ring:
            if key.state is KeyState.PENDING:
                store.reject(key, "abandoned", now())


def _relocate_forever(url: str, line: Connection) -> None:
    """Relocate between two key ids, and report each version."""
    store = open_ledger(url)
    for n in itertools.count(1):
        line.send(_relocate(store, f"place-{n % 2}").version)


def test_kill_leaves_one_key_id(database_url: str, store: SQLStore) -> None:
    """After a kill -9 the key has one key id, and every relocation is recorded."""
    store.enrol(key_at(WALLET, key_id="place-0"))
    known = max(reports_until_killed(_relocate_forever, database_url))
    (found,) = store.keys()

    assert 0 < known <= found.version
    assert found.key_id == f"place-{found.version % 2}"
    assert _events(store) == Counter({"key-failover-succeeded": found.version})
