"""Contract of the store when a process is killed or paused."""

import os
import random
import signal
import time
from contextlib import suppress

from backends.sql import SQLStore
from signer.errors import StaleStateError
from tests.fixtures.ledger import accepted, later, reserved, signed
from tests.fixtures.races import start_late_worker, start_payer


def test_kill_loses_nothing(database_url: str, store: SQLStore) -> None:
    """R28: after each kill -9 every acknowledged write exists, and none is partial."""
    acknowledged: dict[str, int] = {}
    for _ in range(2):
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


def test_a_worker_that_wakes_too_late(database_url: str, store: SQLStore) -> None:
    """R29: a worker paused after its claim saves nothing, and sends recorded bytes."""
    refund = reserved(store, accepted(store))
    worker, line = start_late_worker(database_url)
    assert line.recv() == refund.id
    os.kill(worker.pid or 0, signal.SIGSTOP)
    line.send("go on")
    (claimed,) = store.claim(later(200), later(220), 10)
    ours = signed(store, claimed)
    os.kill(worker.pid or 0, signal.SIGCONT)
    code, would_send = line.recv()
    worker.join(30)

    assert code == StaleStateError.code
    assert ours == store.get(refund.id)
    (sent,) = store.transactions(refund.id)
    assert [sent.raw] == would_send


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
