"""Workers over counting nodes, in simulated time."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from signer.alerts import Alerts
from signer.model.refund import Refund, Status
from signer.model.worker_row import WorkerRow
from signer.ports import NO_METER
from signer.refunds.wallet_monitor import WAIT_SECONDS, WalletMonitor
from signer.refunds.worker import Worker
from tests.fixtures.chain import DevChain
from tests.fixtures.fake_node import FakeNode
from tests.support.refunds import World


BLOCK_SECONDS = 12
_ROW_SECONDS = 5


@dataclass
class Process:
    """One worker process: its passes, its row and its monitor."""

    name: str
    worker: Worker
    monitor: WalletMonitor
    look_at: float = WAIT_SECONDS


@dataclass
class Fleet:
    """Worker processes, beside a chain with a block every ``BLOCK_SECONDS``."""

    world: World
    anvil: DevChain
    nodes: Sequence[FakeNode]
    processes: list[Process] = field(default_factory=list)
    refunds: list[Refund] = field(default_factory=list)
    seconds: int = 0

    def start(self, count: int) -> None:
        """Start *count* workers."""
        for name in "abc"[:count]:
            now = self.world.clock()
            monitor = WalletMonitor(
                self.world.store,
                self.world.chains,
                Alerts(self.world.store, clock=self.world.clock),
                name=name,
                clock=self.world.clock,
                meter=NO_METER,
                timer=lambda: self.world.clock().timestamp(),
            )
            self.world.store.record_pass(WorkerRow(name, now, now))
            self.processes.append(Process(name, self.world.worker, monitor))

    def run(self, seconds: int, every: int | None = None) -> None:
        """Let that many seconds pass; accept a refund *every* so many, if given."""
        for _ in range(seconds):
            self.world.clock.now += timedelta(seconds=1)
            self.seconds += 1
            if every is not None and self.seconds % every == 0:
                self.refunds.append(self.world.accepted(amount="0.01"))
            if self.seconds % BLOCK_SECONDS == 0:
                self.anvil.rpc("anvil_mine", "0x1")
            for process in self.processes:
                self._pass(process)

    def statuses(self) -> list[Status]:
        """Return the status of each refund."""
        return self.world.statuses(self.refunds)

    def confirmed(self) -> int:
        """Return how many refunds are confirmed."""
        return self.statuses().count(Status.CONFIRMED)

    def count(self) -> Counter[str]:
        """Return the calls since the last count, of the node that got most of them."""
        counts = [Counter(each.method for each in node.requests) for node in self.nodes]
        for node in self.nodes:
            node.requests.clear()
        return max(counts, key=Counter.total)

    def _pass(self, process: Process) -> None:
        process.worker.work()
        if self.seconds % _ROW_SECONDS == 0:
            rows = {each.name: each for each in self.world.store.workers()}
            row, now = rows[process.name], self.world.clock()
            self.world.store.record_pass(WorkerRow(row.name, row.started_at, now))
        if self.seconds >= process.look_at:
            process.look_at = self.seconds + process.monitor.look()
