"""How often the service waits for the disk per refund, counted by strace."""

import contextlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.harness import Figure, Goal, Prepared, Scenario, Values, Work
from bench.processes import children
from bench.servers import running_service
from bench.service import Service, require_created


_CALLS = "fsync,fdatasync,sync_file_range,msync"
_CALL = re.compile(rf"^(?:\d+ +)?(?:{_CALLS.replace(',', '|')})\(", re.MULTILINE)
_ATTACH_SECONDS = 10.0
_CLIENTS = 16
_SIZES = (1, 16, 128)
_ONE_BY_ONE = 8  # A single refund is repeated, since commits of others vary.


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    if shutil.which("strace") is None:
        yield Prepared([], [], ["Not counted: strace is not installed."])
        return
    with running_service(folder) as service:
        try:
            with _strace(service, folder):
                pass
        except RuntimeError as e:  # A container without the right to trace.
            yield Prepared([], [], [f"Not counted: {e}."])
            return
        sizes = _SIZES[:2] if is_quick else _SIZES
        works = [_singles(service, folder, size) for size in sizes]
        figures = [Figure(_name(1), "")]
        figures += [Figure(_name(n), "", (Goal(_name(1)),)) for n in sizes[1:]]
        works += [_batch(service, folder, size) for size in sizes]
        goals = (Goal(_name(1)),)
        figures += [Figure(_batch_name(n), "", goals) for n in sizes]
        yield Prepared(figures, works)


def _singles(service: Service, folder: Path, size: int) -> Work:
    """Offer *size* refunds at once, each in a request."""

    def work(seconds: float) -> Values:
        count = _ONE_BY_ONE if size == 1 else size
        service.settle()
        before = service.sent_count()
        with _strace(service, folder) as trace:
            clients = min(size, _CLIENTS)
            run = service.load(clients=clients, seconds=60.0, count=count)
            require_created(run)
            service.await_sent(before + count)
        return {_name(size): _count(trace) / count}

    return work


def _batch(service: Service, folder: Path, size: int) -> Work:
    """Offer *size* refunds in one request."""

    def work(seconds: float) -> Values:
        service.settle()
        before = service.sent_count()
        with _strace(service, folder) as trace:
            service.post_batch(size)
            service.await_sent(before + size)
        return {_batch_name(size): _count(trace) / size}

    return work


@contextlib.contextmanager
def _strace(service: Service, folder: Path) -> Iterator[Path]:
    """Trace the API's processes and the worker; yield the file of their calls."""
    processes = service.stack.processes
    pids = [*children(processes["serve"].pid), processes["worker"].pid]
    trace, log = folder / "trace", folder / "strace.log"
    command = ["strace", "-f", "-qq", "-e", f"trace={_CALLS}", "-o", str(trace)]
    command += [part for pid in pids for part in ("-p", str(pid))]
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stderr=errors) as process,
    ):
        _await_attached(process, pids, log)
        try:
            yield trace
        finally:
            process.send_signal(signal.SIGINT)


def _await_attached(
    process: subprocess.Popen[bytes], pids: Sequence[int], log: Path
) -> None:
    deadline = time.monotonic() + _ATTACH_SECONDS
    while not all(_tracer(pid) == process.pid for pid in pids):
        if process.poll() is not None or time.monotonic() > deadline:
            problem = log.read_text(encoding="utf-8", errors="replace").strip()
            raise RuntimeError(f"strace cannot attach to the processes: {problem}")
        time.sleep(0.02)


def _tracer(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    (found,) = re.findall(r"^TracerPid:\s*(\d+)", status, re.MULTILINE)
    return int(found)


def _count(trace: Path) -> int:
    text = trace.read_text(encoding="utf-8", errors="replace")
    return len(_CALL.findall(text))


def _name(size: int) -> str:
    return f"fsyncs per refund, {size} at once"


def _batch_name(size: int) -> str:
    return f"fsyncs per refund, batch request of {size}"


SCENARIO = Scenario(
    "fsyncs",
    "Waits for the disk, SQLite, from POST to broadcast",
    _open,
    rounds=5,
    seconds=1.0,
    quick_seconds=0.1,
)
