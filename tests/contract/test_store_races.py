"""What every store promises to threads and processes that use it at once."""

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from backends.sql import SQLStore
from signer.errors import ConflictError, StaleStateError
from signer.refunds.refund import Refund, Status
from tests.fixtures.ledger import accepted, moved, now, queued, reserved, signed
from tests.fixtures.races import race, start_payer


PROCESSES = 4


def _accept_each(store: SQLStore, index: int) -> list[tuple[str, bool]]:
    """Ask for 25 keys that every process asks for, with ids of one's own."""
    answers = [
        store.accept(queued(idempotency_key=f"key {n}", reference=f"reference {n}"))
        for n in range(25)
    ]
    return [(refund.id, created) for refund, created in answers]


def test_one_key_makes_one_refund(database_url: str) -> None:
    """Of many processes with the same key one creates; the others get its refund."""
    answers = race(_accept_each, database_url, PROCESSES)

    for same_key in zip(*answers, strict=True):
        assert 1 == sum(created for _, created in same_key)
        assert 1 == len({refund_id for refund_id, _ in same_key})


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


def test_one_reference_makes_one_refund(database_url: str, store: SQLStore) -> None:
    """Of many keys for one reference one wins, and every other is a conflict."""
    assert 25 == sum(race(_accept_same_references, database_url, PROCESSES))
    assert 25 == len(store.list("gateway", limit=100).refunds)


def _reserve_many(store: SQLStore, count: int) -> list[int | None]:
    return [reserved(store, accepted(store)).nonce for _ in range(count)]


def _reserve_75(store: SQLStore, index: int) -> list[int | None]:
    return _reserve_many(store, 75)


def _reserve_250(store: SQLStore, index: int) -> list[int | None]:
    return _reserve_many(store, 250)


@pytest.mark.parametrize(
    ("work", "processes"),
    [
        pytest.param(_reserve_75, 4, id="300"),
        pytest.param(_reserve_250, 8, id="2000", marks=pytest.mark.soak),
    ],
)
def test_nonces_have_no_double_and_no_gap(
    database_url: str, work: Callable[[SQLStore, int], list[int | None]], processes: int
) -> None:
    """Whatever reserves at once for a wallet gets consecutive nonces, each once."""
    nonces = [nonce for each in race(work, database_url, processes) for nonce in each]

    assert list(range(len(nonces))) == sorted(nonces)


def _reserve_open(store: SQLStore, index: int) -> list[tuple[str, int | None]]:
    """Reserve every open refund that is still queued when its turn comes."""
    won = []
    refunds = list(store.open_refunds(100))
    random.Random(index).shuffle(refunds)
    for refund in refunds:
        try:
            won.append((refund.id, reserved(store, refund).nonce))
        except StaleStateError:
            continue
    return won


def test_one_refund_gets_one_nonce(database_url: str, store: SQLStore) -> None:
    """Processes that reserve the same refunds give each one nonce, and leave no gap."""
    refunds = {accepted(store).id for _ in range(40)}
    answers = race(_reserve_open, database_url, PROCESSES)
    won = [pair for each in answers for pair in each]

    assert refunds == {refund_id for refund_id, _ in won}
    assert list(range(40)) == sorted(nonce for _, nonce in won)  # type: ignore[type-var]
    assert won == [(each, _nonce(store, each)) for each, _ in won]


def test_threads_share_a_store(store: SQLStore) -> None:
    """More threads than connections use one store, and each gets its turn."""

    def pay(_: int) -> int | None:
        refund = signed(store, reserved(store, accepted(store)))
        return moved(store, refund, Status.BROADCAST).nonce

    with ThreadPoolExecutor(8) as threads:
        nonces = list(threads.map(pay, range(40)))

    assert list(range(40)) == sorted(nonces)  # type: ignore[type-var]


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
            refund = _stored(store, refund.id)

            assert 1 == sum(wins)
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

    assert 0 == os.waitstatus_to_exitcode(status)
    assert [] == [each for each in ours if store.get(each.id) != each]
    assert 7 == len(store.list("gateway").refunds)


def _migrate(store: SQLStore, index: int) -> None:
    store.migrate()
    store.check()


def test_everybody_may_migrate(empty_url: str) -> None:
    """Processes that meet an empty database at once leave it usable, and do not fail."""
    assert [None] * 3 == race(_migrate, empty_url, 3)


def test_kill_loses_nothing(database_url: str, store: SQLStore) -> None:
    """What was acknowledged before a kill -9 is there after it, and nothing is torn."""
    dice = random.Random(database_url)
    acknowledged: dict[str, int] = {}
    for _ in range(3):
        payers = [start_payer(database_url) for _ in range(2)]
        for payer, ours in payers:
            assert ours.poll(30)
            time.sleep(dice.uniform(0, 0.15))
            payer.kill()
            payer.join(10)
            while True:
                try:
                    acknowledged.update([ours.recv()])
                except EOFError:
                    break
            ours.close()

    _require_whole(store, acknowledged)


def _require_whole(store: SQLStore, acknowledged: dict[str, int]) -> None:
    """Require each acknowledged version, and every refund in one piece."""
    refunds = store.list("gateway", limit=1000).refunds
    stored = {refund.id: refund for refund in refunds}

    assert acknowledged
    assert [] == [
        each
        for each, version in acknowledged.items()
        if each not in stored or stored[each].version < version
    ]
    for refund in refunds:
        kept = store.transactions(refund.id)
        assert refund.version + 1 == len(store.history(refund.id))
        assert [refund.tx_hash] * (refund.version > 1) == [tx.tx_hash for tx in kept]
    nonces = sorted(each.nonce for each in refunds if each.nonce is not None)
    assert list(range(len(nonces))) == nonces


def _stored(store: SQLStore, refund_id: str) -> Refund:
    stored = store.get(refund_id)
    assert stored is not None
    return stored


def _nonce(store: SQLStore, refund_id: str) -> int | None:
    return _stored(store, refund_id).nonce
