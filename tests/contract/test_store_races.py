"""Contract of the store under concurrent processes, and when one is killed."""

import os
import random
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

import psycopg
import pytest

from backends.sql import SQLStore
from signer.approvals import VALID_FOR
from signer.errors import (
    ConflictError,
    HotWalletError,
    SigningStoppedError,
    StaleStateError,
    StoreUnavailableError,
)
from signer.model.approval import ApprovalState
from signer.model.audit_record import Record
from signer.model.hold import EVERYTHING, Hold
from signer.model.key import SIGNING, SigningCondition
from signer.model.refund import Refund, Status
from signer.model.wallet import Pause
from tests.fixtures.ledger import (
    WALLET,
    a_filler,
    accept,
    accepted,
    filled,
    later,
    moved,
    now,
    opened,
    queued,
    refund_page,
    reserve,
    reserved,
    signed,
    status_moves,
    stored,
    unrecorded,
)
from tests.fixtures.ledger import claimed as claimed_from
from tests.fixtures.races import race, reports_until_killed, start_process
from tests.support.approvals import (
    ASKING,
    administrators,
    approval_of,
    approve,
    limited,
    reject,
    requested,
)
from tests.support.keys import key_at, made_active
from tests.support.ledgers import open_ledger, seal
from tests.support.refunds import AMOUNT, CUSTOMER, World


def _accept_each(store: SQLStore, index: int) -> list[tuple[str, bool]]:
    """Accept 25 refunds whose keys are the same in every process."""
    answers = [
        accept(store, queued(idempotency_key=f"key {n}", reference=f"reference {n}"))
        for n in range(25)
    ]
    return [(refund.id, created) for refund, created in answers]


def test_one_key_makes_one_refund(database_url: str) -> None:
    """Of many processes with the same key one creates; the others get its refund."""
    answers = race(_accept_each, database_url, 4)

    for same_key in zip(*answers, strict=True):
        assert sum(created for _, created in same_key) == 1
        assert len({refund_id for refund_id, _ in same_key}) == 1


def _accept_same_references(store: SQLStore, index: int) -> int:
    """Accept 25 shared references with own keys; return how many succeeded."""
    granted = 0
    for n in range(25):
        try:
            _, created = accept(store, queued(reference=f"reference {n}"))
        except ConflictError:
            continue
        granted += created
    return granted


def test_one_reference_makes_one_refund(database_url: str, store: SQLStore) -> None:
    """Of many keys for one reference one wins, and every other is a conflict."""
    assert sum(race(_accept_same_references, database_url, 4)) == 25
    assert len(refund_page(store, "gateway", limit=100).refunds) == 25


def _reserve_own(store: SQLStore, index: int) -> list[int]:
    """Reserve the refunds that were accepted for this process."""
    refunds = refund_page(store, f"gateway {index}", limit=1000).refunds
    given: dict[str, Any] = {
        "sender": WALLET,
        "key_id": key_at(WALLET).key_id,
        "at": now(),
    }
    return [
        _nonce(reserve(store, refund, gas_limit=7, counted=0, **given))
        for refund in refunds
    ]


def test_nonces_are_unique_and_without_gap(database_url: str, store: SQLStore) -> None:
    """Of 400 reservations by 8 processes each gets a nonce of its own, and no gap."""
    opened(store)
    filled(store, [queued(tenant=f"gateway {n % 8}") for n in range(400)])
    nonces = [nonce for each in race(_reserve_own, database_url, 8) for nonce in each]

    assert list(range(400)) == sorted(nonces)


def _fill_open(store: SQLStore, index: int) -> list[int]:
    """Fill the nonces that no other process has filled yet."""
    won = []
    for nonce in range(20):
        try:
            a_filler(store, nonce, now())
        except StaleStateError:
            continue
        won.append(nonce)
    return won


def test_a_nonce_gets_one_filler(database_url: str, store: SQLStore) -> None:
    """Of processes that restore at once, one fills it; the others know that it is."""
    opened(store)

    won = race(_fill_open, database_url, 4)

    assert sorted(nonce for each in won for nonce in each) == list(range(20))


def _reserve_open(store: SQLStore, index: int) -> list[tuple[str, int]]:
    """Reserve the queued refunds, unless another process was first."""
    won = []
    refunds = [*refund_page(store, "gateway", status=Status.QUEUED, limit=100).refunds]
    random.Random(index).shuffle(refunds)
    for refund in refunds:
        try:
            won.append((refund.id, _nonce(reserved(store, refund))))
        except StaleStateError:
            continue
    return won


def test_one_refund_gets_one_nonce(database_url: str, store: SQLStore) -> None:
    """Processes that reserve the same refunds give each one nonce, without a gap."""
    refunds = {refund.id: refund for refund in (accepted(store) for _ in range(40))}
    won = [pair for each in race(_reserve_open, database_url, 4) for pair in each]

    assert refunds.keys() == {refund_id for refund_id, _ in won}
    assert list(range(40)) == sorted(nonce for _, nonce in won)
    assert won == [(each, _nonce(stored(store, refunds[each]))) for each, _ in won]


def _claim_all(store: SQLStore, index: int) -> list[str]:
    """Claim five at a time until nothing is due."""
    claimed: list[str] = []
    at, until = later(60), later(120)
    while found := claimed_from(store, at, until, 5):
        claimed += [refund.id for refund in found]
    return claimed


def test_no_refund_is_claimed_twice(database_url: str, store: SQLStore) -> None:
    """R29: many workers that claim at once get different refunds."""
    refunds = [accepted(store) for _ in range(200)]
    claimed = [each for one in race(_claim_all, database_url, 4) for each in one]

    assert sorted(refund.id for refund in refunds) == sorted(claimed)
    assert {1} == {stored(store, refund).version for refund in refunds}


def test_claims_skip_locked_rows(postgresql_url: str) -> None:
    """R29: a worker does not wait for refunds that another one is claiming."""
    store = open_ledger(postgresql_url, timeout=1)
    refunds = sorted(accepted(store).id for _ in range(4))
    with psycopg.connect(postgresql_url) as other:
        other.execute("SELECT 1 FROM refunds WHERE id = %s FOR UPDATE", refunds[:1])
        claimed = claimed_from(store, later(60), later(80), 10)

    assert refunds[1:] == [refund.id for refund in claimed]
    assert refunds[:1] == [r.id for r in claimed_from(store, later(60), later(80), 10)]
    store.close()


def _reserve_until_paused(store: SQLStore, index: int) -> list[int]:
    nonces: list[int] = []
    try:
        while True:
            nonces.append(_nonce(reserved(store, accepted(store))))
            if index == 0 and len(nonces) == 10:
                store.pause(opened(store), Pause.CHAIN_AHEAD, now())
                known = opened(store).next_nonce
                store.add_unrecorded(opened(store), [unrecorded(nonce=known)])
    except StaleStateError:
        return nonces


def test_a_pause_acts_at_once(database_url: str, store: SQLStore) -> None:
    """After a pause no concurrent reservation gets a nonce."""
    opened(store)
    paused = race(_reserve_until_paused, database_url, 4)
    nonces = sorted(nonce for each in paused for nonce in each)
    (foreign,) = store.foreign_transactions(31337, WALLET)

    assert list(range(foreign.nonce)) == nonces
    assert not foreign.is_held


def test_threads_share_a_store(store: SQLStore) -> None:
    """More threads than connections can use one store."""

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
    assert len(store.history(refund.id)) == 1


def test_a_fork_opens_connections_of_its_own(store: SQLStore) -> None:
    """A store that was used before a fork works in parent and child."""
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
    assert len(refund_page(store, "gateway").refunds) == 7


def _migrate(store: SQLStore, index: int) -> None:
    store.migrate()
    store.check()


def test_processes_may_migrate_at_once(empty_url: str) -> None:
    """Processes that migrate an empty database at once all find it usable."""
    assert race(_migrate, empty_url, 4) == [None] * 4


def _nonce(refund: Refund) -> int:
    assert refund.nonce is not None
    return refund.nonce


def _pay_forever(url: str, line: Connection) -> None:
    """Report each version of each refund that the store acknowledged."""
    store = open_ledger(url)
    while True:
        refund = accepted(store)
        line.send((refund.id, refund.revision))
        for step in (reserved, signed):
            refund = step(store, refund)
            line.send((refund.id, refund.revision))
        refund = moved(store, refund, Status.BROADCAST)
        line.send((refund.id, refund.revision))


def test_kill_loses_nothing(database_url: str, store: SQLStore) -> None:
    """R28: after each kill -9 every acknowledged write exists, and none is partial."""
    acknowledged: dict[str, int] = {}
    for _ in range(2):
        acknowledged.update(reports_until_killed(_pay_forever, database_url, 4))
        refunds = refund_page(store, "gateway", limit=1000).refunds
        found = {refund.id: refund for refund in refunds}

        assert [
            each
            for each, version in acknowledged.items()
            if each not in found or found[each].revision < version
        ] == []
        for refund in refunds:
            kept = [each.tx_hash for each in store.transactions(refund.id)]
            assert refund.revision + 1 == len(store.history(refund.id))
            assert [refund.tx_hash] * (refund.revision > 1) == kept
        nonces = sorted(each.nonce for each in refunds if each.nonce is not None)
        assert list(range(len(nonces))) == nonces


def _sign_late(url: str, line: Connection) -> None:
    """Claim a refund, wait for a message, sign, and report error and bytes to send."""
    store = open_ledger(url)
    (refund,) = claimed_from(store, later(60), later(80), 1)
    line.send(refund.id)
    line.recv()
    try:
        signed(store, refund)
    except HotWalletError as e:
        line.send((e.code, [sent.raw for sent in store.transactions(refund.id)]))
    else:
        line.send((None, []))


def test_a_worker_that_wakes_too_late(database_url: str, store: SQLStore) -> None:
    """R29: a worker paused after its claim saves nothing, and sends recorded bytes."""
    refund = reserved(store, accepted(store))
    worker, line = start_process(_sign_late, database_url)
    assert line.recv() == refund.id
    os.kill(worker.pid or 0, signal.SIGSTOP)
    line.send("continue")
    (claimed,) = claimed_from(store, later(200), later(220), 10)
    ours = signed(store, claimed)
    os.kill(worker.pid or 0, signal.SIGCONT)
    code, would_send = line.recv()
    worker.join(30)

    assert code == StaleStateError.code
    assert ours == store.get(refund.id)
    assert would_send == [sent.raw for sent in store.transactions(refund.id)]
    assert len(would_send) == 1


def _take_the_lock(url: str, line: Connection) -> None:
    """Hang in a transaction that writes."""

    def hang(_: object) -> None:
        line.send("locked")
        line.recv()

    open_ledger(url)._database.transaction(hang)


def test_a_frozen_process_with_the_lock_of_sqlite(
    sqlite_url: str, sqlite_store: SQLStore
) -> None:
    """Nothing is signed meanwhile; a stop begins once the process was killed (R27)."""
    key = key_at(WALLET)
    made_active(sqlite_store, key)
    condition = SigningCondition(WALLET, key.key_id, SIGNING, stopped_by=EVERYTHING)
    intent = Record.of({"event": "intent"}, now())
    stop = Hold.of_chain(EVERYTHING, now(), "stolen key", "cli:alice")
    frozen, line = start_process(_take_the_lock, sqlite_url)
    assert line.recv() == "locked"
    os.kill(frozen.pid or 0, signal.SIGSTOP)

    with closing(open_ledger(sqlite_url, timeout=0.2)) as hurried:
        with pytest.raises(StoreUnavailableError):
            hurried.append([intent], condition=condition)
        with pytest.raises(StoreUnavailableError):
            hurried.begin_hold(stop)
        os.kill(frozen.pid or 0, signal.SIGKILL)
        frozen.join(30)
        assert hurried.begin_hold(stop)
        with pytest.raises(SigningStoppedError):
            hurried.append([intent], condition=condition)


# Processes that approve, reject, expire, cancel and work on a refund at once.

PROCESSES = 10

# How a refund ends after each decision, unless its tenant cancels it.
_ENDS = {
    ApprovalState.DONE: Status.CONFIRMED,
    ApprovalState.REJECTED: Status.REFUSED,
    ApprovalState.EXPIRED: Status.REFUSED,
}


def _act(store: SQLStore, index: int) -> None:
    """Do one of five things to the only refund that waits."""
    world = limited(World(store))
    (refund,) = refund_page(store, "gateway").refunds
    with suppress(HotWalletError):
        match index % 5:
            case 0:
                approve(world, refund)
            case 1:
                reject(world, refund)
            case 2:
                world.clock.now += VALID_FOR
                administrators(world).list()
            case 3:
                world.service.request_cancellation("gateway", refund.id, ASKING)
            case _:
                world.worker.work()


def _act_without_cancelling(store: SQLStore, index: int) -> None:
    if index % 5 != 3:
        _act(store, index)


@pytest.mark.parametrize("act", [_act, _act_without_cancelling])
def test_a_race_has_one_outcome(database_url: str, act: object) -> None:
    """One decision, one end that follows from it, and one audit record of each."""
    with closing(open_ledger(database_url)) as store:
        world = limited(World(store))
        assert world.ring.active()
        refund = requested(world)
        race(act, database_url, PROCESSES)  # type: ignore[arg-type]
        if approval_of(world, refund).state is ApprovalState.WAITING:
            world.clock.now += VALID_FOR
        (ended,) = world.finish(refund)
        approval = approval_of(world, refund)

        is_cancelled = ended.status is Status.CANCELLED
        assert is_cancelled or ended.status is _ENDS[approval.state]
        assert not is_cancelled or act is _act
        is_paid = ended.status is Status.CONFIRMED
        assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * is_paid
        _require_legal(world, refund)
        assert _decisions(store) == {str(approval.state): 1}


def _require_legal(world: World, refund: Refund) -> None:
    statuses = [move.status for move in world.store.history(refund.id)]
    assert all(after in status_moves()[before] for before, after in pairwise(statuses))


def _decisions(store: SQLStore) -> Counter[str]:
    """Count the records of final states of approvals."""
    while seal(store):
        pass
    fields = [each.record.fields for each in store.sealed(0, 1000)]
    states = (each["details"].get("state") for each in fields)
    return Counter(state for state in states if state in {str(s) for s in _ENDS})
