"""
gunicorn's settings, which ``hotwallet serve`` passes to it.

Put the proxy of ``docker/nginx.conf`` in front, or one like it: a slow client takes a
worker's thread for up to 12 seconds.
"""

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]

from api.server.config_check import override_refusals
from signer.config.settings import Settings
from signer.errors import ConfigurationError, Refusal
from signer.startup.guard import EXIT_STATUS


_GUARD_SECONDS = 120
_KILLED_BY = 128  # As shells have it, of a process that a signal ended.
_TEMPORARY_FAILURE = 75  # EX_TEMPFAIL of sysexits.h: try again later.


def _settings() -> Settings:
    try:
        return Settings.from_env(os.environ)
    except ConfigurationError as e:
        raise _refused(e.refusals) from None


def _refused(refusals: Sequence[Refusal]) -> SystemExit:
    """Say why, and return what ends the process."""
    for refusal in refusals:
        sys.stderr.write(f"refused: {refusal}\n")
    return SystemExit(EXIT_STATUS)


def run_guard(
    command: Sequence[str], meanwhile: Callable[[], object] = lambda: None
) -> None:
    """
    Run *command*, do something *meanwhile*, and go on only if it succeeds.

    Raises:
        SystemExit: With the command's status, 78 when the guard refused.
    """
    with (
        _ending_on_sigterm(),
        subprocess.Popen(command) as guard,  # noqa: S603  Our own interpreter.
    ):
        try:
            meanwhile()
            status = guard.wait(_GUARD_SECONDS)
        except subprocess.TimeoutExpired:
            sys.stderr.write(f"the start-up guard took over {_GUARD_SECONDS} s\n")
            raise SystemExit(_TEMPORARY_FAILURE) from None
        finally:
            guard.kill()  # Does nothing to what has ended.
    if status != 0:
        # A negative status names the signal that ended it: a crash, no refusal.
        raise SystemExit(max(status, 1))


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """
    End by SIGTERM in good order, and the guard with us.

    gunicorn listens to signals only later; until then SIGTERM would leave the guard
    alone, and do nothing at all to the first process of a container.
    """
    before = signal.signal(
        signal.SIGTERM, lambda number, _: sys.exit(_KILLED_BY + number)
    )
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def on_starting(server: Arbiter) -> None:
    """
    Run the guard before the first socket is opened.

    In a process of its own, because neither PKCS#11 nor boto3 survive a fork, and
    the workers are forks of this one.
    """
    overrides = list(override_refusals(server.cfg, globals()))
    if overrides:
        raise _refused(overrides)
    run_guard([sys.executable, "-P", "-m", "api.cli", "guard"], meanwhile=warm)


def warm() -> None:
    """
    Import the libraries that every worker needs, before the fork.

    Workers then share their memory, and one that comes in for another is there
    sooner.  Nothing is opened: device, chains and database still are, after the fork,
    by each worker for itself.
    """
    # Here, since whoever asks for the settings alone need not wait for it.
    import api.http.app  # noqa: F401, PLC0415  The entry point imports it.
    from api.bootstrap import preload  # noqa: PLC0415

    preload(_values)
    # What is there stays: no collection touches, and so copies, the shared pages.
    gc.freeze()


def when_ready(server: object) -> None:
    """Say where the service listens."""
    structlog.get_logger("api.gunicorn").info("listening", bind=bind)


_values = _settings()

bind = _values.bind
workers = _values.workers
threads = _values.threads
worker_class = "api.server.gunicorn_worker.Worker"
logger_class = "api.server.gunicorn_worker.Logger"
proc_name = "hotwallet"

preload_app = False
control_socket_disable = True
umask = 0o077

# Heartbeats touch a file: on a disk, that could block a worker for seconds.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108

# Longer than the deadlines of device, chain and database together.
timeout = 30
graceful_timeout = 30
# Longer than the idle time of common balancers (60 s), so that the proxy closes
# a connection first and never sends into one that is just being closed.
keepalive = 65
worker_connections = 512
max_requests = 10_000
max_requests_jitter = 1_000

limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 9 * 1024  # A token of 8 KiB, and the word before it.

# Nothing that a client writes may become a fact about the connection.
forwarded_allow_ips = "127.0.0.1"
forwarder_headers = ""
header_map = "drop"

# ``api.requests`` writes one line per request; gunicorn's own lines go to it too.
accesslog = None
errorlog = None
loglevel = "info"
