"""Workers over counting nodes, in simulated time."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.crypto import keccak
from hexbytes import HexBytes

from signer.alerts import Alerts
from signer.model.refund import Refund, Status
from signer.ports.meter import NO_METER
from signer.refunds.wallet_monitor import WAIT_SECONDS, WalletMonitor
from signer.refunds.worker import Worker
from signer.refunds.worker_monitor import Heartbeat
from tests.fixtures.chain import DevChain
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Computed
from tests.support.refunds import World


BLOCK_SECONDS = 12
_PASS_SECONDS = 4
_BUSY_PASS_SECONDS = 2
"""Enough passes to exceed the bounds if a worker asks in each of them."""


@dataclass
class Process:
    """One worker process: its passes, its row and its monitor."""

    worker: Worker
    heartbeat: Heartbeat
    monitor: WalletMonitor
    look_at: float = WAIT_SECONDS


@dataclass
class Fleet:
    """Worker processes, beside a chain with a block every *block_seconds*."""

    world: World
    chain: DevChain
    nodes: Sequence[FakeNode]
    block_seconds: float = BLOCK_SECONDS
    processes: list[Process] = field(default_factory=list)
    refunds: list[Refund] = field(default_factory=list)
    seconds: int = 0
    _blocks: int = 0

    def start(self, count: int) -> None:
        """Start *count* workers."""
        world = self.world
        for name in "abc"[:count]:
            heartbeat = Heartbeat(world.store, world.clock, timer=self._timer)
            heartbeat.name = name
            monitor = WalletMonitor(
                world.store,
                world.chains,
                Alerts(world.store, clock=world.clock),
                name=name,
                clock=world.clock,
                meter=NO_METER,
                timer=self._timer,
            )
            heartbeat()
            self.processes.append(Process(world.worker, heartbeat, monitor))

    def run(
        self, seconds: int, every: int | None = None, step: int | None = None
    ) -> None:
        """
        Let that many seconds pass; accept a refund *every* so many, if given.

        Each worker makes a pass every *step* seconds.
        """
        step = step or (_PASS_SECONDS if every is None else _BUSY_PASS_SECONDS)
        for _ in range(0, seconds, step):
            self.world.clock.now += timedelta(seconds=step)
            self.seconds += step
            if every is not None and self.seconds % every == 0:
                self.refunds.append(self.world.accepted(amount="0.01"))
            due = int(self.seconds // self.block_seconds) - self._blocks
            if due:
                self.chain.mine(due)
                self._blocks += due
            for process in self.processes:
                self._pass(process)

    def accept(self, count: int) -> None:
        """Accept *count* refunds at once."""
        self.refunds += [self.world.accepted(amount="0.01") for _ in range(count)]

    def head(self) -> int:
        """Return the height of the newest block."""
        return int(self.chain.rpc("eth_blockNumber"), 16)

    def transactions_in(self, number: int) -> int:
        """Return how many transactions the block has."""
        block = self.chain.rpc("eth_getBlockByNumber", hex(number), False)
        return len(block["transactions"])

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

    def _timer(self) -> float:
        return self.world.clock().timestamp()

    def _pass(self, process: Process) -> None:
        process.worker.work()
        process.heartbeat()
        if self.seconds >= process.look_at:
            process.look_at = self.seconds + process.monitor.look()


class SmallPool:
    """
    The pool of a node that keeps so many transactions of an address, and drops others.

    geth accepts a transaction, and drops it when its pool is full: of an address with
    more than 16, those with the highest nonces.
    """

    def __init__(self, anvil: DevChain, node: FakeNode, slots: int) -> None:
        self._anvil = anvil
        self._slots = slots
        self.sent: Counter[str] = Counter()
        node.script("eth_sendRawTransaction", Computed(self._send))

    def _send(self, params: list[Any]) -> str:
        raw = HexBytes(params[0])
        tx_hash = f"0x{keccak(raw).hex()}"
        self.sent[tx_hash] += 1
        sender = Account.recover_transaction(raw)
        used = int(self._anvil.rpc("eth_getTransactionCount", sender, "latest"), 16)
        nonce = TypedTransaction.from_bytes(raw).as_dict()["nonce"]
        if used <= nonce < used + self._slots:
            with suppress(Exception):  # It has it already.
                self._anvil.rpc("eth_sendRawTransaction", params[0])
        return tx_hash
