"""One schedule of processes, clients, chain and faults, determined by its seed."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any

from signer.model.audit_record import Record
from tests.fixtures.scripted_vault import ScriptedVault
from tests.simulation.balances import INITIAL
from tests.simulation.chain import CONFIRMATIONS, DEEPEST, GWEI, SimulatedChain
from tests.simulation.clients import Clients, Job, customer, draw_orders
from tests.simulation.evidence import (
    Evidence,
    find_stuck,
    gather,
    is_settled,
    read_chain,
)
from tests.simulation.faults import Faults
from tests.simulation.invariants import violations
from tests.simulation.key_admin import KeyAdmin
from tests.simulation.ledger import Ledger
from tests.simulation.observer import ADDRESS, ADDRESSES, Observer
from tests.simulation.plan import Plan
from tests.simulation.processes import (
    Build,
    Components,
    Environment,
    attend,
    serve,
    work,
)
from tests.simulation.restore import Facts, Restore, find_marks
from tests.simulation.scheduler import EPOCH, Process, Scheduler
from tests.simulation.trace import Trace
from tests.simulation.transaction import TOKEN, VAULT, foreign
from tests.support.conformance.check import check_conformance
from tests.support.devices import KEY_ID
from tests.support.keys import key_at


SETTLE_SECONDS = 900.0
"""The most simulated seconds without faults until every refund is final."""

_BLOCK_SECONDS = (2.5, 6.0)
_LOOK_SECONDS = 10.0
_STEP_SECONDS = 3600.0
_FOREIGN_FEE = 200 * GWEI
_PARTS = (1, 2, 64)
_ROTATED = 0.25
_SWEPT = 0.6
_SWEEPS_ON = 90.0
_STUCK_SECONDS = 300.0
_REVEALED_AFTER = (5.0, 120.0)
_RESIGNED = (5.0, 60.0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a schedule; *lines* are its trace, if wanted."""

    seed: int
    plan: Plan
    seconds: float
    evidence: Evidence
    violations: tuple[str, ...]
    lines: tuple[str, ...]


class Schedule:
    """Everything that happens in one schedule."""

    def __init__(
        self, seed: int, ledger: Ledger, build: Build, trace: Trace, **changes: Any
    ) -> None:
        self._random = random = Random(seed)
        plan = Plan.draw(random)
        # A separate generator, so that it changes nothing else of a seed.
        keys = Random(f"{seed} rotates")
        turns = Plan.draw_turns(keys, _ROTATED)
        sweeps = keys.random() < _SWEPT
        plan = replace(plan, turns=turns, sweeps=bool(turns) and sweeps)
        window = Plan.draw_window(Random(f"{seed} waits"))
        part = Random(f"{seed} parts").choice(_PARTS)
        plan = replace(plan, window=window, part=part)
        if changes.pop("has_vault", False):
            drawn = Plan.draw_vault(Random(f"{seed} batches"))
            plan = replace(plan, is_restored=False, **drawn)
        plan = replace(plan, **changes)
        self._restores = restores = Random(f"{seed} restores")
        if plan.is_restored:
            plan = replace(plan, **{**Plan.draw_restore(restores), **changes})
        self.plan = plan
        self._restore: Restore | None = None
        self._restorer: Process | None = None
        self.scheduler = Scheduler(random, trace)
        self._ledger = ledger
        ledger.clock = self.scheduler.clock
        self._chain = SimulatedChain(
            random,
            ledger.has_recorded,
            self.plan.window,
            _build_vault(self.plan) if self.plan.per_batch else None,
        )
        self._faults = Faults(self.plan, random)
        self._observer = Observer(build.loses)
        self._key_admin = KeyAdmin(
            self.scheduler, ledger, self._chain, self._observer.write
        )
        bounds: dict[str, Any] = {"max_in_flight": self.plan.window or 0}
        if self.plan.per_batch:
            bounds |= {"vault": VAULT, "max_batch": self.plan.per_batch}
        bounded = build.network.model_copy(update=bounds)
        tracker = partial(build.tracker, part=self.plan.part)
        build = replace(build, network=bounded, tracker=tracker)
        self._environment = Environment(
            self.scheduler, self._chain, ledger, self._faults, self._observer, build
        )
        queues: tuple[list[Job], ...] = ([], [])
        self._clients = Clients(
            self.scheduler, draw_orders(self.scheduler, self.plan.requests), queues
        )
        self._processes = [
            *(
                self._process(f"api-{i}", partial(serve, queue=queue))
                for i, queue in enumerate(queues, 1)
            ),
            *(self._process(f"worker-{i}", work) for i in (1, 2)),
        ]
        if self.plan.attended:
            # Not forever, since each sweep of coin leaves a little for the next one.
            until = self.plan.calm_at + _SWEEPS_ON if self.plan.sweeps else 0.0
            operator = partial(attend, sweeps_until=until)
            self._processes.append(self._process("operator", operator))

    def run(self) -> Evidence:
        """Run it, and return the evidence."""
        self.scheduler.log("plan", str(self.plan))
        self._ledger.store.enrol(key_at(ADDRESS, key_id=KEY_ID))
        self._begin()
        self.scheduler.run(self.plan.calm_at)
        self._calm()
        while (
            not self._is_settled()
            and self.scheduler.now < self.plan.calm_at + SETTLE_SECONDS
        ):
            self._key_admin.fund()
            self.scheduler.run(self.scheduler.now + _LOOK_SECONDS)
        for process in self._processes:
            process.kill()
        if self._restorer is not None:
            self._restorer.shut_down()
        at_end = read_chain(self._ledger, self._chain)
        # Transactions that still wait in a pool may be mined after the end.
        for _ in range(2 * CONFIRMATIONS):
            self._chain.mine()
        return gather(
            self.plan, self._ledger, self._chain, self._clients, self._observer, at_end
        )

    def _begin(self) -> None:
        for process in self._processes:
            process.skew = self._random.uniform(-2, 2)
            self.scheduler.after(self._random.uniform(0, 5), process.start)
        self._clients.begin()
        self._mine()
        for is_planned, event in (
            (self.plan.steps_clocks, self._step_clock),
            (self.plan.steps_clocks, self._step_clock),
            *((True, self._block_customer) for _ in range(self.plan.blocked)),
            (self.plan.has_foreign, self._use_key),
            (self.plan.is_restored, self._back_up),
            (self.plan.resigns, self._resign),
        ):
            if is_planned:
                self._schedule(event)
        left = self.plan.calm_at - self.scheduler.now
        moments = sorted(self._random.uniform(0, left) for _ in self.plan.turns)
        for moment, turn in zip(moments, self.plan.turns, strict=True):
            self.scheduler.after(moment, partial(self._turn, turn))

    def _turn(self, turn: str) -> None:
        if self._restore is None or self._restore.is_done:
            self._key_admin.act(turn)
        else:  # No keys are changed during a restore.
            self.scheduler.after(_LOOK_SECONDS, partial(self._turn, turn))

    def _schedule(self, event: Callable[[], None]) -> None:
        left = self.plan.calm_at - self.scheduler.now
        self.scheduler.after(self._random.uniform(0, left), event)

    def _calm(self) -> None:
        self.scheduler.log("scheduler", "no more faults")
        self._faults.calm = self._chain.calm = True
        if self._chain.vault is not None:
            self._chain.begin_day()
            self._chain.vault.per_day = INITIAL["token"]
            self.scheduler.log("vault", "has another day")
        if self._random.random() < 0.5:
            for process in self._processes:
                process.skew = 0.0

    def _is_settled(self) -> bool:
        is_restoring = self._restore is not None and not self._restore.is_done
        if find_stuck(self._ledger, self._chain, self.plan):
            return self.scheduler.now > self.plan.calm_at + _STUCK_SECONDS
        return (
            not is_restoring
            and self._clients.is_done()
            and is_settled(self._ledger, self._chain, self.plan)
        )

    def _mine(self) -> None:
        chance = self._random.random
        if not self._chain.calm:
            if chance() < self.plan.drop:
                self._chain.drop()
                self.scheduler.log("chain", "a node empties its pool")
            if chance() < self.plan.spike_fee:
                self._chain.spike_fee()
                self.scheduler.log("chain", "the base fee spikes")
        if not self._chain.calm and chance() < self.plan.reorg:
            self._chain.reorganise(self._random.randint(1, DEEPEST))
            self._log_chain("is reorganised")
        else:
            self._chain.mine()
            self._log_chain("has a block")
        self.scheduler.after(self._random.uniform(*_BLOCK_SECONDS), self._mine)

    def _log_chain(self, event: str) -> None:
        if self.scheduler.trace.wanted:
            self.scheduler.log("chain", f"{event}: {self._chain}")

    def _step_clock(self) -> None:
        process = self._random.choice(self._processes)
        process.skew = self._random.uniform(-_STEP_SECONDS, _STEP_SECONDS)
        self.scheduler.log(
            process.name, f"has a clock that is {process.skew:+.0f} s off"
        )

    def _block_customer(self) -> None:
        order = self._random.choice(self._clients.orders)
        self._chain.blocklist.add(customer(order.reference))
        self.scheduler.log("token", f"blocks the recipient of {order.reference}")

    def _use_key(self) -> None:
        ring = self._ledger.store.keys()
        address = self._random.choice([key.address for key in ring])
        nonces = (self._chain.count(address), self._chain.pending(address))
        tx = foreign(address, self._random.choice(nonces), _FOREIGN_FEE)
        self._chain.inject_foreign(tx)
        self.scheduler.log("foreign", f"uses {address[:6]} nonce {tx.nonce}")

    def _resign(self) -> None:
        assert self._chain.vault is not None
        operators = self._chain.vault.operators
        operators.clear()
        self.scheduler.log("vault", "has no operator")
        seconds = self._random.uniform(*_RESIGNED)
        self.scheduler.after(seconds, partial(operators.update, ADDRESSES))

    def _back_up(self) -> None:
        backup, actions = self._ledger.copy(), self._key_admin.actions
        self.scheduler.log("backup", "is made")

        def restore() -> None:
            for process in self._processes:
                process.shut_down()
            self._note_loss()
            marks = find_marks(self._ledger, self._chain)
            self._ledger.restore(backup)
            self.scheduler.log("backup", "is put back")
            if self.plan.hides:
                self._chain.hide(self._ledger.has_nonce, self._restores)
                for _ in range(2):
                    self.scheduler.after(
                        self._restores.uniform(*_REVEALED_AFTER), self._reveal
                    )
            has_log = self.plan.has_log
            log = self._observer.log() if has_log else None
            if not self.plan.repeats_keys:
                self._key_admin.repeat(actions, has_log=has_log)
            if log is None or self._observer.unlogged:
                self._observer.forget()
            self._restore = Restore(
                Facts(log, marks, self.plan.mark_error), self._end_restore
            )
            if self.plan.runs_restore:
                work = partial(self._restore.run, self._environment)
                self._restorer = self._process("restorer", work)
                self._restorer.boot()
            else:
                self._end_restore()

        self._schedule(restore)

    def _end_restore(self) -> None:
        self.scheduler.log("restorer", "is done")
        self._key_admin.fund()
        kept = {id_ for (id_,) in self._ledger.select("SELECT id FROM refunds")}
        self._clients.hear_of_restore(kept, asks_again=self.plan.asks_again)
        for process in self._processes:
            process.boot()

    def _note_loss(self) -> None:
        """Note the refunds of which the log misses a record that was committed."""
        audit = self._ledger.select("SELECT id, body FROM audit_records")
        for id_, body in audit:
            if id_ not in self._observer.lines:
                fields = Record(id_, body).fields
                of_refund = fields.get("refund_id") or fields["details"].get(
                    "refund_id"
                )
                self._observer.unlogged.add(of_refund)

    def _reveal(self) -> None:
        self._chain.reveal(self._restores)
        self._log_chain("has transactions again")

    def _process(
        self, name: str, main: Callable[[Components, Process], None]
    ) -> Process:
        return Process(
            self.scheduler,
            name,
            lambda process: main(Components(self._environment, process), process),
        )


def _build_vault(plan: Plan) -> ScriptedVault:
    # The service counts on another day, so the contract skips what it sends.
    day = int(EPOCH.timestamp()) // 86_400 - 1
    return ScriptedVault(VAULT, TOKEN, {*ADDRESSES}, per_day=plan.day_cap, day=day)


def warn_if_stale(likely: Sequence[int], needed: Sequence[int]) -> None:
    """Warn in the summary if a test searched, which may take minutes, for *needed*."""
    if not {*needed} <= {*likely}:
        warnings.warn(f"stale seed: {likely} could be {needed}", stacklevel=2)


def play(
    seed: int,
    ledger: Ledger,
    build: Build | None = None,
    *,
    traced: bool = False,
    **changes: Any,
) -> Outcome:
    """
    Run the schedule of *seed* on *ledger*, which it empties first.

    *changes* replace fields of its plan; ``has_vault`` draws those of a vault.
    """
    ledger.clear()
    trace = Trace(wanted=traced)
    schedule = Schedule(seed, ledger, build or Build(), trace, **changes)
    with trace.logs(schedule.scheduler):
        evidence = schedule.run()
    audit = ledger.select("SELECT id, body FROM audit_records ORDER BY rowid")
    conformance = check_conformance(Record(*each) for each in audit)
    errors = (
        *schedule.scheduler.errors,
        *violations(evidence),
        *(f"trace: {each}" for each in conformance.violations),
    )
    return Outcome(
        seed,
        schedule.plan,
        schedule.scheduler.now,
        evidence,
        errors,
        tuple(trace.lines),
    )
