"""Refunds on a scripted chain: the whole service in one process, with a fake clock."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import Any, NoReturn, TypeVar, cast

import bitcurve
import pytest
from sqlalchemy import Connection

from api.extras.restore.plan import HighWaters, RestorePlan
from api.extras.restore.planner import RestorePlanner
from api.extras.restore.restorer import Restorer
from signer.alerts import Alerts
from signer.audit.log import AuditLog
from signer.chain.chain import Chain
from signer.config.deny_list import DenyList
from signer.config.networks import Network
from signer.config.tenants import TenantRegistry
from signer.errors import (
    HotWalletError,
    PolicyViolationError,
    StoreUnavailableError,
    require,
)
from signer.keys.admin_audit import AdminAudit
from signer.keys.failover import Failover
from signer.keys.key_proofs import KeyProof
from signer.keys.keyring import KeyRing
from signer.keys.revocation import Revocation
from signer.keys.rotation import KeyRetirement, Rotation
from signer.keys.signer import Signer, SignerFactory
from signer.model.approvers import Approvers
from signer.model.audit_record import Actor, Operation, Record
from signer.model.key import Key, find_key
from signer.model.refund import Refund, RefundRequest, Status
from signer.model.transaction import (
    CLAIM_TIME,
    TRANSACTION_MOVES,
    SignedTransaction,
    Transaction,
    TransactionKind,
    TransactionStatus,
    compose,
)
from signer.model.wallet import Wallet
from signer.policy.default_rules import service_files
from signer.policy.policy import AnyPolicy, Policy
from signer.ports.chain import ChainClient
from signer.ports.key_backend import KeyDirectory
from signer.ports.ledger import Ledger
from signer.ports.meter import NO_METER, Meter
from signer.ports.outside_services import ScreeningService
from signer.ports.refund_store import Topic, Watch
from signer.refunds.acceptance import AcceptedRefund, RefundAcceptor
from signer.refunds.automatic_stop import AutomaticStop
from signer.refunds.confirmations import ConfirmationTracker
from signer.refunds.explanation import Explainer
from signer.refunds.hold_admin import Holds
from signer.refunds.lifecycle import Lifecycle
from signer.refunds.nonce_checks import NonceManager
from signer.refunds.payment_checks import admit
from signer.refunds.payment_parts import PaymentParts
from signer.refunds.payment_policy import PaymentPolicy
from signer.refunds.saved_steps import Moving, Outcome, Outcomes
from signer.refunds.service import RefundService
from signer.refunds.transaction_signer import TransactionSigner
from signer.refunds.wallet_reconciliation import WalletReconciler, WalletStatus
from signer.refunds.worker import Worker
from tests.fixtures.ledger import accept
from tests.fixtures.scripted_chain import CHAIN_ID, DECIMALS, TOKEN, ScriptedChain, Sent
from tests.fixtures.scripted_vault import ScriptedVault
from tests.fixtures.unbatched import Unbatched
from tests.support.devices import Device, Directory, honest, recording, signer_over
from tests.support.keys import key_at, key_of, made_active, ring_over
from tests.support.ledgers import ROW_MACS
from tests.support.policy import SERVICE_POLICY


T = TypeVar("T")

KEY = bitcurve.PrivateKey.from_int(0x5EED)
SECOND, THIRD = (signer_over(honest(bitcurve.PrivateKey.from_int(n))) for n in (99, 98))
AMOUNT = 12_500_000
CUSTOMER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
VAULT = "0x0165878A594ca255338adfa4d48449f69242Eb8F"
ACTOR = Actor("gateway", "req-1")
OPERATOR = Actor("cli:operator")

NETWORK = Network.model_validate(
    {
        "chain_id": CHAIN_ID,
        "rpc_urls": ["http://127.0.0.1:8545"],
        "confirmations": 3,
        "tokens": {
            "TUSD": {"address": TOKEN, "decimals": DECIMALS, "max_amount": "1000"}
        },
    }
)

REQUEST = RefundRequest(
    payment_session_id="session-1",
    reference="reference-1",
    network="local",
    token="TUSD",
    recipient=CUSTOMER,
    amount="12.50",
)


NOON = datetime(2026, 1, 2, 12, 30, tzinfo=UTC)
"""A time in the middle of an hour and of a day."""


class FakeClock:
    """A clock that moves only when a test advances it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        """Return the current time."""
        return self.now

    def advance(self, **span: float) -> None:
        """Move the clock forward."""
        self.now += timedelta(**span)


def altered(target: T, **methods: Callable[..., Any] | Exception) -> T:
    """Return *target* with some methods replaced, each by a function or its error."""

    def fail(error: Exception, *_: object, **__: object) -> NoReturn:
        raise error

    class Altered:
        def __getattr__(self, name: str) -> Any:
            found = methods[name] if name in methods else getattr(target, name)
            return partial(fail, found) if isinstance(found, Exception) else found

    return cast("T", Altered())


def altered_chain(
    chain: ScriptedChain, **methods: Callable[..., Any] | Exception
) -> ChainClient:
    """Return *chain* with some methods replaced, also where its batches use them."""
    made = altered(chain, **methods)
    batches: dict[str, Callable[..., Any]] = {
        "preflight": partial(Unbatched.preflight, made),
        "estimate_all": partial(Unbatched.estimate_all, made),
        "broadcast_all": partial(Unbatched.broadcast_all, made),
    }
    return cast("ChainClient", altered(made, **{**batches, **methods}))


class SteppingLifecycle(Lifecycle):
    """Takes single steps of refunds, or of their transactions."""

    def __init__(
        self, *parts: Any, known: dict[str, Transaction], **named: Any
    ) -> None:
        """Continue those in *known*, by refund id, with what their process knows."""
        super().__init__(*parts, **named)
        self._known = known

    def step(self, refund: Refund) -> Refund:
        """Take the next step of *refund*; raises its error of ``step_all``."""
        (outcome,) = self.step_all([refund])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome.payments[0]

    def step_all(self, moving: Sequence[Moving]) -> Sequence[Outcome]:
        """Take steps; a refund that has a transaction stands for that."""
        given = [self._as_moved(each) for each in moving]
        outcomes = super().step_all(given)
        for after in outcomes:
            if isinstance(after, Transaction):
                self._known |= {payment.id: after for payment in after.payments}
        return [
            after.payments[0]
            if before is not moved and isinstance(after, Transaction)
            else after
            for before, moved, after in zip(moving, given, outcomes, strict=True)
        ]

    def _as_moved(self, moving: Moving) -> Moving:
        """Return the transaction of a refund, with what its process knows of it."""
        if isinstance(moving, Transaction) or moving.transaction is None:
            return moving
        known = self._known.get(moving.id)
        is_same = known is not None and known.payments == (moving,)
        return known if known is not None and is_same else moving.reserved()


def stepping(lifecycle: Lifecycle, step: Callable[[Refund], Refund]) -> Lifecycle:

    def step_all(moving: Sequence[Moving]) -> Sequence[Outcome]:
        outcomes = Outcomes()
        for each in moving:
            with outcomes.capture(each):
                after = step(each.payments[0])
                outcomes[each.id] = after.reserved() if after.transaction else after
        return [outcomes[each.id] for each in moving]

    return altered(lifecycle, step_all=step_all)


@contextmanager
def refused(rule: str) -> Iterator[pytest.ExceptionInfo[PolicyViolationError]]:
    """Expect that the policy refuses something, by *rule*."""
    with pytest.raises(PolicyViolationError) as caught:
        yield caught
    assert caught.value.rule == rule


def unsaved(failed: Sequence[tuple[Refund, HotWalletError]]) -> Sequence[Exception]:
    """Fail to postpone, because the store does not answer."""
    return [StoreUnavailableError("gone")] * len(failed)


def watched(store: Ledger, meanwhile: Callable[[float], object]) -> Ledger:
    """Return *store*; *meanwhile* is called in place of each wait for a change."""

    @contextmanager
    def watch(_: Topic) -> Iterator[Watch]:
        yield cast("Watch", altered(store, wait=meanwhile))

    return altered(store, watch=watch)


def signer() -> Signer:
    """Return a signer over a device that works."""
    return signer_over(honest(KEY))


@dataclass
class World:
    """One process of the service, with its ledger, chain, clock and key."""

    store: Ledger
    chain: ScriptedChain = field(default_factory=ScriptedChain)
    clock: FakeClock = field(default_factory=FakeClock)
    signer: Signer = field(default_factory=signer)
    client: ChainClient | None = None  # None: the chain itself.
    network: Network = NETWORK
    tenants: TenantRegistry = field(default_factory=TenantRegistry)
    others: tuple[Signer, ...] = (SECOND, THIRD)  # Their keys may join the ring.
    audit: AuditLog | None = None  # None: its lines are not kept.
    replicas: dict[str, Signer] = field(default_factory=dict)  # By key id.
    directory: KeyDirectory | None = None  # Real keys, in place of the signers.
    policy: AnyPolicy = SERVICE_POLICY
    deny_list: DenyList | None = None
    screening: ScreeningService | None = None
    approvers: Approvers | None = None
    _numbers: Iterator[int] = field(default_factory=count)
    _known: dict[str, Transaction] = field(default_factory=dict, repr=False)
    _enrolled: Ledger | None = None

    @property
    def row_alarm(self) -> Alerts:
        """The alarm of a process that starts now."""
        return Alerts(self.store, clock=self.clock)

    @property
    def chains(self) -> dict[str, Chain]:
        """The only network."""
        return {"local": Chain(self.network, self.client or self.chain)}

    @property
    def ring(self) -> KeyRing:
        """The key ring of a process that starts now; its first key is registered."""
        if self.directory is not None:
            signers = SignerFactory(self.directory, self._audit())
            return KeyRing(self.store, signers.open, self._timer)
        if self._enrolled is not self.store:
            ring = ring_over(self.store, self.signer, *self.others, timer=self._timer)
            self._enrolled = self.store  # Last, since other threads read it.
            return ring
        known = {each.address: each for each in (self.signer, *self.others)}
        return KeyRing(self.store, lambda key: known[key.address], self._timer)

    def change_token(self, **changes: Any) -> None:
        token = self.network.tokens["TUSD"].model_copy(update=changes)
        self.network = self.network.model_copy(update={"tokens": {"TUSD": token}})
        self.compile_policy()

    def compile_policy(self) -> None:
        """Compile the policy of the configuration, and the own rules of the policy."""
        defaults = service_files({"local": self.network}, self.tenants)
        self.policy = Policy.compile(defaults, self.policy.own_files)

    @property
    def key(self) -> Key:
        """The row of the signer's key."""
        key = find_key(self.store.keys(), self.signer.address)
        assert key is not None
        return key

    def rotate(self, other: Signer = SECOND, *, block: bool = False) -> None:
        """Make *other* the active key; with *block*, block the replaced key."""
        if self.store.active_key() is None:
            self.store.enrol(key_of(self.signer))
        made_active(self.store, key_at(other.address), block=block)

    def revoke(self) -> None:
        """Block the signer's key, which is a former key."""
        at = self.clock()
        record = Record.of({"event": "key-revoke-succeeded"}, at)
        self.store.block(self.key, at, record)

    def reinstate(self) -> None:
        """Make the signer's key, which is revoked, a former key again."""
        at = self.clock()
        record = Record.of({"event": "key-reinstate-succeeded"}, at)
        self.store.reinstate(self.key, at, record)

    @property
    def wallet(self) -> Wallet:
        """The signer's wallet."""
        wallet = self.store.wallet(self.network.chain_id, self.signer.address)
        assert wallet is not None
        return wallet

    @property
    def nonces(self) -> NonceManager:
        """The nonce manager of a process that starts now."""
        return NonceManager(self.store, self.ring, self.clock, self.tenants)

    @property
    def wallets(self) -> WalletReconciler:
        return WalletReconciler(self.store, self.clock)

    def reconcile(self) -> WalletStatus:
        """Reconcile the signer's wallet, and return its status."""
        return self.wallets.reconcile(self.chains["local"], self.signer.address)

    def use_vault(self, **changes: Any) -> ScriptedVault:
        """Let a vault hold the tokens of the network, with *changes*; return it."""
        vault = ScriptedVault(VAULT, TOKEN, {self.signer.address})
        vault.day = int(self.clock().timestamp()) // 86_400
        self.chain.vaults[VAULT] = vault
        self.network = self.network.model_copy(update={"vault": VAULT, **changes})
        return vault

    @property
    def payment_policy(self) -> PaymentPolicy:
        """The policy of a process that starts now."""
        return PaymentPolicy(
            self.policy,
            self.ring,
            self.clock,
            self.tenants,
            deny_list=self.deny_list,
            totals=self.store.payment_totals,
            screening=self.screening,
            approvers=self.approvers,
        )

    @property
    def lifecycle(self) -> SteppingLifecycle:
        """The lifecycle of a process that starts now."""
        ring = self.ring
        parts = PaymentParts(
            self.store,
            TransactionSigner(ring, self.clock, self.payment_policy),
            NonceManager(self.store, ring, self.clock, self.tenants),
            self.clock,
            audit=self._audit(),
            tenants=self.tenants,
            alerts=Alerts(clock=self.clock),
        )
        return SteppingLifecycle(parts, self.chains, known=self._known)

    @property
    def confirmation_tracker(self) -> ConfirmationTracker:
        """The confirmation tracker of a process that starts now."""
        return ConfirmationTracker(self.store, self.chains, self.clock, self.row_alarm)

    @property
    def explainer(self) -> Explainer:
        return Explainer(self.store, self.chains, self.clock, self.tenants)

    @property
    def service(self) -> RefundService:
        """The refund service of a process that starts now; a worker runs beside it."""
        return self.service_over(watched(self.store, self._let_worker_work))

    def service_over(
        self, store: Ledger, audit: AuditLog | None = None, meter: Meter = NO_METER
    ) -> RefundService:
        """Return a service that starts now, over *store*, which logs to *audit*."""
        acceptor = RefundAcceptor(
            store,
            {"local": self.network},
            audit=audit or self._audit(),
            wallets=lambda: [key.address for key in self.ring.cached_keys()],
            clock=self.clock,
            tenants=self.tenants,
            policy=self.payment_policy,
            meter=meter,
            alerts=Alerts(clock=self.clock),
        )
        return RefundService(acceptor, self._timer)

    def _audit(self) -> AuditLog:
        return self.audit or recording()[0]

    def _admin_log(self) -> AuditLog:
        return self.audit or recording(clock=self.clock, journal=self.store)[0]

    def _admin_audit(self) -> AdminAudit:
        return AdminAudit(self._admin_log(), Operation.ADMINISTRATION)

    def _directory(self) -> Directory:
        directory = Directory()
        for signer in (self.signer, *self.others):
            key = find_key(self.store.keys(), signer.address) or key_at(signer.address)
            directory.devices[key.key_id] = cast("Device", signer._backend)
        for key_id, signer in self.replicas.items():
            directory.devices[key_id] = cast("Device", signer._backend)
        return directory

    def _let_worker_work(self, seconds: float) -> None:
        if not self.worker.advance():
            self.clock.advance(seconds=seconds)

    @property
    def worker(self) -> Worker:
        """The worker of a process that starts now."""
        return self.worker_with()

    def worker_with(
        self, lifecycle: Lifecycle | None = None, **chains: Chain
    ) -> Worker:
        """Return a worker with the given lifecycle or chains."""
        return Worker(
            lifecycle or self.lifecycle,
            self.tracker(chains=chains or self.chains),
            ring=self.ring,
            retirement=KeyRetirement(self.store, self._audit(), self.clock),
            automatic_stop=self.automatic_stop,
            key_proof=KeyProof(self.store, self.ring, lambda: None, self.clock),
        )

    @property
    def holds(self) -> Holds:
        """The holds as a process that starts now changes them."""
        return Holds(
            self.store,
            lambda: {"local": self.network},
            lambda: self.tenants,
            self._admin_audit(),
            alerts=Alerts(self.store),
            clock=self.clock,
        )

    @property
    def planner(self) -> RestorePlanner:
        return RestorePlanner(self.store, self.chains, self.tenants, self.clock)

    @property
    def restorer(self) -> Restorer:
        """The restorer; it needs no approval."""
        store, audit, clock = self.store, self._admin_log(), self.clock
        directory = self.directory or self._directory()
        signers, alerts = SignerFactory(directory, audit), Alerts(store)
        return Restorer(
            store,
            {"local": self.network},
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
            holds=self.holds,
            admin_audit=self._admin_audit(),
            clock=clock,
        )

    def restore(
        self,
        records: Sequence[Record] = (),
        stated: HighWaters | None = None,
        *,
        has_log: bool = True,
        key_ids: Sequence[str] = (),
    ) -> RestorePlan:
        """
        Restore with *records* as an operator does, and return the first plan.

        *key_ids* are of real keys; those of the signers are known.
        """
        key_ids = [*key_ids, *self._directory().devices]

        def plan() -> RestorePlan:
            return self.planner.plan(records, stated or {}, key_ids, has_log=has_log)

        first = plan()
        self.restorer.restore(first, key_ids, OPERATOR, plan)
        return first

    def state_marks(self) -> RestorePlan:
        """Restore without a log, as an operator who knows all that was ever sent."""
        self.ring.active()  # As `hotwallet guard`, for a ledger without a key.
        sent = [Sent.read(raw) for raw in self.chain.broadcasts]
        chain, stated, keys = self.chains["local"], {}, self.store.keys()
        for key in keys:
            nonces = [each.nonce + 1 for each in sent if each.sender == key.address]
            counted = chain.client.pending_count(key.address)
            wallet = self.store.wallet(self.network.chain_id, key.address)
            is_known = wallet is not None and wallet.is_authentic
            known = wallet.next_nonce if wallet and is_known else 0
            stated["local", key.address] = max(counted, known, *nonces, 0)
        return self.restore(stated=stated, has_log=False)

    @property
    def automatic_stop(self) -> AutomaticStop:
        """The rules as a worker that starts now evaluates them."""
        networks = {"local": self.network}
        return AutomaticStop(
            self.store,
            self.holds,
            networks,
            self.clock,
            alarm=self.row_alarm,
            timer=self._timer,
        )

    def tracker(self, **given: Any) -> ConfirmationTracker:
        """Return a confirmation tracker that starts now, with *given* parts."""
        parts = {"store": self.store, "chains": self.chains, **given}
        return ConfirmationTracker(clock=self.clock, alarm=self.row_alarm, **parts)

    def statuses(self, refunds: Sequence[Refund]) -> list[Status]:
        return [self.stored(refund).status for refund in refunds]

    def waiting_worker(self, wait: Callable[[float], object]) -> Worker:
        """Return a worker on this clock that calls *wait* between its passes."""
        self.store = watched(self.store, wait)
        worker = self.worker
        worker._timer = self._timer
        return worker

    def service_beside(self, work: Callable[[float], object]) -> RefundService:
        """Return a service; each wait calls *work* with its seconds."""
        return self.service_over(watched(self.store, work))

    def submit(
        self,
        request: RefundRequest = REQUEST,
        key: str = "key-1",
        tenant: str = "gateway",
        service: RefundService | None = None,
    ) -> AcceptedRefund:
        """Submit *request* as the gateway does, and wait for the worker."""
        service = service or self.service
        submission = service.submit(
            tenant=tenant,
            idempotency_key=key,
            request=request,
            actor=Actor.from_token(tenant, "req-1", None),
        )
        sent = service.await_broadcast(submission.refund)
        return replace(submission, refund=sent)

    def cancel(self, refund: Refund, tenant: str = "gateway") -> Refund:
        """Cancel *refund* as the gateway does, and wait for the worker."""
        service = self.service
        refund = service.request_cancellation(tenant, refund.id, ACTOR)
        return service.await_cancellation(refund)

    def accepted(self, tenant: str = "gateway", **changes: Any) -> Refund:
        number = next(self._numbers)
        request = replace(REQUEST, **{"reference": f"reference-{number}", **changes})
        admitted = admit(
            request,
            refund_id=f"rf_{number:04}",
            tenant=tenant,
            idempotency_key=f"key-{number}",
            networks={"local": self.network},
            wallets=[self.signer.address],
            now=self.clock(),
        )
        refund, created = accept(self.store, admitted)
        assert created
        return refund

    def work(self, after: timedelta = CLAIM_TIME) -> int:
        """Advance the clock, so that claims expire, and run one pass of the worker."""
        self.clock.now += after
        return self.worker.work()

    def mine_deep(self) -> None:
        """Mine the pool, with as many blocks as the network needs confirmations."""
        self.chain.mine()
        self.chain.mine_empty(self.network.confirmations - 1)

    def settle(self) -> None:
        """Mine the pool, and track its refunds until they are confirmed."""
        self.mine_deep()
        self.confirmation_tracker.track()
        self.confirmation_tracker.track()

    def finish(self, *refunds: Refund) -> list[Refund]:
        """Run workers and mine blocks until all *refunds* are final."""
        found: list[Refund] = []
        for _ in range(20):
            self.work(after=timedelta(seconds=31))
            self.mine_deep()
            found = [self.stored(refund) for refund in refunds]
            if all(refund.status.is_final for refund in found):
                break
        return found

    def paid(self, **changes: Any) -> Refund:
        refund = self.broadcast(**changes)
        self.settle()
        return self.stored(refund)

    def use_key_elsewhere(
        self, foreign: int, *, blocks: int = 2, work: bool = True
    ) -> None:
        """Pay once, use that many nonces elsewhere, and add blocks."""
        self.broadcast()
        self.chain.mine()
        self.confirmation_tracker.track()
        for _ in range(foreign):
            self.chain.mine_foreign(self.signer.address)
        self.chain.mine_empty(blocks)
        if work:
            self.work()

    def sent(self, refund: Refund) -> SignedTransaction:
        return self.store.transactions(refund.id)[-1]

    def blocked(self, refund: Refund) -> tuple[Status, str | None]:
        """Return the status of *refund*, and what blocks it."""
        stored = self.stored(refund)
        return stored.status, stored.moving.blocked_by

    def on_network(self, name: str, refund: Refund) -> Refund:
        """Return *refund*, which belongs to the network *name* from now on."""
        moved = replace(refund, network=name)
        moved = replace(moved, mac=ROW_MACS.compute(moved))
        row = moved.transaction
        if row is not None:
            row = ROW_MACS.sealed(replace(row, network=name))
            moved = moved.inside(row)
        change = "UPDATE {} SET network = ?, mac = ? WHERE {} = ?"

        def work(connection: Connection) -> None:  # No port does this.
            connection.exec_driver_sql("DROP TRIGGER IF EXISTS refunds_keep")
            own = (name, moved.mac, refund.id)
            connection.exec_driver_sql(change.format("refunds", "id"), own)
            if row is not None:
                connection.exec_driver_sql("DROP TRIGGER IF EXISTS transactions_keep")
                paying = (name, row.mac, row.nonce)
                connection.exec_driver_sql(
                    change.format("transactions", "nonce"), paying
                )

        self.store._database.run(work)  # type: ignore[attr-defined]
        return moved

    def broadcast(self, **changes: Any) -> Refund:
        """Return a refund whose transaction is in the node's pool."""
        return self.step(self.accepted(**changes), times=3)

    def _timer(self) -> float:
        return self.clock.now.timestamp()

    def fill(self, nonce: int) -> Transaction:
        """Return a new filler of the signer's wallet, as a restore stores it."""
        chain_id, address, now = (
            self.network.chain_id,
            self.signer.address,
            self.clock(),
        )
        key = find_key(self.store.keys(), address)
        assert key is not None
        self.store.fill(
            Transaction(
                chain_id,
                address,
                nonce,
                "local",
                TransactionKind.FILLER,
                compose(()),
                key.key_id,
                21_000,
                now,
                TransactionStatus.RESERVED,
                now,
                due_at=now,
            )
        )
        return self.found(nonce)

    def found(self, nonce: int) -> Transaction:
        """Return the transaction of the signer's wallet with *nonce*."""
        wallet = self.network.chain_id, self.signer.address
        found = self.store.find_transaction(*wallet, nonce)
        assert found is not None
        return found

    def move(self, transaction: Transaction, times: int = 1) -> Transaction:
        """Take *times* steps of *transaction*, and return it."""
        for _ in range(times):
            (outcome,) = self.lifecycle.step_all([transaction])
            moved = require(outcome)
            assert isinstance(moved, Transaction)
            assert moved == self.found(transaction.nonce)
            transaction = moved
        return transaction

    def finish_nonce(self, nonce: int) -> Transaction:
        """Run workers and mine blocks until the transaction with *nonce* is final."""
        for _ in range(20):
            self.work(after=timedelta(seconds=31))
            self.mine_deep()
            if not TRANSACTION_MOVES[self.found(nonce).status]:
                break
        return self.found(nonce)

    def stored(self, refund: Refund) -> Refund:
        found = self.store.get(refund.id)
        assert found is not None
        return found

    def tracked(self, refund: Refund) -> Refund:
        """Return *refund* after one pass of the confirmation tracker."""
        self.confirmation_tracker.track()
        return self.stored(refund)

    def step(self, refund: Refund, times: int = 1) -> Refund:
        """Take *times* steps of *refund*, and return it as the store has it."""
        for _ in range(times):
            refund = self.lifecycle.step(refund)
            assert refund == self.store.get(refund.id)
        return refund
