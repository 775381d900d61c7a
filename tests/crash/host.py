"""
A host of the service: processes that it forks, and forks again when they die.

They end with the host: killing it is the death of the whole host.
"""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Event, Thread
from typing import NoReturn

from gunicorn.app.wsgiapp import run as run_gunicorn  # type: ignore[import-untyped]

from api.background_threads import start_sealer
from api.bootstrap import open_container
from api.extras.audit_shipping import worker_loops
from api.http.app import App, create_app
from api.logs import configure
from dev.with_parent import die_with_parent
from signer.config.settings import CREDENTIALS, Role, Settings
from tests.crash.crash_points import add_crash_points


Work = Callable[[], None]

_RESTART_SECONDS = 0.05
_GUNICORN = ["gunicorn", "-c", "python:tests.crash.gunicorn_conf"]


def run_service_host(workers: int, listeners: Mapping[Role, socket.socket]) -> NoReturn:
    """Keep a gunicorn of each role on its listener, and as many *workers*, alive."""
    keep_alive(
        [
            *(partial(_run_gunicorn, *each) for each in listeners.items()),
            *[_run_worker] * workers,
        ]
    )


def keep_alive(works: Sequence[Work]) -> NoReturn:
    """Fork a process for each of *works*, and another one whenever it ends."""
    running = {_fork(work): work for work in works}
    while True:
        pid, _ = os.wait()
        time.sleep(_RESTART_SECONDS)  # A process that cannot start would use all CPU.
        work = running.pop(pid)
        running[_fork(work)] = work


def get_app() -> App:
    """Return the real application with crash points; gunicorn loads it."""
    container = open_container()
    role = container.settings.serve_role
    name = "api" if role is Role.REFUNDS else role.value
    container = add_crash_points(container, name, os.environ)
    if role.seals_audit:
        start_sealer(container)
    return create_app(container)


def _run_gunicorn(role: Role, listener: socket.socket) -> None:
    os.environ["SERVE_ROLE"] = role
    os.environ["BIND"] = f"fd://{listener.fileno()}"
    if not role.has_key:
        for name in CREDENTIALS:
            os.environ.pop(name, None)
    sys.argv = [*_GUNICORN, "tests.crash.host:get_app()"]
    run_gunicorn()


def _run_worker() -> None:
    configure(Settings.from_env(os.environ))
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    container = add_crash_points(open_container(serving=False), "worker", os.environ)
    start_sealer(container)
    for name, run in worker_loops(container):
        Thread(target=run, args=(Event().wait,), name=name, daemon=True).start()
    container.worker.run(stop.is_set, interval=0.5)


def _fork(work: Work) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        die_with_parent(parent)
        work()
    except SystemExit as e:
        # Gunicorn's master, which forks as well, reads it from its children.
        status = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:  # noqa: BLE001  Printed; then the process ends.
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)
