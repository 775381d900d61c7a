"""What every store promises to threads and processes that use it at once."""

import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest

from backends.sql import SQLStore
from signer.errors import ConflictError, StaleStateError
from signer.refunds.refund import Refund, Status
from tests.fixtures.ledger import accepted, moved, now, queued, reserved, signed, stored
from tests.fixtures.races import Racers, start_payer


@pytest.fixture(scope="module")
def racers() -> Iterator[Racers]:
    """Four processes."""
    racers = Racers(4)
    yield racers
    racers.close()


def _accept_each(store: SQLStore, index: int) -> list[tuple[str, bool]]:
    """Ask for 25 keys that every process asks for, with ids of one's own."""
    answers = [
        store.accept(queued(idempotency_key=f"key {n}", reference=f"reference {n}"))
        for n in range(25)
    ]
    return [(refund.id, created) for refund, created in answers]


def test_one_key_makes_one_refund(database_url: str, racers: Racers) -> None:
    """Of many processes with the same key one creates; the others get its refund."""
    answers = racers.race(_accept_each, database_url)

    for same_key in zip(*answers, strict=True):
        assert sum(created for _, created in same_key) == 1
        assert len({refund_id for refund_id, _ in same_key}) == 1


def _accept_same_references(store: SQLStore, index: int) -> int:
    """Ask for 25 references under keys of one's own; return how many were granted."""
    granted = 0
    for n in range(25):
        try:
            _, created = store.accept(queued(reference=f"reference {n}"))
        except ConflictError:
            continue
        granted += created
    return granted


def test_one_reference_makes_one_refund(
    database_url: str, store: SQLStore, racers: Racers
) -> None:
    """Of many keys for one reference one wins, and every other is a conflict."""
    assert sum(racers.race(_accept_same_references, database_url)) == 25
    assert len(store.list("gateway", limit=100).refunds) == 25


def _reserve_75(store: SQLStore, index: int) -> list[int]:
    return [_nonce(reserved(store, accepted(store))) for _ in range(75)]


def _reserve_250(store: SQLStore, index: int) -> list[int]:
    return [_nonce(reserved(store, accepted(store))) for _ in range(250)]


def test_nonces_have_no_double_and_no_gap(database_url: str, racers: Racers) -> None:
    """Whatever reserves at once for a wallet gets consecutive nonces, each once."""
    nonces = [
        nonce for each in racers.race(_reserve_75, database_url) for nonce in each
    ]

    assert list(range(300)) == sorted(nonces)


@pytest.mark.soak
def test_many_nonces_have_no_double_and_no_gap(database_url: str) -> None:
    """The same holds for 2,000 reservations by 8 processes."""
    racers = Racers(8)
    nonces = [
        nonce for each in racers.race(_reserve_250, database_url) for nonce in each
    ]
    racers.close()

    assert list(range(2000)) == sorted(nonces)


def _reserve_open(store: SQLStore, index: int) -> list[tuple[str, int]]:
    """Reserve what is queued now, if it is still queued when its turn comes."""
    won = []
    refunds = [*store.list("gateway", status=Status.QUEUED, limit=100).refunds]
    random.Random(index).shuffle(refunds)
    for refund in refunds:
        try:
            won.append((refund.id, _nonce(reserved(store, refund))))
        except StaleStateError:
            continue
    return won


def test_one_refund_gets_one_nonce(
    database_url: str, store: SQLStore, racers: Racers
) -> None:
    """Processes that reserve the same refunds give each one nonce, and leave no gap."""
    refunds = {refund.id: refund for refund in (accepted(store) for _ in range(40))}
    won = [pair for each in racers.race(_reserve_open, database_url) for pair in each]

    assert refunds.keys() == {refund_id for refund_id, _ in won}
    assert list(range(40)) == sorted(nonce for _, nonce in won)
    assert won == [(each, _nonce(stored(store, refunds[each]))) for each, _ in won]


def test_threads_share_a_store(store: SQLStore) -> None:
    """More threads than connections use one store, and each gets its turn."""

    def pay(_: int) -> int:
        refund = signed(store, reserved(store, accepted(store)))
        return _nonce(moved(store, refund, Status.BROADCAST))

    with ThreadPoolExecutor(8) as threads:
        nonces = list(threads.map(pay, range(40)))

    assert list(range(40)) == sorted(nonces)


def test_one_version_is_saved_once(store: SQLStore) -> None:
    """Of many threads that save the same version one wins, each time."""

    def save(before: Refund) -> bool:
        after = replace(before, version=before.version + 1, updated_at=now())
        try:
            store.save(before, after)
        except StaleStateError:
            return False
        return True

    refund = accepted(store)
    with ThreadPoolExecutor(6) as threads:
        for round_ in range(10):
            wins = list(threads.map(save, [refund] * 6))
            refund = stored(store, refund)

            assert sum(wins) == 1
            assert round_ + 1 == refund.version
            assert round_ + 2 == len(store.history(refund.id))


def test_a_fork_opens_connections_of_its_own(store: SQLStore) -> None:
    """A store that was used before a fork works in parent and child at once."""
    before = accepted(store)
    child = os.fork()
    if child == 0:
        # Nothing of pytest may run here: no teardown, no report.
        works = store.get(before.id) == before
        reserved(store, accepted(store))
        os._exit(0 if works else 1)
    ours = [reserved(store, accepted(store)) for _ in range(5)]
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert [each for each in ours if store.get(each.id) != each] == []
    assert len(store.list("gateway").refunds) == 7


def _migrate(store: SQLStore, index: int) -> None:
    store.migrate()
    store.check()


def test_everybody_may_migrate(empty_url: str, racers: Racers) -> None:
    """Processes that meet an empty database at once all find it usable."""
    assert racers.race(_migrate, empty_url) == [None] * 4


def test_kill_loses_nothing(database_url: str, store: SQLStore) -> None:
    """What was acknowledged before a kill -9 is there after it, and nothing is torn."""
    acknowledged: dict[str, int] = {}
    payers = [start_payer(database_url) for _ in range(4)]
    for payer, line in payers:
        assert line.poll(30)
        time.sleep(random.uniform(0, 0.2))
        payer.kill()
        payer.join(10)
        payer.close()
        with suppress(EOFError):
            while True:
                acknowledged.update([line.recv()])
        line.close()

    _require_whole(store, acknowledged)


def _require_whole(store: SQLStore, acknowledged: dict[str, int]) -> None:
    """Require each acknowledged version, and every refund in one piece."""
    refunds = store.list("gateway", limit=1000).refunds
    found = {refund.id: refund for refund in refunds}

    assert acknowledged
    assert [
        each
        for each, version in acknowledged.items()
        if each not in found or found[each].version < version
    ] == []
    for refund in refunds:
        kept = store.transactions(refund.id)
        assert refund.version + 1 == len(store.history(refund.id))
        assert [refund.tx_hash] * (refund.version > 1) == [tx.tx_hash for tx in kept]
    nonces = sorted(each.nonce for each in refunds if each.nonce is not None)
    assert list(range(len(nonces))) == nonces


def _nonce(refund: Refund) -> int:
    assert refund.nonce is not None
    return refund.nonce
