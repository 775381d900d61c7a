"""One schedule: a seed is all that it takes, and all that it depends on."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any

from tests.simulation.administrator import Administrator
from tests.simulation.chain import CONFIRMATIONS, DEEPEST, GWEI, SimulatedChain
from tests.simulation.clients import Clients, Job, customer, drawn
from tests.simulation.evidence import Evidence, gathered, is_settled, last_look
from tests.simulation.faults import Faults
from tests.simulation.hub import Hub, Process
from tests.simulation.invariants import violations
from tests.simulation.ledger import Ledger
from tests.simulation.plan import Plan
from tests.simulation.system import Build, Outside, Parts, attend, serve, work
from tests.simulation.trace import Trace
from tests.simulation.wire import foreign
from tests.simulation.witness import ADDRESS, Witness
from tests.support.devices import KEY_ID
from tests.support.keys import key_at


PATIENCE = 900.0
"""After so many quiet seconds, whatever is not at its end is stuck."""

_BLOCK_SECONDS = (2.5, 6.0)
_LOOK_SECONDS = 10.0
_STEP_SECONDS = 3600.0
_FOREIGN_FEE = 200 * GWEI
_ROTATED = 0.25
_SWEPT = 0.6
_SWEEPS_ON = 90.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a schedule showed; *lines* only if they were wanted."""

    seed: int
    plan: Plan
    seconds: float
    evidence: Evidence
    violations: tuple[str, ...]
    lines: tuple[str, ...]


class Schedule:
    """Everything that happens from a seed."""

    def __init__(
        self, seed: int, ledger: Ledger, build: Build, trace: Trace, **changes: Any
    ) -> None:
        random = Random(seed)
        drawn_plan = Plan.drawn(random)
        # By a chance of its own, so that the other schedules stay what they were.
        keys = Random(f"{seed} rotates")
        turns = Plan.turns_drawn(keys, _ROTATED)
        sweeps = keys.random() < _SWEPT
        drawn_plan = replace(drawn_plan, turns=turns, sweeps=bool(turns) and sweeps)
        self.plan = replace(drawn_plan, **changes)
        self.hub = Hub(random, trace)
        self._ledger = ledger
        self._chain = SimulatedChain(random, ledger.has_recorded)
        self._faults = Faults(self.plan, random)
        self._witness = Witness()
        self._administrator = Administrator(self.hub, ledger, self._chain)
        self._outside = Outside(
            self.hub, self._chain, ledger, self._faults, self._witness, build
        )
        queues: tuple[list[Job], ...] = ([], [])
        self._clients = Clients(self.hub, drawn(self.hub, self.plan.requests), queues)
        self._processes = [
            *(
                self._process(f"api-{i}", partial(serve, queue=queue))
                for i, queue in enumerate(queues, 1)
            ),
            *(self._process(f"worker-{i}", work) for i in (1, 2)),
        ]
        if self.plan.attended:
            # Not for ever, since each sweep of coin leaves dust for the next one.
            until = self.plan.calm_at + _SWEEPS_ON if self.plan.sweeps else 0.0
            operator = partial(attend, sweeps_until=until)
            self._processes.append(self._process("operator", operator))

    def run(self) -> Evidence:
        """Let it happen, and return what there is to see afterwards."""
        self.hub.tell("plan", str(self.plan))
        self._ledger.store.enrol(key_at(ADDRESS, key_id=KEY_ID))
        self._begin()
        self.hub.run(self.plan.calm_at)
        self._calm()
        while not self._is_settled() and self.hub.now < self.plan.calm_at + PATIENCE:
            self._administrator.fund()
            self.hub.run(self.hub.now + _LOOK_SECONDS)
        for process in self._processes:
            process.kill()
        looked = last_look(self._ledger, self._chain)
        # What still waits somewhere may not be paid later, either.
        for _ in range(2 * CONFIRMATIONS):
            self._chain.mint()
        return gathered(
            self.plan,
            self._ledger,
            self._chain,
            self._clients,
            self._witness,
            looked,
        )

    def _begin(self) -> None:
        for process in self._processes:
            process.skew = self.hub.random.uniform(-2, 2)
            self.hub.after(self.hub.random.uniform(0, 5), process.start)
        self._clients.begin()
        self._mint()
        for is_planned, misfortune in (
            (self.plan.steps_clocks, self._step_clock),
            (self.plan.steps_clocks, self._step_clock),
            *((True, self._block_customer) for _ in range(self.plan.blocked)),
            (self.plan.has_foreign, self._use_key),
            (self.plan.is_restored, self._back_up),
        ):
            if is_planned:
                self._sometime(misfortune)
        left = self.plan.calm_at - self.hub.now
        moments = sorted(self.hub.random.uniform(0, left) for _ in self.plan.turns)
        for moment, turn in zip(moments, self.plan.turns, strict=True):
            self.hub.after(moment, partial(self._administrator.take, turn))

    def _sometime(self, misfortune: Callable[[], None]) -> None:
        left = self.plan.calm_at - self.hub.now
        self.hub.after(self.hub.random.uniform(0, left), misfortune)

    def _calm(self) -> None:
        self.hub.tell("hub", "all is calm from now on")
        self._faults.calm = self._chain.calm = True
        if self.hub.random.random() < 0.5:
            for process in self._processes:
                process.skew = 0.0

    def _is_settled(self) -> bool:
        return self._clients.is_done() and is_settled(
            self._ledger, self._chain, self.plan
        )

    def _mint(self) -> None:
        chance = self.hub.random.random
        if not self._chain.calm:
            if chance() < self.plan.drop:
                self._chain.drop()
                self.hub.tell("chain", "a node forgets its pool")
            if chance() < self.plan.soar:
                self._chain.soar()
                self.hub.tell("chain", "the base fee soars")
        if not self._chain.calm and chance() < self.plan.reorg:
            self._chain.reorganise(self.hub.random.randint(1, DEEPEST))
            self.hub.tell("chain", f"is reorganised: {self._chain}")
        else:
            self._chain.mint()
            self.hub.tell("chain", f"has a block: {self._chain}")
        self.hub.after(self.hub.random.uniform(*_BLOCK_SECONDS), self._mint)

    def _step_clock(self) -> None:
        process = self.hub.random.choice(self._processes)
        process.skew = self.hub.random.uniform(-_STEP_SECONDS, _STEP_SECONDS)
        self.hub.tell(process.name, f"has a clock that is {process.skew:+.0f} s off")

    def _block_customer(self) -> None:
        ask = self.hub.random.choice(self._clients.asks)
        self._chain.blocklist.add(customer(ask.reference))
        self.hub.tell("token", f"blocks whoever is to get {ask.reference}")

    def _use_key(self) -> None:
        ring = self._ledger.store.keys()
        address = self.hub.random.choice([key.address for key in ring])
        nonces = (self._chain.count(address), self._chain.pending(address))
        wire = foreign(address, self.hub.random.choice(nonces), _FOREIGN_FEE)
        self._chain.intrude(wire)
        self.hub.tell("stranger", f"uses {address[:6]} nonce {wire.nonce}")

    def _back_up(self) -> None:
        backup, deeds = self._ledger.copy(), self._administrator.deeds
        self.hub.tell("backup", "is made")

        def restore() -> None:
            for process in self._processes:
                process.kill()
            if not self.plan.hides_sent:
                self._chain.keep()
            self._ledger.put_back(backup)
            backup.close()
            self._administrator.repeat(deeds)
            self._witness.forget()
            self._clients.forget()
            self.hub.tell("backup", "is put back")

        self._sometime(restore)

    def _process(self, name: str, main: Callable[[Parts, Process], None]) -> Process:
        return Process(
            self.hub, name, lambda process: main(Parts(self._outside, process), process)
        )


def played(
    seed: int,
    ledger: Ledger,
    build: Build | None = None,
    *,
    traced: bool = False,
    **changes: Any,
) -> Outcome:
    """
    Play the schedule of *seed* on *ledger*, which is blanked before.

    *changes* are to its plan.
    """
    ledger.blank()
    trace = Trace(wanted=traced)
    schedule = Schedule(seed, ledger, build or Build(), trace, **changes)
    with trace.logs(schedule.hub):
        evidence = schedule.run()
    broken = (*schedule.hub.broken, *violations(evidence))
    return Outcome(
        seed, schedule.plan, schedule.hub.now, evidence, broken, tuple(trace.lines)
    )
