"""The real service, process by process, with gates in all its ports."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from signer.audit.log import AuditLog
from signer.chain.chain import Chain
from signer.config.networks import Network
from signer.errors import HotWalletError
from signer.keys.keyring import KeyRing
from signer.keys.retirement import KeyRetirement
from signer.keys.signer import Signer
from signer.model.audit_record import Actor
from signer.model.key import FORMER, Key
from signer.ports import ChainClient, KeyBackend, KeyId, Ledger
from signer.refunds.confirmations import ConfirmationTracker
from signer.refunds.lifecycle import Lifecycle
from signer.refunds.nonces import NonceManager
from signer.refunds.service import RefundService
from signer.refunds.sweep import Sweeper
from signer.refunds.transaction_signer import TransactionSigner
from signer.refunds.wallet_reconciliation import WalletReconciler
from signer.refunds.worker import Worker
from tests.simulation.chain import CONFIRMATIONS, SimulatedChain
from tests.simulation.clients import CLIENT, Ask, Job, Told
from tests.simulation.faults import Faults
from tests.simulation.gate import Gate
from tests.simulation.hub import Hub, Process
from tests.simulation.ledger import Ledger as Book
from tests.simulation.ledger import Stamp
from tests.simulation.node import Node
from tests.simulation.wire import CHAIN_ID, DECIMALS, TOKEN
from tests.simulation.witness import Guarded, Witness
from tests.support.devices import KEY_ID


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
_LISTENS_EVERY = 0.5
_OPERATOR_LOOKS = (10.0, 40.0)
_OPERATOR = Actor("operator")


@dataclass(frozen=True, slots=True)
class Build:
    """What processes are made of; a planted bug replaces a part."""

    network: Network = NETWORK
    store: Callable[[Ledger], Ledger] = lambda store: store
    nonces: type[NonceManager] = NonceManager
    payer: type[TransactionSigner] = TransactionSigner
    lifecycle: type[Lifecycle] = Lifecycle
    tracker: type[ConfirmationTracker] = ConfirmationTracker


@dataclass(frozen=True, slots=True)
class Outside:
    """What the processes share: the hub, and all that is not theirs."""

    hub: Hub
    chain: SimulatedChain
    ledger: Book
    faults: Faults
    witness: Witness
    build: Build


class Parts:
    """One life of one process, made as ``api/bootstrap.py`` makes it."""

    def __init__(self, outside: Outside, process: Process) -> None:
        self._process = process
        build, clock = outside.build, process.clock
        device = Gate(process, "device", Guarded(outside.witness), outside.faults)
        store = build.store(outside.ledger.store)
        gate = Gate(process, "store", store, outside.faults, outside.witness.see)
        stamp = Stamp(cast("Ledger", gate), outside.hub.random)
        self.store = cast("Ledger", stamp)
        audit = AuditLog(outside.witness, clock, "simulated", self.store)
        self.signer = Signer.open(cast("KeyBackend", device), KEY_ID, audit)
        node = Node(outside.chain, outside.faults.lag)
        client = cast("ChainClient", Gate(process, "chain", node, outside.faults))
        self.chains = {"local": Chain(build.network, client)}
        # The first key's signer is opened when a process starts, as the guard does it.
        first = self.signer

        def open_signer(key: Key) -> Signer:
            if key.key_id == KEY_ID:
                return first
            backend = cast("KeyBackend", device)
            return Signer.open(
                backend, KeyId(key.key_id), audit, expected_address=key.address
            )

        self.ring = KeyRing(self.store, open_signer, process.timer)
        self.wallets = WalletReconciler(self.store, clock)
        self.sweeper = Sweeper(
            self.store,
            self.store,
            self.ring,
            self.chains,
            audit=audit,
            clock=clock,
        )
        self.keeper = KeyRetirement(self.store, audit, clock)
        self.nonces = build.nonces(self.store, self.ring, clock)
        payer = build.payer(self.ring, clock)
        self.lifecycle = build.lifecycle(
            self.store, self.chains, payer, self.nonces, clock
        )
        self.tracker = build.tracker(self.store, self.chains, clock)

    @property
    def service(self) -> RefundService:
        """What an API process offers."""
        return RefundService(
            self.store,
            {"local": self.chains["local"].network},
            self.lifecycle,
            wallets=lambda: [key.address for key in self.ring.cached_keys()],
            clock=self._process.clock,
            timer=self._process.timer,
            sleep=self._process.pause,
        )

    @property
    def worker(self) -> Worker:
        """What a worker process runs."""
        return Worker(
            self.store,
            self.lifecycle,
            confirmation_tracker=self.tracker,
            wallets=self.wallets,
            ring=self.ring,
            retirement=self.keeper,
            chains=self.chains,
            clock=self._process.clock,
        )


class API:
    """What ``api/http/refunds.py`` does, without HTTP."""

    def __init__(self, service: RefundService) -> None:
        self._service = service

    def submit(self, ask: Ask) -> Told:
        """Ask for a refund, and keep the answer before it is given."""
        submission = self._service.submit(
            client=CLIENT,
            idempotency_key=ask.key,
            request=ask.request,
            request_id="simulated",
        )
        refund, answer = submission.refund, submission.answer
        if answer is None:
            body = f"{refund.id} {refund.status} n{refund.nonce}"
            answer = self._service.remember_answer(refund, body)
        return Told(ask, refund.id, answer)

    def cancel(self, refund_id: str) -> None:
        """Call a refund back."""
        self._service.cancel(CLIENT, refund_id)


def serve(parts: Parts, process: Process, queue: list[Job]) -> None:
    """Answer what is in *queue*, for ever."""
    api = API(parts.service)
    while True:
        if queue:
            queue.pop(0)(api)
        process.pause(_LISTENS_EVERY)


def work(parts: Parts, process: Process) -> None:
    """Do one pass after the other, for ever."""

    def rest() -> bool:
        process.pause(process.hub.random.uniform(*_WORKER_RESTS))
        return False

    parts.worker.run(rest)


def attend(parts: Parts, process: Process, sweeps_until: float) -> None:
    """Accept what is foreign, as ``hotwallet nonce repair`` does, and sweep."""
    while True:
        process.pause(process.hub.random.uniform(*_OPERATOR_LOOKS))
        try:
            _accept(parts)
            if process.hub.now < sweeps_until:
                _sweep(parts)
        except HotWalletError as e:
            process.hub.tell(process.name, f"looks again later: {e.code}")


def _accept(parts: Parts) -> None:
    chain = parts.chains["local"]
    for wallet in parts.store.wallets():
        standing = parts.wallets.status(chain, wallet.sender)
        if standing.wallet.paused_by and not standing.unknown_count:
            parts.wallets.resume(standing, chain)


def _sweep(parts: Parts) -> None:
    for key in parts.ring.refresh():
        if key.state in FORMER:
            parts.sweeper.sweep(key.address, _OPERATOR)
