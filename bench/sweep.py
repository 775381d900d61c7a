"""The same load on different numbers of processes and threads."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.cpu_time import cpu_seconds, find_descendant
from bench.harness import Figure, Goal, Values, Work
from bench.service import LoadRun, Service, require_created
from dev.ports import free_port
from dev.stack import await_start, is_ready, running_module


_CLIENTS = (16, 64)
_FIRST = 32

API, WORKER, CHAIN, DATABASE = "API", "worker", "chain", "PostgreSQL"
_COMMANDS = {CHAIN: "anvil", DATABASE: "postgres"}


@dataclass(frozen=True, slots=True)
class Size:
    """How many processes and threads serve and pay."""

    processes: int = 2
    threads: int = 16
    workers: int = 1

    @property
    def name(self) -> str:
        """The size in words."""
        plural = "es" * (self.processes > 1), "s" * (self.workers > 1)
        return (
            f"{self.processes} API process{plural[0]} of {self.threads} threads,"
            f" {self.workers} worker{plural[1]}"
        )


USUAL = Size()
SIZES = (
    USUAL,
    *(Size(threads=threads) for threads in (4, 8, 32)),
    *(Size(processes=processes) for processes in (1, 4)),
    Size(workers=2),
)


def cpu_name(part: str) -> str:
    """Return the name of the figure: CPU time of *part* per refund, in ms."""
    return f"CPU time per refund: {part}"


def sweep_figures(sizes: Sequence[Size], parts: Sequence[str]) -> list[Figure]:
    """Return the figures of *sizes*, and the CPU time of *parts* at the first size."""
    figures = [
        Figure(
            rate_name(size, clients),
            "/s",
            () if size == sizes[0] else (Goal(rate_name(sizes[0], clients)),),
        )
        for clients in _CLIENTS
        for size in sizes
    ]
    figures += [Figure(_hashes(size), "%") for size in sizes]
    return figures + [Figure(cpu_name(part), "ms") for part in parts]


def sweep_works(
    service: Service, sizes: Sequence[Size], parts: Sequence[str]
) -> Iterator[Work]:
    """Yield the work of each size; *parts* are measured at the first one."""
    for size in sizes:
        yield _work(service, size, parts if size == sizes[0] else ())


def _work(service: Service, size: Size, parts: Sequence[str]) -> Work:
    def work(seconds: float) -> Values:
        with _running(service, size) as pids:
            for part in _COMMANDS.keys() & set(parts):
                pids[part] = [find_descendant(_COMMANDS[part])]
            start = _cpu(pids, parts)
            # A new process opens its database and its connections.
            _load(service, _CLIENTS[0], 30.0, count=_FIRST)
            rates = {n: _load(service, n, seconds) for n in _CLIENTS}
            service.settle()
            end = _cpu(pids, parts)
        runs = [run for run, _ in rates.values()]
        count = _FIRST + sum(len(run.samples) for run in runs)
        answered = [sample.has_hash for sample in runs[-1].samples]
        return {
            **{rate_name(size, n): rate for n, (_, rate) in rates.items()},
            _hashes(size): 100 * sum(answered) / len(answered),
            **{
                cpu_name(part): 1000 * (end[part] - start[part]) / count
                for part in parts
            },
        }

    return work


def _load(
    service: Service, clients: int, seconds: float, count: int | None = None
) -> tuple[LoadRun, float]:
    """Return the run, and its refunds a second to the broadcast."""
    before = service.sent_count()
    run = service.load(clients=clients, seconds=seconds, count=count)
    answered_at = time.perf_counter()
    require_created(run)
    service.await_sent(before + len(run.samples))
    return run, len(run.samples) / (run.seconds + time.perf_counter() - answered_at)


@contextlib.contextmanager
def _running(service: Service, size: Size) -> Iterator[dict[str, list[int]]]:
    """Run processes of *size* on the stack; yield the process ids by part."""
    stack, bind = service.stack, f"127.0.0.1:{free_port()}"
    environ = {
        **stack.environ,
        "BIND": bind,
        "SERVE_ROLE": "refunds",
        "WEB_CONCURRENCY": str(size.processes),
        "WEB_THREADS": str(size.threads),
    }
    stack.url = f"http://{bind}"
    with contextlib.ExitStack() as cleanup:
        serve = running_module(stack.home, "sized", environ, ["api.cli", "serve"])
        api = cleanup.enter_context(serve)
        workers = [
            cleanup.enter_context(stack.service("worker", log=f"sized-worker-{number}"))
            for number in range(size.workers)
        ]
        await_start(api, stack.home / "sized.log", lambda: is_ready(stack.url))
        yield {API: [api.pid], WORKER: [worker.pid for worker in workers]}


def _cpu(
    pids: Mapping[str, Sequence[int]], parts: Sequence[str]
) -> Mapping[str, float]:
    return {part: sum(map(cpu_seconds, pids[part])) for part in parts}


def rate_name(size: Size, clients: int) -> str:
    """Return the name of the figure: refunds a second of *clients*."""
    return f"{clients} clients: {size.name}"


def _hashes(size: Size) -> str:
    return f"64 clients, answers that have the hash: {size.name}"
