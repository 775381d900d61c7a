"""The simulated processes: the real service with faulty ports."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from api.extras.restore.planner import RestorePlanner
from signer.alerts import Alerts
from signer.audit.log import AuditLog
from signer.chain.chain import Chain
from signer.config.networks import Network
from signer.config.tenants import TenantRegistry
from signer.errors import HotWalletError, WalletPausedError
from signer.keys.admin_audit import AdminAudit
from signer.keys.key_proofs import KeyProof
from signer.keys.keyring import KeyRing
from signer.keys.rotation import KeyRetirement
from signer.keys.signer import Signer
from signer.model.audit_record import Actor, Operation, Record
from signer.model.key import FORMER, Key, KeyState
from signer.ports.chain import ChainClient
from signer.ports.key_backend import KeyBackend, KeyId
from signer.ports.ledger import Ledger
from signer.refunds.acceptance import RefundAcceptor
from signer.refunds.automatic_stop import AutomaticStop
from signer.refunds.confirmations import ConfirmationTracker
from signer.refunds.hold_admin import Holds
from signer.refunds.lifecycle import Lifecycle
from signer.refunds.nonce_admin import NonceAdmin
from signer.refunds.nonce_checks import NonceManager
from signer.refunds.payment_parts import PaymentParts
from signer.refunds.payment_policy import PaymentPolicy
from signer.refunds.service import RefundService
from signer.refunds.sweep import Sweeper
from signer.refunds.transaction_signer import TransactionSigner
from signer.refunds.wallet_reconciliation import WalletReconciler
from signer.refunds.worker import Worker
from tests.simulation.chain import CONFIRMATIONS, SimulatedChain
from tests.simulation.clients import Job
from tests.simulation.faults import Faults
from tests.simulation.faulty_port import ChainPort, FaultyPort, StorePort
from tests.simulation.ledger import Ledger as Book
from tests.simulation.ledger import seed_ids
from tests.simulation.node import Node
from tests.simulation.observer import ObservedDevice, ObservedLines, Observer
from tests.simulation.scheduler import Process, Scheduler
from tests.simulation.transaction import CHAIN_ID, DECIMALS, TOKEN
from tests.support.devices import KEY_ID
from tests.support.policy import SERVICE_POLICY


NETWORK = Network.model_validate(
    {
        "chain_id": CHAIN_ID,
        "rpc_urls": ["http://127.0.0.1:8545"],
        "confirmations": CONFIRMATIONS,
        "max_fee_per_gas_gwei": 100,
        "stuck_after_seconds": 45,
        "tokens": {
            "TUSD": {"address": TOKEN, "decimals": DECIMALS, "max_amount": "1000"}
        },
    }
)

_WORKER_RESTS = (2.0, 12.0)
_POLL_SECONDS = 0.5
_OPERATOR_LOOKS = (10.0, 40.0)
_OPERATOR = Actor("operator")


@dataclass(frozen=True, slots=True)
class Build:
    """The parts of a process that a planted bug may replace."""

    network: Network = NETWORK
    store: Callable[[Ledger], Ledger] = lambda store: store
    nonces: type[NonceManager] = NonceManager
    transaction_signer: type[TransactionSigner] = TransactionSigner
    lifecycle: type[Lifecycle] = Lifecycle
    tracker: Callable[..., ConfirmationTracker] = ConfirmationTracker
    planner: type[RestorePlanner] = RestorePlanner
    loses: Callable[[Record], bool] = lambda record: False


@dataclass(frozen=True, slots=True)
class Environment:
    """What the processes share."""

    scheduler: Scheduler
    chain: SimulatedChain
    ledger: Book
    faults: Faults
    observer: Observer
    build: Build


class Components:
    """The parts of one process, joined as by ``api/bootstrap.py``."""

    def __init__(self, environment: Environment, process: Process) -> None:
        self._process = process
        build, clock = environment.build, process.clock
        faults, observer = environment.faults, environment.observer
        device = FaultyPort(process, "device", ObservedDevice(observer), faults)
        backend = cast("KeyBackend", device)
        store = build.store(environment.ledger.store)
        port = StorePort(
            process,
            "store",
            store,
            faults,
            observer.see,
            version=environment.ledger.version,
        )
        self.store = seed_ids(
            cast("Ledger", port), environment.scheduler.random, observer.renamed
        )
        self.clock = clock
        audit = AuditLog(ObservedLines(observer), clock, "simulated", self.store)
        # A process opens the first key's signer when it starts, as the guard does.
        first = Signer.open(backend, KEY_ID, audit)
        node = Node(environment.chain, faults.lag)
        client = cast("ChainClient", ChainPort(process, "chain", node, faults))
        self.chains = {"local": Chain(build.network, client)}

        def open_signer(key: Key) -> Signer:
            if key.key_id == KEY_ID:
                return first
            return Signer.open(
                backend, KeyId(key.key_id), audit, expected_address=key.address
            )

        self.ring = KeyRing(self.store, open_signer, process.timer)
        self.wallets = WalletReconciler(self.store, clock)
        self.sweeper = Sweeper(
            self.store, self.ring, self.chains, audit=audit, clock=clock
        )
        self.retirement = KeyRetirement(self.store, audit, clock)
        networks = {"local": build.network}  # Without rules that stop it.
        self.networks = networks
        self.admin_audit = admin_audit = AdminAudit(audit, Operation.ADMINISTRATION)
        self.switch = switch = Holds(
            self.store,
            lambda: networks,
            TenantRegistry,
            admin_audit,
            alerts=Alerts(),
            clock=clock,
        )
        self.alarm = Alerts(clock=clock)
        self.automatic_stop = AutomaticStop(
            self.store, switch, networks, clock, alarm=self.alarm
        )
        nonces = build.nonces(self.store, self.ring, clock, TenantRegistry())
        tenants = TenantRegistry()
        self._policy = PaymentPolicy(SERVICE_POLICY, self.ring, clock, tenants)
        signer = build.transaction_signer(self.ring, clock, self._policy)
        parts = PaymentParts(
            self.store,
            signer,
            nonces,
            clock,
            audit=audit,
            tenants=tenants,
            alerts=Alerts(clock=clock),
        )
        self.lifecycle = build.lifecycle(parts, self.chains)
        self.audit = audit
        self.may_mine = environment.chain.may_mine
        self.nonce_admin = NonceAdmin(self.store, self.chains, admin_audit, clock)
        self.tracker = build.tracker(self.store, self.chains, clock, self.alarm)

    @property
    def service(self) -> RefundService:
        """The refund service of an API process."""
        acceptor = RefundAcceptor(
            self.store,
            {"local": self.chains["local"].network},
            audit=self.audit,
            wallets=lambda: [key.address for key in self.ring.cached_keys()],
            clock=self._process.clock,
            tenants=TenantRegistry(),
            policy=self._policy,
            alerts=Alerts(clock=self._process.clock),
        )
        return RefundService(acceptor, self._process.timer)

    @property
    def worker(self) -> Worker:
        """The worker of a worker process."""
        clock, timer = self._process.clock, self._process.timer
        # A process may not know yet that another worker runs.
        is_alone = self._process.scheduler.random.random() < 1 / 2
        return Worker(
            self.lifecycle,
            self.tracker,
            ring=self.ring,
            retirement=self.retirement,
            automatic_stop=self.automatic_stop,
            key_proof=KeyProof(self.store, self.ring, lambda: None, clock, timer),
            timer=timer,
            is_alone=lambda: is_alone,
        )


def serve(components: Components, process: Process, queue: list[Job]) -> None:
    """Run an API process that serves *queue*."""
    service = components.service
    while True:
        if queue:
            queue.pop(0)(service)
        process.pause(_POLL_SECONDS)


def work(components: Components, process: Process) -> None:
    """Run a worker process."""
    interval = process.scheduler.random.uniform(*_WORKER_RESTS)
    components.worker.run(lambda: False, interval)


def attend(components: Components, process: Process, sweeps_until: float) -> None:
    """Run an operator who accepts foreign transactions and sweeps former keys."""
    while True:
        process.pause(process.scheduler.random.uniform(*_OPERATOR_LOOKS))
        try:
            _accept(components)
            _abandon(components, components.may_mine)
            if process.scheduler.now < sweeps_until:
                _sweep(components)
        except HotWalletError as e:
            process.scheduler.log(process.name, f"retries after: {e.code}")


def _accept(components: Components) -> None:
    for wallet in components.store.wallets():
        if wallet.is_paused:
            with suppress(WalletPausedError):
                _resume(components, wallet.sender)


def _resume(components: Components, address: str) -> None:
    chain = components.chains["local"]
    status = components.wallets.status(chain, address)
    if status.wallet.paused_by and not status.unknown_count:
        components.wallets.resume(status, chain)


def _abandon(components: Components, may_mine: Callable[[str], bool]) -> None:
    """Abandon the wallets of revoked keys, if all that they signed is final."""
    wallets = components.store.wallets()
    paused = {wallet.sender for wallet in wallets if wallet.is_paused}
    for key in components.ring.refresh() if paused else ():
        is_stuck = key.state is KeyState.BLOCKED and key.address in paused
        if is_stuck and not may_mine(key.address):
            components.nonce_admin.abandon(key.address, None, _OPERATOR)


def _sweep(components: Components) -> None:
    for key in components.ring.refresh():
        if key.state in FORMER:
            components.sweeper.sweep(key.address, _OPERATOR)
