"""A worker process of the laboratory: the real worker, with crash points."""

import os
import signal
from threading import Event

from api.bootstrap import open_container
from api.logs import configure
from signer.config.settings import Settings
from tests.crash.points import watched


def run_worker() -> None:
    """Bring refunds to their end until SIGTERM."""
    configure(Settings.from_env(os.environ))
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    container = watched(open_container(serving=False), "worker", os.environ)
    container.start_sealer()
    container.worker.run(wait=lambda: stop.wait(0.5))
