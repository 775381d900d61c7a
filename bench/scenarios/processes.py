"""
Memory and start-up time of the processes, and CPU time of commands.

Memory is RSS, so pages that the API's processes share count in each of them.  The
worker has upgraded the database too, which takes 4 MB.  In the environment of
development, structlog loads rich: 6 MB that ``requirements/runtime.txt`` does not have.
"""

import contextlib
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.harness import Figure, Goal, Prepared, Scenario, Values
from bench.processes import children, resident_mb
from bench.servers import constant_server, running_service
from bench.service import Service, require_created
from dev.anvil import ROOT
from dev.ports import free_port
from dev.stack import is_ready, running_module


_USED = 200  # Refunds before the memory is read.
_START_SECONDS = 60.0

_BARE_RSS = "gunicorn and Falcon: RSS of a process"
_API_RSS = "hotwallet serve: RSS of a process"
_REFUNDS_RSS = "hotwallet serve --role refunds: RSS of a process"
_WORKER_RSS = "hotwallet worker: RSS"
_BARE_READY = "gunicorn and Falcon: start to ready"
_API_READY = "hotwallet serve: start to ready"
_REFUNDS_READY = "hotwallet serve --role refunds: start to ready"
_PYTHON = "python -c pass"
_HELP = "hotwallet --help"
# One for each set of libraries, as tests/api/cli/test_lazy_commands.py has them.
_COMMANDS = (
    "explain-code not-found",
    "token",
    "config check",
    "keys list",
    "refund list",
    "doctor",
)


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    with running_service(folder) as service:
        count = 4 if is_quick else _USED
        require_created(service.load(clients=4, seconds=60.0, count=count))

        def memory(seconds: float) -> Values:
            processes = service.stack.processes
            workers = children(processes["serve"].pid)
            return {
                _API_RSS: max(map(resident_mb, workers)),
                _WORKER_RSS: resident_mb(processes["worker"].pid),
            }

        def start_bare(seconds: float) -> Values:
            with constant_server(service) as server:
                url = server.url
                require_created(service.load(clients=4, seconds=9.0, count=9, url=url))
                rss = max(map(resident_mb, children(server.pid)))
            return {_BARE_READY: server.start_seconds, _BARE_RSS: rss}

        def start_service(seconds: float) -> Values:
            return {_API_READY: _start(service, "all", count)[0]}

        def start_refunds(seconds: float) -> Values:
            ready, memory = _start(service, "refunds", count)
            return {_REFUNDS_READY: ready, _REFUNDS_RSS: memory}

        def run_commands(seconds: float) -> Values:
            command = [sys.executable, "-m", "api.cli", "--help"]
            return {
                _PYTHON: _duration([sys.executable, "-c", "pass"]),
                _HELP: _duration(command),
                **{_cpu_name(each): _cpu(service, each) for each in _COMMANDS},
            }

        works = [memory, start_bare, start_service, start_refunds, run_commands]
        yield Prepared(_FIGURES, works)


def _start(service: Service, role: str, count: int) -> tuple[float, float]:
    """
    Start a second server of the same stack.

    Return the seconds until it was ready, and the RSS of its largest process after
    *count* refunds.
    """
    bind = f"127.0.0.1:{free_port()}"
    environ = {**service.stack.environ, "BIND": bind, "SERVE_ROLE": role}
    module = ["api.cli", "serve"]
    with running_module(service.stack.home, "second", environ, module) as process:
        started = time.perf_counter()
        url = f"http://{bind}"
        while not is_ready(url):
            waited = time.perf_counter() - started
            if process.poll() is not None or waited > _START_SECONDS:
                raise RuntimeError("a second server did not start")
            time.sleep(0.05)  # As for the baseline.
        ready = time.perf_counter() - started
        run = service.load(clients=4, seconds=60.0, count=count, url=url)
        require_created(run)
        return ready, max(map(resident_mb, children(process.pid)))


def _duration(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _cpu_name(command: str) -> str:
    return f"hotwallet {command}: CPU time"


def _cpu(service: Service, command: str) -> float:
    """Run a command of the stack; return its CPU time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    service.stack.command(*command.split())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


_FIGURES = [
    Figure(_BARE_RSS, "MB"),
    Figure(_API_RSS, "MB", (Goal(80.0, at_most=1.0), Goal(_BARE_RSS))),
    Figure(_REFUNDS_RSS, "MB", (Goal(80.0, at_most=1.0), Goal(_BARE_RSS))),
    Figure(_WORKER_RSS, "MB", (Goal(100.0, at_most=1.0), Goal(_BARE_RSS))),
    Figure(_BARE_READY, "s"),
    Figure(_API_READY, "s", (Goal(2.5, at_most=1.0), Goal(_BARE_READY))),
    Figure(_REFUNDS_READY, "s", (Goal(2.5, at_most=1.0), Goal(_BARE_READY))),
    Figure(_PYTHON, "s"),
    Figure(_HELP, "s", (Goal(0.3, at_most=1.0), Goal(_PYTHON))),
    *(Figure(_cpu_name(each), "s", (Goal(0.5, at_most=1.0),)) for each in _COMMANDS),
]

SCENARIO = Scenario(
    "processes", "Memory and start-up", _open, rounds=5, seconds=1.0, quick_seconds=0.1
)
