"""Contract of ``KeyStore`` under concurrency."""

import itertools
import multiprocessing
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from multiprocessing.connection import Connection

import coincurve
import psycopg
import pytest
import structlog
from sqlalchemy import func, select
from structlog.testing import LogCapture

from backends.sql import SQLStore
from backends.sql.schema import refunds as refund_rows
from signer.audit.log import AuditLog
from signer.errors import (
    KeyRotatedError,
    RotationInProgressError,
    StaleStateError,
    StoreError,
)
from signer.keys.signer import Signer
from signer.model.audit_record import Operation, Purpose
from signer.model.key import Key, KeyState
from signer.model.refund import SWEEPER
from signer.ports import KeyId, KeyStore
from tests.contract.locks import share_the_key, until_waiting
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    filled,
    now,
    opened,
    queued,
)
from tests.fixtures.races import Racers
from tests.support.audit import record
from tests.support.devices import honest
from tests.support.keys import activate, key_at, key_of, made_active, ring_over


ROTATIONS = 20


_SPAWN = multiprocessing.get_context("spawn")
_SILENCE = structlog.wrap_logger(structlog.PrintLogger(), processors=[LogCapture()])

_PRIVATE = [coincurve.PrivateKey.from_int(n + 1) for n in range(ROTATIONS + 1)]

RING = [
    Signer.open(honest(key), KeyId(f"{n:040x}"), AuditLog(_SILENCE))
    for n, key in enumerate(_PRIVATE)
]
"""The signers whose keys are rotated through."""


def _ring(store: KeyStore) -> Sequence[Key]:
    return store.keys()


@pytest.fixture(scope="module")
def racers() -> Iterator[Racers]:
    """Four processes."""
    racers = Racers(4)
    yield racers
    racers.close()


def _enrol_own(store: SQLStore, index: int) -> tuple[str, int | None]:
    key = store.enrol(key_of(RING[index]))
    return key.address, key.epoch


def test_one_process_enrols(database_url: str, store: SQLStore, racers: Racers) -> None:
    """If many processes enrol a first key, all get the same active key."""
    enrolled = racers.race(_enrol_own, database_url)

    assert len(set(enrolled)) == 1
    (key,) = store.keys()
    assert enrolled[0] == (key.address, 1)
    assert key.state is KeyState.ACTIVE


def _begin_own(store: SQLStore, index: int) -> str:
    try:
        return store.begin_rotation(key_of(RING[index]), now()).address
    except RotationInProgressError as e:
        return e.code


def test_one_process_begins(database_url: str, store: SQLStore, racers: Racers) -> None:
    """O2: of many concurrent rotations one succeeds; the others get an error."""
    store.enrol(key_at(WALLET))
    begun = racers.race(_begin_own, database_url)
    (pending,) = (key for key in _ring(store) if key.state is KeyState.PENDING)

    assert begun.count("rotation-in-progress") == 3
    assert pending.address in begun
    assert len(store.keys()) == 2


def test_one_thread_begins(store: SQLStore) -> None:
    """O2: of many threads that rotate to one key at once, one does, each time."""
    store.enrol(key_at(WALLET))

    def begin(_: int) -> str:
        return _begin_own(store, 0)

    with ThreadPoolExecutor(6) as threads:
        begun = list(threads.map(begin, range(6)))
        pending = next(key for key in _ring(store) if key.state is KeyState.PENDING)
        activated = list(threads.map(lambda _: _activated(store, pending), range(6)))

    assert begun.count("rotation-in-progress") == 5
    assert activated.count(True) == 1
    store.seal()
    assert store.head()[0] == 1  # Only the winner's record.


def _activated(store: SQLStore, pending: Key) -> bool:
    try:
        activate(store, pending, now(), record())
    except StaleStateError:
        return False
    return True


def test_activation_waits_for_those_who_sign(postgresql_url: str) -> None:
    """O4: while a reservation is in flight its key stays the active one."""
    store = SQLStore(postgresql_url, timeout=10)
    store.enrol(key_at(WALLET))
    pending = store.begin_rotation(key_at(OTHER_WALLET), now())
    with psycopg.connect(postgresql_url) as other, ThreadPoolExecutor(1) as thread:
        share_the_key(other)
        activation = thread.submit(activate, store, pending, now(), record())
        until_waiting(postgresql_url)
        meanwhile = store.active_key()
        other.commit()
        activated = activation.result(timeout=10)

    assert meanwhile is not None
    assert meanwhile.address == WALLET
    assert activated.address == OTHER_WALLET
    store.close()


def test_a_lost_connection_activates_nothing(postgresql_url: str) -> None:
    """O1: a server that ends the connection half-way leaves neither key nor record."""
    store = SQLStore(postgresql_url, timeout=10)
    store.enrol(key_at(WALLET))
    pending = store.begin_rotation(key_at(OTHER_WALLET), now())
    with psycopg.connect(postgresql_url) as other, ThreadPoolExecutor(1) as thread:
        share_the_key(other)
        activation = thread.submit(activate, store, pending, now(), record())
        for pid in until_waiting(postgresql_url):
            with psycopg.connect(postgresql_url) as third:
                third.execute("SELECT pg_terminate_backend(%s)", [pid])
        with pytest.raises(StoreError):
            activation.result(timeout=10)

    assert [(key.address, str(key.state)) for key in _ring(store)] == [
        (WALLET, "active"),
        (OTHER_WALLET, "pending"),
    ]
    assert store.oldest_unsealed() is None
    assert activate(store, pending, now(), record()).epoch == 2
    store.close()


class Turns:
    """Rotations, each with what the old key had done when it ended."""

    def __init__(self, store: SQLStore, done_with: Callable[[str], int]) -> None:
        self._store = store
        self._done_with = done_with
        self.over = threading.Event()
        self.counts: dict[str, int] = {}

    def rotate(self) -> None:
        """Rotate from the first of the signers to the last, while others work."""
        for old, new in pairwise(RING):
            time.sleep(0.02)
            made_active(self._store, key_of(new))
            self.counts[old.address] = self._done_with(old.address)
        self.over.set()

    @property
    def late(self) -> list[str]:
        """Return the keys that were used after they were rotated away from."""
        return [
            address
            for address, count in self.counts.items()
            if count != self._done_with(address)
        ]


def _under_way(work: Callable[[], None], turns: Turns) -> None:
    """Do *work* again and again in 4 threads until all rotations are over."""

    def again() -> None:
        while not turns.over.is_set():
            work()

    with ThreadPoolExecutor(5) as threads:
        rotating = threads.submit(turns.rotate)
        rotating.add_done_callback(lambda _: turns.over.set())
        for each in [rotating, *(threads.submit(again) for _ in range(4))]:
            each.result()


def test_no_reservation_after_an_activation(store: SQLStore) -> None:
    """O4, O5: once a key is not the active one, no thread's reservation has it."""
    store.enrol(key_of(RING[0]))
    for signer in RING:
        opened(store, sender=signer.address)
    refunds = [queued() for _ in range(2000)]
    filled(store, refunds)
    refused = []

    def pay() -> None:
        refund, key = refunds.pop(), store.active_key()
        assert key is not None
        time.sleep(0.005)  # In which the key may change.
        given = {"sender": key.address, "key_id": key.key_id, "gas_limit": 7}
        try:
            store.reserve(refund, counted=0, at=now(), **given)  # type: ignore[arg-type]
        except KeyRotatedError:
            refused.append(refund)

    def paid_by(address: str) -> int:
        paid = select(func.count()).where(refund_rows.c.sender == address)
        count: int = store._database.run(lambda c: c.execute(paid).scalar_one())
        return count

    turns = Turns(store, paid_by)
    _under_way(pay, turns)

    assert len(turns.counts) == ROTATIONS
    assert sum(turns.counts.values()) > ROTATIONS
    assert turns.late == []
    assert [each for each in refused if store.get(each.id) != each] == []


def test_no_sweep_after_an_activation(store: SQLStore) -> None:
    """Once a key is not the active one, no thread's sweep is reserved to pay it."""
    store.enrol(key_at(WALLET))
    opened(store)
    made_active(store, key_of(RING[0]))
    refused = []

    def sweep() -> None:
        key = store.active_key()
        assert key is not None
        of_wallet = {"client": SWEEPER, "payment_session_id": WALLET}
        row, _ = store.accept(queued(**of_wallet, recipient=key.address))
        time.sleep(0.005)  # In which the key may change.
        given = {"sender": WALLET, "key_id": key_at(WALLET).key_id, "gas_limit": 7}
        try:
            store.reserve(row, counted=0, at=now(), **given)  # type: ignore[arg-type]
        except KeyRotatedError:
            refused.append(row)

    def paid_to(address: str) -> int:
        paid = select(func.count()).where(
            refund_rows.c.recipient == address, refund_rows.c.nonce.is_not(None)
        )
        count: int = store._database.run(lambda c: c.execute(paid).scalar_one())
        return count

    turns = Turns(store, paid_to)
    _under_way(sweep, turns)

    assert len(turns.counts) == ROTATIONS
    assert sum(turns.counts.values()) > ROTATIONS
    assert turns.late == []
    assert [each for each in refused if store.get(each.id) != each] == []


def test_no_signature_after_an_activation(store: SQLStore) -> None:
    """O5: all signatures succeed, and no intent names a key after its rotation."""
    signers = [
        Signer.open(honest(key), KeyId(f"{n:040x}"), AuditLog(_SILENCE, journal=store))
        for n, key in enumerate(_PRIVATE)
    ]
    ring = ring_over(store, *signers)
    digest, purpose = bytes(range(32)), Purpose(Operation.MESSAGE_SIGNING)
    made: list[str] = []

    def sign() -> None:
        signature, signer = ring.sign_digest(digest, purpose)
        assert signature.recover(digest) == signer.public_key
        made.append(signer.address)

    def announced_by(address: str) -> int:
        store.seal(100_000)
        fields = [each.record.fields for each in store.sealed(0, 100_000)]
        return sum(
            (each["event"], each.get("address")) == ("digest-sign-requested", address)
            for each in fields
        )

    turns = Turns(store, announced_by)
    _under_way(sign, turns)

    assert len(turns.counts) == ROTATIONS
    assert turns.late == []
    assert len(made) > ROTATIONS
    assert sum(turns.counts.values()) + announced_by(RING[-1].address) == len(made)


def _rotate_for_ever(url: str, acknowledge: Connection) -> None:
    """Rotate between two keys until killed, and report the active epochs."""
    store = SQLStore(url)
    for n in itertools.count():
        key = made_active(store, key_of(RING[n % 2]))
        acknowledge.send(key.epoch)


def test_kill_leaves_one_active_key(database_url: str, store: SQLStore) -> None:
    """O1: after each kill -9 one key is active, and every activation is recorded."""
    store.enrol(key_of(RING[0]))
    known = 1
    for _ in range(3):
        ours, theirs = _SPAWN.Pipe(duplex=False)
        process = _SPAWN.Process(
            target=_rotate_for_ever, args=(database_url, theirs), daemon=True
        )
        process.start()
        theirs.close()
        assert ours.poll(30)
        time.sleep(random.uniform(0, 0.1))
        process.kill()
        process.join(10)
        with suppress(EOFError):
            while True:
                known = max(known, ours.recv())
        # The next one does not wait for the hold of the one that was killed.
        _let_go(store)

    active = [key for key in _ring(store) if key.state is KeyState.ACTIVE]
    assert [key.epoch for key in active] == [
        max(key.epoch or 0 for key in _ring(store))
    ]
    assert known <= (active[0].epoch or 0)
    store.seal(100_000)
    assert store.head()[0] == (active[0].epoch or 0) - 1


def _let_go(store: SQLStore) -> None:
    for key in _ring(store):
        if key.state is KeyState.PENDING:
            store.reject(key, "abandoned", now())
