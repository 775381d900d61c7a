"""Contract of the store when a process is killed or paused."""

import os
import signal
from contextlib import closing
from multiprocessing.connection import Connection

import pytest

from backends.sql import SQLStore
from signer.errors import (
    HotWalletError,
    SigningStoppedError,
    StaleStateError,
    StoreUnavailableError,
)
from signer.model.audit_record import Record
from signer.model.hold import EVERYTHING, Hold
from signer.model.key import SIGNING, SigningCondition
from signer.model.refund import Status
from tests.fixtures.ledger import (
    WALLET,
    accepted,
    later,
    moved,
    now,
    reserved,
    signed,
)
from tests.fixtures.ledger import claimed as claimed_from
from tests.fixtures.races import reports_until_killed, start_process
from tests.support.keys import key_at, made_active
from tests.support.ledgers import open_ledger


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
        refunds = store.list("gateway", limit=1000).refunds
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
