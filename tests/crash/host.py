"""
A host of the service: one gunicorn and some workers, replaced when they die.

``python -m tests.crash.host 2`` imports the libraries once and forks, so that what was
killed is back in a tenth of the time; nothing is opened before the fork.  What it
forked ends with it: killing it is the death of the whole host.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from gunicorn.app.wsgiapp import run as run_gunicorn  # type: ignore[import-untyped]

import backends.aws_kms
import backends.json_rpc
import backends.pkcs11
import backends.sql
import backends.sql.migrate
import softhsm
from tests.crash.app import get_app
from tests.crash.forking import forked
from tests.crash.worker import run_worker


_PRELOADED = (
    backends.aws_kms,
    backends.json_rpc,
    backends.pkcs11,
    backends.sql.migrate,
    softhsm,
    get_app,
)

_GUNICORN = ["gunicorn", "-c", "python:tests.crash.gunicorn_conf"]


def main(workers: int) -> NoReturn:
    """Keep gunicorn and *workers* workers alive, until somebody kills this host."""
    assert all(_PRELOADED)
    living = dict[int, Callable[[], None]]()
    missing: list[Callable[[], None]] = [_serve, *[run_worker] * workers]
    while True:
        for work in missing:
            living[forked(work)] = work
        pid, _ = os.wait()
        missing = [living.pop(pid)]
        time.sleep(0.05)  # What cannot start must not be started without end.


def _serve() -> None:
    sys.argv = [*_GUNICORN, "tests.crash.app:get_app()"]
    run_gunicorn()


if __name__ == "__main__":
    main(int(sys.argv[1]))
