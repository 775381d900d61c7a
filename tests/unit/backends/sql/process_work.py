"""What each process does with the ledger, with the database role that it has."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import pytest
from sqlalchemy import event

from api.metrics.ledger import LedgerCollector
from backends.sql import SQLStore
from backends.sql.excess_privileges import Privilege
from backends.sql.tables import metadata
from signer.alerts import Alert, Alerts
from signer.approvals import Approvals
from signer.audit.hash_chain import GENESIS
from signer.audit.log import AuditLog
from signer.config.networks import AutomaticStopRules
from signer.config.tenants import Tenant, TenantRegistry
from signer.crypto.messages import PersonalMessage
from signer.errors import (
    ApprovalRequiredError,
    ConflictError,
    HotWalletError,
    PolicyViolationError,
)
from signer.keys.admin_audit import AdminAudit
from signer.keys.rotation import RotationOptions
from signer.model.approval import Proposal
from signer.model.audit_record import (
    Actor,
    AuditShipping,
    Operation,
)
from signer.model.event import DeliveryState
from signer.model.hold import EVERYTHING, Hold, name_of_chain
from signer.model.key import SERVING, SigningCondition
from signer.model.refund import Refund, Status
from signer.model.spending_limits import NO_LIMITS, Spending
from signer.model.transaction import Transaction
from signer.model.wallet import Pause, Wallet
from signer.model.worker_row import THE_ROW
from signer.policy.facts import Caller, Path
from signer.ports.audit_journal import Checkpoint
from signer.ports.clock import Clock
from signer.ports.event_store import DeliveryAttempt, DeliveryFilter
from signer.ports.ledger import Ledger
from signer.ports.refund_reports import GAS
from signer.ports.refund_store import Topic
from signer.refunds.acceptance import AcceptedRefund
from signer.refunds.eth_send_transaction import TransactionSender
from signer.refunds.nonce_admin import NonceAdmin
from signer.refunds.payment_checks import ZERO_ADDRESS
from signer.refunds.payment_policy import own_keys
from signer.refunds.token_transfer import TransferRequest
from signer.refunds.worker_monitor import Heartbeat, WorkerMonitor
from signer.signing.service import KnownAddresses, Requester, SigningService
from tests.fixtures.batches import CAPPED, PAID, batch_of, ended
from tests.fixtures.ledger import (
    FORGED_APPROVAL,
    accept,
    adopted,
    forge,
    later,
    now,
    queued_call,
    refund_page,
)
from tests.fixtures.roles import PROCESSES, Processes
from tests.support.approvals import (
    approve,
    approve_signed,
    limited,
    requested,
    ruled,
)
from tests.support.approvers import SSHKey, approvers_of
from tests.support.audit import record
from tests.support.devices import Device, signer_over
from tests.support.keys import key_of
from tests.support.ledgers import seal
from tests.support.limits import Hosts
from tests.support.other_payments import RULES, called, rolled_back, swept
from tests.support.policy import SERVICE_POLICY
from tests.support.refunds import AMOUNT, REQUEST, SECOND, World, altered
from tests.support.ring import ALICE, ELSEWHERE, NEW, OLD, OTHER, POOR, SILENCE, System


BOB = Actor("bob", "req-2", "token-2")


class Statements:
    """What the processes execute from now on."""

    def __init__(self, processes: Processes) -> None:
        self._of: dict[str, list[str]] = {name: [] for name in PROCESSES}
        for name, store in processes.stores.items():
            _listen(store, self._of[name])

    def written(self, process: str) -> set[Privilege]:
        """Return the privileges on columns that *process* has used."""
        return set().union(*map(_written, self._of[process]))

    def read(self, process: str) -> set[str]:
        """Return the tables that *process* has read."""
        words = "|".join((*metadata.tables, "alembic_version"))
        tables = rf"\b(?:FROM|JOIN) ({words})\b"
        return set().union(*(re.findall(tables, each) for each in self._of[process]))


def _listen(store: SQLStore, statements: list[str]) -> None:
    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    engine = store._database._process().engine
    event.listen(engine, "before_cursor_execute", note)


def _written(statement: str) -> Iterator[Privilege]:
    for table, names in re.findall(r"INSERT INTO (\w+) \(([^)]*)\)", statement):
        yield from (("INSERT", table, name.strip()) for name in names.split(","))
    for table in re.findall(r"DELETE FROM (\w+)", statement):
        yield "DELETE", table, None
    # A lock needs UPDATE of any one column.
    if "FOR UPDATE OF transactions" in statement:
        yield "UPDATE", "transactions", "updated_at"
    # No statement sets the columns of two tables.
    changed = re.search(
        r"UPDATE (\w+) SET|INSERT INTO (\w+) .* DO UPDATE SET", statement
    )
    if changed:
        assigned = re.findall(r"(?:\bSET|,)\s+(\w+) ?=", statement)
        yield from (("UPDATE", changed[1] or changed[2], name) for name in assigned)


def work_on_keys(processes: Processes) -> None:
    """The first start, rotations, a failover, revocations and retirement."""
    store, workers = processes.stores["admin"], processes.stores["worker"]
    system = System(store, is_empty=True)
    # A rotation in an empty ring that died; then a worker starts with that key.
    died = replace(system.key(OLD), requested_by="alice")
    died = store.begin_rotation(died, system.clock())
    store.wait_for(died, "awaiting-funds", system.clock())
    system.old = workers.enrol(system.key(OLD))
    system.holdings = (POOR,)
    system.rotation(needs_funds=True).rotate(NEW, ALICE)
    system.rotation().rotate(NEW, ALICE)
    system.replicate(NEW, ELSEWHERE)
    system.failover().fail_over(ELSEWHERE, ALICE)
    workers.retire([system.address(OLD)], now(), lambda key: record(at=now()))
    compromised = RotationOptions(
        compromised=True, active_address=system.address(NEW), without_funds=True
    )
    system.rotation().rotate(OLD, ALICE, compromised)
    system.rotation().rotate(OTHER, ALICE)
    system.revocation().revoke(system.address(OLD), ALICE)


def work_on_refunds(processes: Processes) -> None:
    """Accept, pay, confirm, refuse, repeat, list and explain."""
    refunds, worker, admin = processes.refunds, processes.worker, processes.admin
    worker.store.enrol(key_of(worker.signer))
    tenant = Tenant(subjects=("gateway",), max_open_refunds=9)
    refunds.tenants = TenantRegistry({"gateway": tenant})
    service, store = refunds.service, refunds.store

    def submit(key: str) -> AcceptedRefund:
        request = replace(REQUEST, reference="ours")
        return service.submit(
            tenant="gateway", idempotency_key=key, request=request, actor=ALICE
        )

    sent = submit("ours").refund
    store.find_earlier(sent, ["gateway", "shop"])
    store.find_advanced([sent.id], [Status.QUEUED])
    store.spent(sent)  # For previews.
    store.payment_totals(sent)
    assert not submit("ours").created
    with pytest.raises(ConflictError):
        submit("other")
    confirmed, _ = worker.finish(sent, refunds.accepted())
    assert confirmed.status is Status.CONFIRMED
    assert worker.store.signed_request(sent.id) is None
    cancelled = refunds.accepted()
    service.request_cancellation("gateway", cancelled.id, ALICE)
    waiting = refunds.accepted()
    worker.work()
    assert worker.stored(cancelled).status is Status.CANCELLED
    with store.watch(Topic.MOVED) as watch:
        watch.wait(0.001)
    for world in (refunds, admin):
        explanation = world.explainer.explain(worker.stored(waiting))
        assert explanation.refund.status is Status.BROADCAST
    refund_page(store, "gateway", status=Status.BROADCAST, limit=1)
    _work_on_large_refunds(processes)


def work_on_batches(processes: Processes) -> None:
    """Read a batch of which one refund is queued again."""
    worker, stores = processes.worker, processes.stores
    chain_id, sender = worker.network.chain_id, worker.signer.address
    wallet = worker.store.wallet(chain_id, sender)
    assert wallet is not None
    refunds = [processes.refunds.accepted() for _ in range(2)]
    batch = batch_of(stores["worker"], *refunds, nonce=wallet.next_nonce, sender=sender)
    ended(stores["worker"], batch, PAID, CAPPED)
    for store in stores.values():
        found = store.find_transaction(chain_id, sender, batch.nonce)
        assert found is not None
        assert found.payment_ids == batch.payment_ids


def work_on_signing(processes: Processes) -> None:
    """Sign, count a document, accept and repeat a transfer, wait; accept a call."""
    sign = processes.sign
    assert sign.ring.active()
    called(ruled(sign, RULES))
    sign.policy = SERVICE_POLICY
    signing = SigningService(
        lambda: signer_over(cast("Device", sign.signer._backend), AuditLog(SILENCE)),
        SERVICE_POLICY,
        {"local": sign.network},
        now,
        known=KnownAddresses(lambda: own_keys(sign.ring.cached_keys())),
        blocks=sign.store,
    )
    with pytest.raises(PolicyViolationError):
        signing.sign_personal_message(
            PersonalMessage(b"hello"), Requester(Caller(Path.JSON_RPC, "shop"), ALICE)
        )
    tenant = Tenant(subjects=("shop",), max_open_refunds=9)
    sign.tenants = TenantRegistry({"shop": tenant})
    sender = TransactionSender(sign.service, sign.store, now, {}, {})
    wallet, chain_id = sign.signer.address, sign.network.chain_id
    transfer = TransferRequest(wallet, chain_id, "TUSD", REQUEST.recipient, "1")
    accepted = sender.accept(transfer, "local", "shop", ALICE)
    assert sender.accept(transfer, "local", "shop", ALICE).id == accepted.id
    following = sender.next_nonce("local", chain_id, wallet)
    numbered = replace(transfer, nonce=following)
    assert sender.accept(numbered, "local", "shop", ALICE).id != accepted.id
    sign.store.find_transaction(chain_id, wallet, 0)
    sign.store.find_advanced([accepted.id], [Status.QUEUED])
    sign.store.payment_totals(sign.stored(accepted))
    requested(limited(sign))
    processes.worker.work()
    assert sign.wallet.next_nonce > 0
    sign.store.find_stop(sign.network.chain_id)
    key = sign.ring.active().key
    spent = Spending(7, "TUSD", key.address, "shop", key.address, 1, NO_LIMITS)
    for _ in range(2):  # The second one changes the row.
        sign.store.append(
            [record(at=now())],
            condition=SigningCondition(
                key.address, key.key_id, SERVING, spendings=(spent,)
            ),
        )


def _work_on_large_refunds(processes: Processes) -> None:
    """Refunds that wait for an approval: requested, found later, and cancelled."""
    refunds, worker, admin = processes.refunds, processes.worker, processes.admin
    found = refunds.accepted()
    large, cancelled = (requested(limited(refunds)) for _ in range(2))
    limited(worker).work()
    assert worker.stored(found).status is Status.AWAITING_APPROVAL
    for refund, actor in ((large, ALICE), (found, ALICE), (found, BOB)):
        approve(admin, refund, Actor(f"token:{actor.name}"))
    refunds.service.request_cancellation("gateway", cancelled.id, ALICE)
    _sign_again(admin, worker, large)
    worker.work()
    assert worker.stored(cancelled).status is Status.CANCELLED
    (paid,) = worker.finish(large)
    assert paid.status is Status.CONFIRMED
    for world in (refunds, worker):
        world.change_token(approve_above=None)


def _sign_again(admin: World, worker: World, refund: Refund) -> None:
    """A worker asks for signatures; administrators hand two in, of which one counts."""
    keys = {"alice": SSHKey(), "bob": SSHKey()}
    worker.approvers = admin.approvers = approvers_of(**keys)
    worker.work()
    approve_signed(admin, refund, "alice", keys["alice"])
    worker.approvers = approvers_of(bob=keys["bob"], carol=SSHKey())
    worker.work()
    worker.approvers = admin.approvers
    approve_signed(admin, refund, "bob", keys["bob"])
    worker.approvers = admin.approvers = None


_DAY = 86_400


def work_on_events(processes: Processes) -> None:
    """Sequence, list and deliver events; an operator lists and repeats deliveries."""
    worker, admin = processes.stores["worker"], processes.stores["admin"]
    worker.sequence_events(100, later(0), lambda _: True)
    assert processes.stores["refunds"].events("gateway", 0, 100, later(0)).events
    free = {"gateway": 1}
    for state in (DeliveryState.PENDING, DeliveryState.DELIVERED):
        (due,) = worker.claim_deliveries(free, 1, later(9), later(60))
        worker.record_attempts(
            [DeliveryAttempt(due.delivery, state, later(0))], later(0)
        )
    new = processes.refunds.accepted()
    worker.sequence_events(100, later(0), lambda _: False)
    events = worker.events("gateway", 0, 100, later(0)).events
    (unsent,) = (event.id for event, _ in events if event.refund_id == new.id)
    delivered = DeliveryFilter(state=DeliveryState.DELIVERED)
    (sent, _), *_ = admin.deliveries(100, delivered)
    ids = [unsent, sent.event_id]
    assert admin.replay_deliveries(ids, later(0), lambda _: True) == ids
    assert admin.replay_dead("gateway", 9, later(0)) == 0
    assert admin.webhook_backlog()
    for _ in range(2):
        processes.refunds.accepted()
    worker.sequence_events(100, later(-100 * _DAY), lambda _: False)
    pruned = worker.prune_events(later(-90 * _DAY), 0, 9)
    assert pruned is not None
    assert pruned.count == 1


def work_on_wallets(processes: Processes) -> None:
    """Foreign transactions; a repair; a restore; a sweep; a revoked key."""
    worker, admin = processes.worker, processes.admin
    worker.chain.mine()
    worker.chain.mine_foreign(worker.signer.address)
    worker.mine_deep()
    worker.work()
    assert worker.wallet.is_paused
    audit = AuditLog(SILENCE, journal=admin.store)
    admin_audit = AdminAudit(audit, Operation.ADMINISTRATION)
    nonces = NonceAdmin(admin.store, admin.chains, admin_audit, admin.clock)
    (repaired,) = nonces.repair(None, ALICE)
    assert repaired.resumed
    _restore(admin, processes.refunds.accepted())
    mark = worker.wallet.next_nonce
    admin.store.pause(worker.wallet, Pause.RESTORED, admin.clock(), mark)
    for _ in range(10):
        worker.work()
        worker.mine_deep()
    assert worker.wallet.paused_by is None
    worker.chain.mine_foreign(worker.signer.address)
    worker.chain.mine_empty(3)
    with suppress(HotWalletError):
        nonces.repair(None, ALICE)
    for _ in range(10):
        worker.work()
        worker.mine_deep()
    admin.rotate(SECOND)
    admin.client = altered(
        worker.chain,
        call=lambda _: AMOUNT.to_bytes(32, "big"),
        balance=lambda _: 10**18,
    )
    assert swept(admin)
    admin.client = None
    rolled_back(admin)
    reserved = worker.step(processes.refunds.accepted())
    assert reserved.status is Status.RESERVED
    admin.rotate(SECOND, block=True)
    assert worker.stored(reserved).status is Status.QUEUED
    worker.chain.mine_foreign(worker.signer.address)  # A worker accepts it itself.
    for _ in range(10):
        worker.work()
        worker.mine_deep()
    nonces.abandon(worker.signer.address, None, ALICE)


def _restore(admin: World, queued: Refund) -> None:
    """Open a lost wallet, give a lost call its nonce, and repeat a cancellation."""
    other = Wallet(7, SECOND.address, 0, 0, Pause.RESTORED, admin.clock(), high_water=1)
    admin.store.open_wallet(other)
    assert admin.store.request_cancellation(queued, admin.clock(), record())
    lost = queued_call(network="another", chain_id=7)
    call, _ = accept(admin.store, lost, is_restored=True)
    held = Transaction.draft(
        [call],
        admin.clock(),
        sender=SECOND.address,
        nonce=0,
        key_id="02",
        gas_limit=21_000,
    )
    assert admin.store.adopt(call, call.assigned(held)).status is Status.RESERVED


def work_on_stops(processes: Processes) -> None:
    """Automatic stops; an operator's stops and blocks of tenants."""
    worker, admin = processes.worker, processes.admin
    rules = AutomaticStopRules(max_refunds=1)
    worker.network = worker.network.model_copy(update={"automatic_stop": rules})
    for actor in (ALICE, BOB):
        for tenant in ("gateway", "shop", "gateway", "shop"):
            worker.step(processes.refunds.accepted(tenant=tenant), times=3)
        worker.automatic_stop.check()
        assert admin.holds.resume("local", ALICE.because("explained")).changed
        worker.clock.advance(seconds=1)
        assert admin.holds.stop(
            "local", actor.because(f"asked by {actor.name}")
        ).changed
        assert admin.holds.resume("local", ALICE.because("explained")).changed
        worker.clock.advance(seconds=1)
    assert admin.holds.stop(None, ALICE.because("a test")).changed
    assert admin.holds.resume(None, ALICE.because("a test")).changed
    tenants = admin.holds
    assert tenants.block("shop", ALICE)
    for actor in (ALICE, BOB):
        for _ in range(2):
            worker.step(processes.refunds.accepted(), times=3)
        worker.automatic_stop.check()
        assert tenants.unblock("gateway", actor)
        worker.clock.advance(seconds=1)
        assert tenants.block("gateway", actor)
        assert tenants.unblock("gateway", actor)
        worker.clock.advance(seconds=1)
    _decide(admin.store, admin.clock)


def _decide(store: Ledger, clock: Clock) -> None:
    """Ask for a change, reject it, ask again, approve and make it."""
    audit = AuditLog(SILENCE, journal=store)
    approvals = Approvals(store, audit, Alerts(store), clock, required=True)
    carol, dave = Actor("token:carol"), Actor("token:dave")
    forged = Proposal("other", {})
    # Another program inserted a row for it, which the first request replaces.
    forge(store, FORGED_APPROVAL.format(digest=forged.digest))
    forge(store, "UPDATE approvals SET refund_id = 'rf', version = 1 WHERE mac IS NULL")
    for proposal in (Proposal("test", {}), forged):
        for decide in (approvals.reject, approvals.approve):
            with suppress(ApprovalRequiredError), approvals.authorize(proposal, dave):
                raise AssertionError("made without an approval")
            decide(proposal.digest, carol.because("a test"))
        assert store.begin_hold(Hold.of_chain(EVERYTHING, clock(), "a test", dave.name))
        with approvals.authorize(proposal, dave) as use:
            assert store.end_hold(name_of_chain(EVERYTHING), clock(), use=use)


def work_on_the_audit_log(processes: Processes) -> None:
    """Records of starts; alerts; sealing; checkpoints; shipping; tokens and counts."""
    for name in PROCESSES:
        store = processes.stores[name]
        store.check()
        store.last_configuration(name)
        store.open_approvals(0, 1)  # The doctor shows what waits.
        store.append([record(at=now())])
        Alerts(store).sound(Alert.ROW_CHANGED)
        assert store.alert_counts()
        assert store.oldest_unsealed()
        if name not in {"refunds", "sign"}:
            seal(store)
            store.keep_checkpoint(Checkpoint(store.head()[0], "note"))
            assert store.checkpoints()
        if name != "refunds":
            store.shipping()  # Before a signature, and for the metrics.
        if name == "worker":
            row = AuditShipping(THE_ROW, "file:///logs", 0, GENESIS, now())
            kept = store.keep_shipping(None, row)
            after = replace(kept, place="", sequence=1, hash=bytes(32))
            store.keep_shipping(kept, replace(after, complete_at=later(1)))
        else:
            assert store.count("bucket", 1)
    assert processes.admin.store.use_token("jti", later(60), now())


def work_on_limits(processes: Processes) -> None:
    """Each process starts with the first limits, and with raised ones."""
    for amount in ("1000", "5000"):
        if amount == "5000":
            Hosts(processes.stores["admin"]).approve(amount)
        for name in PROCESSES:
            Hosts(processes.stores[name]).start(amount, name)


def work_on_workers(processes: Processes) -> None:
    """A worker starts, adopts and ends; every process watches, and reports."""
    heartbeat = Heartbeat(processes.stores["worker"], now)
    heartbeat()
    for name in PROCESSES:
        store = processes.stores[name]
        alerts = Alerts(store)
        ahead = WorkerMonitor(store, alerts, lambda: later(60))
        ahead.look()
        ahead.look()
    for name in ("worker", "admin"):  # The monitor of wallets, and the doctor.
        processes.stores[name].spent_lately(1, [GAS])
    worker = processes.stores["worker"]
    # Top-ups need a wallet that is not stopped, paused or about to change.
    assert worker.find_stop(1) is None
    assert worker.wallet(1, ZERO_ADDRESS) is None
    worker.keys()
    lost = processes.refunds.accepted()
    assert worker.adopt(lost, adopted(lost, 0)).status is Status.MINED
    collector = LedgerCollector(processes.stores["admin"], now, networks={})
    assert list(collector.collect())
    heartbeat.end()
