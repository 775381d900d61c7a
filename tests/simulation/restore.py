"""An operator who runs ``hotwallet restore`` until it has completed a ledger."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from api.extras.restore.plan import RestorePlan
from api.extras.restore.planner import RestorePlanner
from api.extras.restore.restorer import Restorer
from signer.alerts import Alerts
from signer.audit.log import AuditLog
from signer.config.tenants import TenantRegistry
from signer.errors import HotWalletError
from signer.keys.failover import Failover
from signer.keys.revocation import Revocation
from signer.keys.rotation import Rotation
from signer.keys.signer import SignerFactory
from signer.model.audit_record import Actor, Record
from signer.ports.key_backend import KeyDirectory
from tests.simulation.chain import SimulatedChain
from tests.simulation.ledger import Ledger
from tests.simulation.observer import ADDRESSES, ObservedDevice, ObservedLines
from tests.simulation.processes import Components, Environment
from tests.simulation.scheduler import Process


_LOOKS_AGAIN = (5.0, 20.0)

_OPERATOR = Actor("operator")

_KEY_IDS = tuple(ADDRESSES.values())


@dataclass(frozen=True, slots=True)
class Facts:
    """
    What the operator has: the log, or without one the marks by address.

    ``error`` is added to each mark.
    """

    log: Sequence[Record] | None
    marks: Mapping[str, int]
    error: int = 0


@dataclass(slots=True)
class Restore:
    """
    The operator's work after a backup was put back.

    ``incomplete`` are the ids of refunds that the command could not create again.
    """

    facts: Facts
    end: Callable[[], None]
    is_done: bool = False
    incomplete: frozenset[str] = frozenset()

    def run(
        self, environment: Environment, components: Components, process: Process
    ) -> None:
        """Plan and restore until that succeeds, as a person would."""
        planner = environment.build.planner(
            components.store, components.chains, TenantRegistry(), components.clock
        )
        restorer = _build_restorer(environment, components)
        while True:
            try:
                if self._try(planner, restorer, components, process):
                    break
            except HotWalletError as e:
                process.scheduler.log(process.name, f"retries after: {e.code}")
            process.pause(process.scheduler.random.uniform(*_LOOKS_AGAIN))
        self.is_done = True
        self.end()
        process.shut_down()

    def _try(
        self,
        planner: RestorePlanner,
        restorer: Restorer,
        components: Components,
        process: Process,
    ) -> bool:
        log = self.facts.log
        stated = {} if log is not None else self._marks(components)

        def make_plan() -> RestorePlan:
            return planner.plan(log or (), stated, _KEY_IDS, has_log=log is not None)

        plan = make_plan()
        for wallet in plan.wallets:
            process.scheduler.log(
                process.name,
                f"plans {wallet.wallet.sender[:6]}: mark {wallet.high_water}, chain"
                f" {wallet.counted}, fillers {list(wallet.fillers)}",
            )
        for change in plan.key_changes:
            process.scheduler.log(process.name, f"repeats {change}")
        for each in plan.refunds:
            made = "creates" if each.record else "changes"
            held = "" if each.nonce is None else f" {each.sender} n{each.nonce}"
            cancels = " cancels" if each.cancellation else ""
            process.scheduler.log(
                process.name, f"{made} {each.refund.id[-6:]}{held}{cancels}"
            )
        if plan.problems:
            process.scheduler.log(process.name, f"waits: {plan.problems}")
            return False
        self.incomplete |= frozenset(plan.incomplete)
        restorer.restore(plan, _KEY_IDS, _OPERATOR, make_plan)
        return True

    def _marks(self, components: Components) -> Mapping[tuple[str, str], int]:
        """Return the marks of all keys, which are at least what the command names."""
        chain = components.chains["local"]
        marks = {}
        ring = components.store.keys()
        for key in ring:
            wallet = components.store.wallet(chain.network.chain_id, key.address)
            known = chain.client.pending_count(key.address)
            if wallet is not None:
                known = max(known, wallet.next_nonce, wallet.high_water or 0)
            mark = self.facts.marks.get(key.address, 0) + self.facts.error
            marks["local", key.address] = max(known, mark)
        return marks


def find_marks(ledger: Ledger, chain: SimulatedChain) -> Mapping[str, int]:
    """Return one more than the highest nonce of each address in signed bytes."""
    marks = Counter[str]()
    recorded = ledger.select("SELECT sender, nonce FROM attempts")
    for sender, nonce in (*recorded, *(tx.slot for tx in chain.sent.values())):
        marks[sender] = max(marks[sender], nonce + 1)
    return marks


def _build_restorer(environment: Environment, components: Components) -> Restorer:
    store, audit, clock = components.store, components.audit, components.clock
    # Keys are tested in threads of their own, which no scheduler can continue.
    lines, unobserved = ObservedLines(environment.observer), environment.ledger.store
    signers = SignerFactory(
        cast("KeyDirectory", ObservedDevice(environment.observer)),
        AuditLog(lines, clock, "simulated", unobserved),
    )
    alerts = Alerts(clock=clock)
    return Restorer(
        store,
        components.networks,
        rotation=Rotation(
            store,
            signers,
            read_balances=lambda address: (),
            require_operator=lambda address: None,
            alerts=alerts,
            clock=clock,
        ),
        revocation=Revocation(store, audit=audit, clock=clock),
        failover=Failover(store, signers, alerts=alerts, clock=clock),
        holds=components.switch,
        admin_audit=components.admin_audit,
        clock=clock,
    )
