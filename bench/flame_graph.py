"""
Where the processor's time goes: ``make flame-graph``.

py-spy samples the worker and the API processes while 16 clients post refunds on SQLite.
The flame graphs and the tables of ``docs/explanation/performance.md`` are made of it.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.documents import FLAMES, PERFORMANCE, update_page
from bench.flame_svg import draw_flames
from bench.machine import describe_moment
from bench.processes import children
from bench.results import FOLDER
from bench.servers import running_service
from bench.service import Service, require_created


Stack = tuple[str, ...]
"""Functions with their files, the outermost first."""

_CLIENTS = 16
_PER_SECOND = 100
_WARM_UP_SECONDS = 2.0
_SLACK_SECONDS = 5.0  # py-spy starts after the load, and ends before it.

# A thread that has just been woken is still in one of these.
_WAITS = ("wait", "select", "poll", "_worker", "accept")

REST = "the rest"


@dataclass(frozen=True, slots=True)
class Process:
    """
    A kind of process, and its *stages*: names, and texts of frames.

    A sample belongs to the first stage that has a text in one of its frames.
    """

    name: str
    title: str
    stages: tuple[tuple[str, str], ...]


WORKER = Process(
    "worker",
    "The worker",
    (
        ("audit log: sequence numbers and hash chain", "Sealer.run"),
        ("device, checks and audit records of signatures", "build_and_sign"),
        ("transaction: nonces and intents", ".reserve_all"),
        ("transactions: bytes, outcomes, broadcasts, receipts", ".save_all"),
        ("JSON-RPC: estimates, fees, broadcasts, receipts", "backends/json_rpc/"),
        ("other statements: claims, counters, wallets", "backends/sql/"),
    ),
)
API = Process(
    "api",
    "An API process",
    (
        ("audit log: sequence numbers and hash chain", "Sealer.run"),
        ("token, signature and tenant of the request", "api/auth/"),
        ("transaction: refunds, answers and audit records", "RefundTables.accept"),
        ("waiting for the worker's broadcast", "RefundWaits."),
        ("other statements", "backends/sql/"),
        ("checks of the refund, MAC", "RefundAcceptor."),
        ("log lines", "structlog/"),
        ("HTTP: Falcon and our handlers", "falcon/app.py"),
        ("HTTP: gunicorn", "gunicorn/"),
    ),
)


def main() -> int:
    """Record, draw, and update the page."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.flame_graph", description=__doc__
    )
    parser.add_argument("--seconds", type=int, default=30, help="of sampling")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    moment = describe_moment()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        samples, rate = _record(Path(folder), options.seconds)
    sentence = (
        f"{options.seconds} s, {rate:.0f} refunds a second, {moment['at'][:10]},"
        f" commit {moment['commit']}, load {moment['load']}."
    )
    parts = [sentence]
    for process, stacks in samples.items():
        file = f"flames-{process.name}.svg"
        (FOLDER / file).write_text(draw_flames(stacks, process.title), encoding="utf-8")
        parts += [
            f"#### {process.title}",
            _table(process, stacks),
            f"![{process.title}]({FOLDER.name}/{file})",
        ]
    update_page(PERFORMANCE, FLAMES, "\n\n".join(parts) + "\n")
    return 0


def _record(
    folder: Path, seconds: int
) -> tuple[Mapping[Process, Counter[Stack]], float]:
    """Return the samples of each kind of process, and the refunds a second."""
    with running_service(folder / "stack") as service:
        service.load(clients=_CLIENTS, seconds=_WARM_UP_SECONDS)
        processes = service.stack.processes
        pids = {
            WORKER: [processes["worker"].pid],
            API: children(processes["serve"].pid),
        }
        recordings = [
            (process, folder / f"{pid}.raw", pid)
            for process, found in pids.items()
            for pid in found
        ]
        running = [_sampler(pid, path, seconds) for _, path, pid in recordings]
        rate = _load(service, seconds)
        for sampler in running:
            output, _ = sampler.communicate()
            if sampler.returncode != 0:
                raise RuntimeError(f"py-spy failed:\n{output}")
        samples: dict[Process, Counter[Stack]] = {WORKER: Counter(), API: Counter()}
        for process, path, _ in recordings:
            samples[process].update(read_samples(path.read_text(encoding="utf-8")))
        return samples, rate


def _sampler(pid: int, path: Path, seconds: int) -> subprocess.Popen[str]:
    tool = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or "py-spy"
    command = [tool, "record", "--pid", str(pid), "--output", str(path)]
    command += ["--format", "raw", "--function", "--rate", str(_PER_SECOND)]
    return subprocess.Popen(
        [*command, "--duration", str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _load(service: Service, seconds: int) -> float:
    run = service.load(clients=_CLIENTS, seconds=seconds + _SLACK_SECONDS)
    require_created(run)
    return len(run.samples) / run.seconds


def read_samples(raw: str) -> Counter[Stack]:
    """
    Return the samples of py-spy's "raw" format, without those that only wait.

    Frames of interpreter, command line and threads, which begin every stack, are left
    out, as are line numbers.
    """
    samples: Counter[Stack] = Counter()
    for line in raw.splitlines():
        text, _, count = line.rpartition(" ")
        stack = tuple(frame.rpartition(":")[0] or frame for frame in text.split(";"))
        stack = tuple(f"{frame})" if "(" in frame else frame for frame in stack)
        if _function(stack[-1]) not in _WAITS:
            samples[tuple(_without_start(stack))] += int(count)
    return samples


def _function(frame: str) -> str:
    return frame.partition(" (")[0].rpartition(".")[2]


_START = ("<frozen", "threading.py", "concurrent/futures/", "click/", "api/cli/")


def _without_start(stack: Stack) -> Iterator[str]:
    has_begun = False
    for frame in stack:
        has_begun = has_begun or not any(text in frame for text in _START)
        if has_begun:
            yield frame


def find_stage(process: Process, stack: Stack) -> str:
    """Return the stage of *process* that a sample belongs to."""
    for name, text in process.stages:
        if any(text in frame for frame in stack):
            return name
    return REST


def _table(process: Process, stacks: Mapping[Stack, int]) -> str:
    shares: Counter[str] = Counter()
    for stack, count in stacks.items():
        shares[find_stage(process, stack)] += count
    total = max(1, shares.total())
    rows: Iterable[tuple[str, int]] = shares.most_common()
    lines = ["| stage | share of the samples |", "| --- | --- |"]
    lines += [f"| {name} | {100 * count / total:.0f} % |" for name, count in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
