"""
The gunicorn settings of ``hotwallet serve``.

In production, run a proxy such as ``docker/nginx.conf`` in front: a slow client can
occupy a worker's thread for up to 12 seconds.
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

from api.server.config_check import refuse_overrides
from signer.config.settings import Role, Settings
from signer.errors import ConfigurationError


_GUARD_SECONDS = 120
_KILLED_BY = 128  # Plus the signal's number: the exit status that shells use.


@contextmanager
def _exiting_on_refusals() -> Iterator[None]:
    """Print the refusals of a ``ConfigurationError``, and end the process."""
    try:
        yield
    except ConfigurationError as e:
        for refusal in e.refusals:
            sys.stderr.write(f"refused: {refusal}\n")
        raise SystemExit(e.exit_status) from None


def run_guard(
    command: Sequence[str], meanwhile: Callable[[], object] = lambda: None
) -> None:
    """Run *command* and call *meanwhile*; return if the command succeeds."""
    with (
        _ending_on_sigterm(),
        subprocess.Popen(command) as guard,  # noqa: S603  Our own interpreter.
    ):
        try:
            meanwhile()
            status = guard.wait(_GUARD_SECONDS)
        except subprocess.TimeoutExpired:
            problem = f"the start-up guard did not finish in {_GUARD_SECONDS} s\n"
            sys.stderr.write(problem)
            raise SystemExit(os.EX_TEMPFAIL) from None
        finally:
            guard.kill()  # Does nothing if it has ended.
    if status != 0:
        # A negative status is the signal that killed the process.
        raise SystemExit(max(status, 1))


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """
    On SIGTERM, end this process and the guard.

    gunicorn handles signals only later.  Until then SIGTERM would leave the guard
    running, and would have no effect on the first process of a container.
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

    It runs in a process of its own: the workers are forks of this one, and neither
    PKCS#11 nor boto3 may be used before a fork.
    """
    with _exiting_on_refusals():
        refuse_overrides(server.cfg, globals())
    guard = [sys.executable, "-P", "-m", "api.cli", "--no-env-file", "guard"]
    run_guard(guard, meanwhile=warm)


def warm() -> None:
    """
    Import the libraries that every worker needs, before the fork.

    Workers then share their memory and start faster.  Nothing is opened: each worker
    opens device, chains and database itself, after the fork.
    """
    # Imported here: reading the settings alone must stay fast.
    import api.background_threads  # noqa: PLC0415  The entry point imports it.
    import api.http.app  # noqa: PLC0415  As above.
    from api.backend_factories import preload  # noqa: PLC0415
    from api.extension import find_routes  # noqa: PLC0415

    if _values.serve_role in {Role.ALL, Role.ADMIN}:
        import api.http.administration  # noqa: F401, PLC0415
    list(find_routes(_values.serve_role))
    if _values.serve_role is Role.SIGN:
        # Elsewhere the first signed message imports it, and most processes sign none.
        import eth_account.messages  # noqa: F401, PLC0415
    with _exiting_on_refusals():
        preload(_values)
    # Garbage collection would write to the shared pages, and so copy them.
    gc.freeze()


def when_ready(server: object) -> None:
    structlog.get_logger("api.gunicorn").info("listening", bind=bind)


with _exiting_on_refusals():
    _values = Settings.from_env(os.environ)

bind = _values.bind
workers = _values.workers
threads = _values.threads
worker_class = "api.server.gunicorn_worker.GunicornWorker"
logger_class = "api.server.gunicorn_worker.GunicornLogger"
# With setproctitle, gunicorn shows it to ``ps``, with "master" or "worker" before it.
proc_name = f"hotwallet serve {_values.serve_role}"

preload_app = False
control_socket_disable = True
umask = 0o077

# A heartbeat touches a file, which could block a worker for seconds on a disk.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108

# Longer than the deadlines of device, chain and database together.
timeout = 30
graceful_timeout = 30
# Longer than the idle timeout of common load balancers (60 s), so that the proxy closes
# a connection first and never sends a request on one that is being closed.
keepalive = 65
worker_connections = 512
max_requests = 10_000
max_requests_jitter = 1_000

limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 9 * 1024  # A token of 8 KiB, and "Bearer ".

# Do not trust headers for the connection's scheme or peer.
forwarded_allow_ips = "127.0.0.1"
forwarder_headers = ""
header_map = "drop"

# ``api.requests`` logs each request; gunicorn's own events go to the same log.
accesslog = None
errorlog = None
loglevel = "info"
