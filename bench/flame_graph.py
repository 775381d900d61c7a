"""
Where the time goes: ``make flame-graph``.

py-spy samples the worker and the API processes while 16 clients post refunds on SQLite,
and a worker that signs through a distant KMS.  The flame graphs and the tables of
``docs/explanation/performance.md`` are made of the samples.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.documents import FLAMES, PERFORMANCE, update_page
from bench.flame_stages import (
    API,
    KMS_WORKER,
    REST,
    WORKER,
    Process,
    Stack,
    find_stage,
    read_samples,
)
from bench.flame_svg import draw_flames
from bench.kms_worker import worker_on_kms
from bench.machine import describe_moment
from bench.processes import children
from bench.results import FOLDER
from bench.servers import running_service
from bench.service import require_created
from bench.table import plain_table


_CLIENTS = 16
_LARGE = 0.05
"""The share from which on a stage has a row of its own."""
_PER_SECOND = 100
_WARM_UP_SECONDS = 2.0
_SLACK_SECONDS = 5.0  # py-spy starts after the load, and ends before it.

# More than a worker signs: its queue must not become empty.
_QUEUE_PER_SECOND = 600
_KMS_SECONDS = 10
_KMS_WARM_UP = 200  # Refunds, in which batches and concurrency grow.


def main() -> int:
    """Record, draw, and update the page."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.flame_graph", description=__doc__
    )
    parser.add_argument("--seconds", type=int, default=30, help="of sampling")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    moment = describe_moment()
    parts = [
        f"{moment['at'][:10]}, commit {moment['commit']}, load {moment['load']}.",
    ]
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        for samples, sentence in (
            _record_service(folder, options.seconds),
            _record_kms(folder, min(options.seconds, _KMS_SECONDS)),
        ):
            for process, stacks in samples.items():
                parts += _describe(process, stacks, sentence)
    update_page(PERFORMANCE, FLAMES, "\n\n".join(parts) + "\n")
    return 0


Samples = Mapping[Process, Counter[Stack]]


def _record_service(folder: Path, seconds: int) -> tuple[Samples, str]:
    """Return the samples of the service under load, and what the load was."""
    with running_service(folder / "stack") as service:
        service.load(clients=_CLIENTS, seconds=_WARM_UP_SECONDS)
        processes = service.stack.processes
        pids = {
            WORKER: [processes["worker"].pid],
            API: children(processes["serve"].pid),
        }
        samplers = [
            (process, _Sampler(pid, folder, seconds))
            for process, found in pids.items()
            for pid in found
        ]
        run = service.load(clients=_CLIENTS, seconds=seconds + _SLACK_SECONDS)
        require_created(run)
        samples: dict[Process, Counter[Stack]] = {WORKER: Counter(), API: Counter()}
        for process, sampler in samplers:
            samples[process].update(read_samples(sampler.finish()))
    rate = len(run.samples) / run.seconds
    return samples, f"{seconds} s at {rate:.0f} refunds a second."


def _record_kms(folder: Path, seconds: int) -> tuple[Samples, str]:
    """Return the samples of a worker's main thread beside a queue."""
    with worker_on_kms(folder / "kms", "--latency", "20") as worker:
        worker.post(_KMS_WARM_UP + _QUEUE_PER_SECOND * seconds)
        with worker.running() as pid:
            started = worker.look(pid)
            warm = worker.await_signed(pid, started, _KMS_WARM_UP)
            raw = _Sampler(pid, folder, seconds, "--idle").finish()
            rate = worker.look(pid).rate_since(warm)
    samples = read_samples(raw, thread="Worker.run ")
    return {KMS_WORKER: samples}, f"{seconds} s at {rate:.0f} signatures a second."


class _Sampler:
    """A running py-spy."""

    def __init__(self, pid: int, folder: Path, seconds: int, *options: str) -> None:
        tool = shutil.which("py-spy", path=str(Path(sys.executable).parent))
        self._path = folder / f"{pid}.raw"
        command = [tool or "py-spy", "record", "--pid", str(pid), *options]
        command += ["--format", "raw", "--function", "--rate", str(_PER_SECOND)]
        self._process = subprocess.Popen(
            [*command, "--duration", str(seconds), "--output", str(self._path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self) -> str:
        """
        Wait for the end, and return what was recorded.

        Raises:
            RuntimeError: py-spy failed, for example without the right to trace.
        """
        output, _ = self._process.communicate()
        if self._process.returncode != 0:
            raise RuntimeError(f"py-spy failed:\n{output}")
        return self._path.read_text(encoding="utf-8")


def _describe(
    process: Process, stacks: Mapping[Stack, int], sentence: str
) -> Iterator[str]:
    """Draw the graph of *process*; yield the parts of its section."""
    file = f"flames-{process.name}.svg"
    (FOLDER / file).write_text(draw_flames(stacks, process.title), encoding="utf-8")
    shares: Counter[str] = Counter()
    for stack, count in stacks.items():
        shares[find_stage(process, stack)] += count
    total = max(1, shares.total())
    yield f"#### {process.title}"
    yield sentence
    large = {
        name: count
        for name, count in shares.most_common()
        if count >= _LARGE * total and name != REST
    }
    large[REST] = total - sum(large.values())
    yield plain_table(
        [
            {"stage": name, "share": f"{100 * count / total:.0f} %"}
            for name, count in large.items()
        ]
    ).strip()
    yield f"![{process.title}]({FOLDER.name}/{file})"


if __name__ == "__main__":
    sys.exit(main())
