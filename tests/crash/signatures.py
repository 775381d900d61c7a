"""
Signs digests, so many a second, with whatever key is active: a process of its own.

``python -m tests.crash.signatures --per-second 50 --journal j`` signs until its
standard input ends, through ``KeyRing.sign_digest`` over the service's own store.
"""

import argparse
import itertools
import os
import secrets
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from api.bootstrap import open_container
from api.logs import configure
from signer.config.settings import Settings
from signer.errors import HotWalletError
from signer.keys.keyring import KeyRing
from signer.model.audit_record import Operation, Purpose
from tests.crash.journal import Journal


_THREADS = 4


def main() -> None:
    """Sign, and write down every answer."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.signatures")
    parser.add_argument("--per-second", type=float, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    options = parser.parse_args()
    configure(Settings.from_env(os.environ))
    ring = open_container(serving=False).ring
    stop = threading.Event()
    threading.Thread(target=_await_end, args=(stop,), daemon=True).start()
    free = threading.Semaphore(_THREADS)
    began = time.monotonic()
    with Journal(options.journal) as journal, ThreadPoolExecutor(_THREADS) as pool:
        for number in itertools.count():
            due = began + number / options.per_second
            if stop.wait(max(due - time.monotonic(), 0)):
                break
            free.acquire()  # Who cannot be served at this rate is not piled up.
            signing = pool.submit(_sign, ring, journal)
            signing.add_done_callback(lambda _: free.release())


def _sign(ring: KeyRing, journal: Journal) -> None:
    digest = secrets.token_bytes(32)
    purpose = Purpose(Operation.MESSAGE_SIGNING, actor="signatures")
    began = time.monotonic()
    try:
        signature, signer = ring.sign_digest(digest, purpose)
    except HotWalletError as e:
        journal.write("refused", began=began, digest=digest.hex(), error=e.code)
        return
    assert signature.recover(digest) == signer.public_key
    journal.write("signed", began=began, digest=digest.hex(), address=signer.address)


def _await_end(stop: threading.Event) -> None:
    sys.stdin.buffer.read()
    stop.set()


if __name__ == "__main__":
    main()
