"""A whole worker that signs through a KMS stand-in, with a queue of refunds."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.cpu_time import cpu_seconds, find_descendant
from bench.devices import StandIn, kms_stand_in, open_kms
from bench.offered_load import calls_between
from bench.servers import running_service
from bench.service import Service
from bench.signing import OpenKey


_LARGEST_BATCH = 500
_DELAYED = "refund-delayed"


@dataclass(frozen=True, slots=True)
class Moment:
    """Counts since the start; CPU times are in seconds."""

    at: float
    counts: Mapping[str, int]
    worker_cpu: float
    chain_cpu: float

    def signed_since(self, earlier: "Moment") -> int:
        """Return how many signatures KMS has made since *earlier*."""
        return self.counts.get("signed", 0) - earlier.counts.get("signed", 0)

    def requests_since(self, earlier: "Moment") -> int:
        """Return how many requests KMS has received since *earlier*."""
        return calls_between(earlier.counts, self.counts)

    def rate_since(self, earlier: "Moment") -> float:
        """Return the signatures a second since *earlier*."""
        return self.signed_since(earlier) / (self.at - earlier.at)


class WorkerOnKMS:
    """Refunds that wait until a worker is started; see ``worker_on_kms``."""

    def __init__(self, service: Service, stand_in: StandIn) -> None:
        self.service = service
        self._stand_in = stand_in
        self._chain_pid = find_descendant("anvil")

    def post(self, count: int) -> None:
        """Post *count* refunds, in batches."""
        for done in range(0, count, _LARGEST_BATCH):
            self.service.post_batch(min(_LARGEST_BATCH, count - done))

    @contextlib.contextmanager
    def running(self) -> Iterator[int]:
        """Run the worker; yield its process id."""
        with self.service.stack.service("worker") as process:
            yield process.pid

    def look(self, pid: int) -> Moment:
        """Return the counts of now; *pid* is the worker."""
        counts = self._stand_in.counts()
        cpu = cpu_seconds(pid), cpu_seconds(self._chain_pid)
        return Moment(time.monotonic(), counts, *cpu)

    def await_signed(
        self, pid: int, start: Moment, count: int, seconds: float = 120.0
    ) -> Moment:
        """
        Return the moment when KMS has signed *count* times since *start*.

        Raises:
            TimeoutError: It has not after *seconds*.
        """
        deadline = time.monotonic() + seconds
        while (now := self.look(pid)).signed_since(start) < count:
            if now.at > deadline:
                signed = now.signed_since(start)
                raise TimeoutError(f"KMS signed {signed} of {count} times")
            time.sleep(0.02)
        return now

    def delayed_count(self) -> int:
        """Return how often the worker had to postpone a refund after an error."""
        log = self.service.stack.home / "worker.log"
        return log.read_text(encoding="utf-8", errors="replace").count(_DELAYED)


@contextlib.contextmanager
def worker_on_kms(
    folder: Path, *options: str, per_second: int = 0
) -> Iterator[WorkerOnKMS]:
    """
    Run a KMS stand-in with *options*, and a stack on SQLite whose worker has ended.

    Its workers send *per_second* requests at most; 0 is no limit.
    """
    with kms_stand_in(*options) as stand_in:
        key = OpenKey(open_kms(stand_in, 1), stand_in.key_id)
        settings = {
            **stand_in.environ(),
            "KMS_SIGNATURES_PER_SECOND": str(per_second),
        }
        with running_service(
            folder, settings=settings, address=key.signer.address
        ) as service:
            service.stop("worker")  # Without it the API would not have been ready.
            yield WorkerOnKMS(service, stand_in)
