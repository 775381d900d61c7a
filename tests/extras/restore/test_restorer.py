"""Restores with a log: nothing is paid twice, and nothing is left to do."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from api.extras.restore.plan import RestorePlan
from signer.alerts import Alerts
from signer.approvals import Approvals
from signer.audit.log import AuditLog, LogLines
from signer.errors import (
    ApprovalRequiredError,
    ConflictError,
    NotFoundError,
    StaleStateError,
)
from signer.keys.admin_audit import AdminAudit
from signer.keys.rotation import RotationOptions
from signer.model.approval import ApprovalState
from signer.model.audit_record import Actor, Operation, Record
from signer.model.hold import EVERYTHING
from signer.model.key import KeyState
from signer.model.refund import Status
from signer.model.wallet import Pause
from signer.ports.ledger import Ledger
from tests.fixtures.roles import Processes
from tests.fixtures.scripted_chain import Sent
from tests.support.keys import key_at
from tests.support.ledgers import copy_ledger, seal
from tests.support.refunds import (
    ACTOR,
    AMOUNT,
    CUSTOMER,
    NOON,
    OPERATOR,
    SECOND,
    World,
    altered,
)
from tests.support.restores import Restored, keep_log, plan_of, requested


def _restore(
    world: Restored, store: Ledger, log: Sequence[Record] | None = None
) -> RestorePlan:
    """Replace the ledger by *store*, and restore it with all of the log."""
    records = list(world.log if log is None else log)
    world.store = store
    world.ring.active()
    return world.restore(records)


def _record(event: str, details: dict[str, str]) -> Record:
    return Record.of({"event": event, "details": details}, NOON)


def _paid_before(world: Restored) -> Ledger:
    """Return a backup of a ledger that has paid once."""
    world.step(requested(world, "before"), times=3)
    world.settle()
    return world.backup()


def _paid_once(world: Restored, count: int) -> bool:
    return world.chain.payouts() == [(CUSTOMER, AMOUNT)] * count


def test_refunds_get_their_nonces_back(world: Restored) -> None:
    """Those in a pool, those that were never sent, and those that were mined (R24)."""
    copy = _paid_before(world)
    refunds = [requested(world, name) for name in ("mined", "pooled", "signed", "held")]
    for steps, refund in zip((3, 3, 2, 1), refunds, strict=True):
        world.step(refund, times=steps)
        if refund is refunds[0]:
            world.mine_deep()
    new = requested(world, "new")

    plan = _restore(world, copy)
    held = [world.stored(refund) for refund in refunds]
    world.work(after=timedelta(0))  # Which finds the mined one by its calldata.
    ended = world.finish(*refunds, new)

    assert [each.nonce for each in plan.refunds] == [1, 2, 3, 4, None]
    assert [refund.nonce for refund in held] == [1, 2, 3, 4]
    assert [each.nonce for each in ended] == [1, 2, 3, 4, 5]
    assert {each.status for each in ended} == {Status.CONFIRMED}
    assert _paid_once(world, 6)
    assert not world.wallet.is_paused


def test_nothing_new_is_paid_before_all_nonces_are_final(world: Restored) -> None:
    """A forgotten transaction above a gap is not seen by any count (R24)."""
    copy = _paid_before(world)
    gap = requested(world, "gap")
    world.step(gap, times=3)
    lost = world.sent(world.step(requested(world, "above"), times=3))
    world.chain.pool.pop(world.sent(gap).tx_hash)
    # The lines of both acceptances are lost as well.
    kept = [each for each in world.log if "refund-accept" not in each.body]
    plan = _restore(world, copy, kept)
    repeated, new = requested(world, "above"), requested(world, "new")

    for _ in range(4):
        world.work(after=timedelta(seconds=31))
    waiting = world.stored(new)
    first, second = world.finish(repeated, new)

    (wallet,) = plan.wallets
    assert (wallet.counted, wallet.fillers) == (1, [1, 2])
    assert (waiting.status, waiting.blocked_by) == (Status.QUEUED, "wallet-paused")
    assert first.failure_code in {None, "already-paid"}
    assert second.status is Status.CONFIRMED
    assert second.nonce is not None
    assert second.nonce > lost.nonce
    assert _paid_once(world, 3)


def test_cancellations_and_refusals_are_repeated(world: Restored) -> None:
    """The gateway has the answer that they are not paid, and they are not (R26)."""
    old = requested(world, "old")
    copy = world.backup()
    new, refused = requested(world, "new"), requested(world, "refused")
    for refund in (old, new):
        world.service.request_cancellation("gateway", refund.id, ACTOR)
    world.chain.revert = "blocked"
    world.step(refused)
    world.chain.revert = None

    plan = _restore(world, copy)
    again = plan_of(world, world.log)
    ended = world.finish(old, new, refused)

    assert again.is_empty
    is_new = {each.refund.id: each.record is not None for each in plan.refunds}
    assert [is_new[each.id] for each in (old, new, refused)] == [False, True, True]
    assert plan.facts()["cancelled"] == 3
    assert [refund.status for refund in ended] == [Status.CANCELLED] * 3
    assert world.chain.broadcasts == []
    assert plan_of(world, world.log).is_empty


def test_stops_and_blocks_are_repeated(world: Restored) -> None:
    """After its refunds were created, since a blocked tenant gets none."""
    requested(world, "before")
    copy = world.backup()
    lost = requested(world, "lost")
    world.holds.block("gateway", OPERATOR)
    for name in (None, "local"):
        world.holds.stop(name, OPERATOR.because("drill"))
    gone = {"network": "gone", "reason": "drill"}
    log = [*world.log, _record("signing-stop-succeeded", gone)]

    plan = _restore(world, copy, log)
    seal(world.store)
    again = plan_of(world, log)
    stop = world.store.find_stop(EVERYTHING)

    assert plan.stops == {(None, None): "drill", ("local", None): "drill"}
    assert len(plan.records) == 4
    assert world.stored(lost).status is Status.QUEUED
    assert stop is not None
    assert stop.reason == "drill"
    assert [each.tenant for each in world.store.blocks()] == ["gateway"]
    assert again.is_empty


def test_a_refund_of_a_tenant_that_the_backup_has_blocked(world: Restored) -> None:
    """It was accepted when the block had ended; the nonce is its own (R24)."""
    requested(world, "before")
    world.holds.block("gateway", OPERATOR)
    copy = world.backup()
    world.holds.unblock("gateway", OPERATOR)
    lost = world.step(requested(world, "lost"), times=3)

    _restore(world, copy)
    (confirmed,) = world.finish(lost)

    assert [each.tenant for each in world.store.blocks()] == ["gateway"]
    assert (confirmed.status, confirmed.nonce) == (Status.CONFIRMED, 0)


def test_a_stop_that_was_ended_later_is_not_repeated(world: Restored) -> None:
    """A second restore with the same log knows that the first one repeated it."""
    requested(world, "before")
    copy = world.backup()
    world.holds.stop(None, OPERATOR.because("drill"))
    records = list(world.log)
    _restore(world, copy, records)
    world.holds.resume(None, OPERATOR.because("done"))

    world.restore(records)

    assert world.store.find_stop(EVERYTHING) is None


def test_lost_changes_of_stops_and_blocks_leave_no_stop(
    world: Restored, tmp_path: Path, opened: Callable[[Path], Ledger]
) -> None:
    """Although the audit log of the restored ledger counts more than its backup."""
    requested(world, "before")
    path = copy_ledger(tmp_path / "0.db", tmp_path / "backup.db")
    world.holds.stop(None, OPERATOR.because("drill"))
    world.holds.resume(None, OPERATOR.because("done"))
    world.holds.block("gateway", OPERATOR)
    world.holds.unblock("gateway", OPERATOR)

    _restore(world, opened(path), world.log)
    started = opened(path)  # As a process that starts reads it.

    assert started.find_stop(world.network.chain_id) is None
    assert started.find_block("gateway") is None
    assert started.hold_changes() == 4


def test_a_tenant_that_left_the_file(world: Restored) -> None:
    """It has no refund, so nothing needs a block."""
    requested(world, "before")
    copy = world.backup()
    gone = _record("tenant-block-succeeded", {"tenant": "a b"})

    _restore(world, copy, [*world.log, gone])

    with pytest.raises(NotFoundError):
        world.holds.find_tenant("a b")
    assert world.store.blocks() == ()


def test_a_plan_with_problems_is_not_executed(world: Restored) -> None:
    """Nothing is changed, and the error has the first problem."""
    world.paid()
    world.chain.mine_foreign(world.signer.address)
    before = world.wallet

    with pytest.raises(ConflictError, match="1 of its transactions are not final yet"):
        world.restore()

    assert world.wallet == before


def test_two_restores_change_nothing_more(world: Restored) -> None:
    """Also when the wallet has resumed."""
    copy = _paid_before(world)
    refund = requested(world, "lost")
    world.step(refund, times=2)
    records = list(world.log)
    _restore(world, copy, records)
    paused = world.wallet

    second = world.restore(records)
    world.finish(refund)
    world.work()
    third = world.restore(records)

    assert (paused.paused_by, paused.high_water) == (Pause.RESTORED, 2)
    assert second.is_empty
    assert third.is_empty
    assert not world.wallet.is_paused


def test_a_nonce_that_another_row_has(world: Restored) -> None:
    """A filler of a restore with an incomplete log has it; the refund waits (R24)."""
    copy = _paid_before(world)
    refund = requested(world, "lost")
    world.step(refund, times=3)
    lost = world.sent(refund)
    records = list(world.log)
    _restore(
        world, copy, [each for each in records if "refund-accept" not in each.body]
    )
    world.work()

    with capture_logs() as logs:
        world.restore(records)
    (ended,) = world.finish(refund)

    assert [
        each["nonce"] for each in logs if each["event"] == "nonce-not-restored"
    ] == [lost.nonce]
    assert ended.status in {Status.REFUSED, Status.CONFIRMED}
    assert _paid_once(world, 2)


@pytest.mark.parametrize("steps", [0, 1, 3], ids=["queued", "held", "sent"])
def test_a_refund_that_the_gateway_has_requested_again(
    world: Restored, steps: int
) -> None:
    """It has another id, and gets the nonce of the lost one, if there is one (R24)."""
    copy = world.backup()
    refund = requested(world, "lost")
    if steps:
        world.step(refund, times=steps)
    world.store = copy
    again = requested(world, "lost")

    plan = _restore(world, copy)
    (confirmed,) = world.finish(again)

    assert again.id != refund.id
    assert [(each.refund, each.record, each.nonce) for each in plan.refunds] == (
        [(again, None, 0)] if steps else []
    )
    assert [each.fillers for each in plan.wallets] == ([[]] if steps else [])
    assert plan.incomplete == []
    assert (confirmed.status, confirmed.nonce) == (Status.CONFIRMED, 0)
    assert _paid_once(world, 1)


def test_a_refund_that_is_requested_during_the_restore(world: Restored) -> None:
    """No other process should run: the command is repeated with a new plan."""
    copy = world.backup()
    requested(world, "lost")
    records = list(world.log)
    world.store = copy
    world.ring.active()
    plan = plan_of(world, records)
    again = world.accepted(reference="lost")

    with pytest.raises(ConflictError, match=again.id):
        world.restorer.restore(plan, (), OPERATOR, lambda: plan)
    world.restore(records)

    assert world.finish(again)[0].status is Status.CONFIRMED


def test_a_refund_that_is_processed_during_the_restore(world: Restored) -> None:
    """The row is as it is now, and nothing is repeated."""
    copy = world.backup()
    requested(world, "lost")
    records = list(world.log)
    world.store = copy
    world.ring.active()
    plan = plan_of(world, records)
    again = requested(world, "lost")
    world.step(again)

    world.restorer.restore(plan, (), OPERATOR, lambda: plan)

    assert world.stored(again).status is Status.RESERVED


def test_rotations_and_revocations_are_repeated(world: Restored) -> None:
    """A refund that a revocation moved gets its second nonce back (R24, O8)."""
    refund = world.step(requested(world, "moved"))
    copy = world.backup()
    _rotate(world)
    world.restorer.revocation.revoke(world.signer.address, OPERATOR)
    world.step(world.stored(refund), times=3)
    moved = world.stored(refund)
    records = list(world.log)

    plan = _restore(world, copy, records)
    again = plan_of(world, records, key_ids=[SECOND.address.lower()])
    restored = world.stored(refund)
    (confirmed,) = world.finish(refund)

    assert len(plan.key_changes) == 2
    assert [each.wallet.sender for each in plan.wallets]
    assert (moved.sender, moved.nonce) == (SECOND.address, 0)
    assert (restored.status, restored.sender, restored.nonce) == (
        Status.RESERVED,
        SECOND.address,
        0,
    )
    assert again.is_empty
    assert (confirmed.status, confirmed.tx_hash) == (Status.CONFIRMED, moved.tx_hash)
    assert _paid_once(world, 1)
    keys = world.store.keys()
    assert [key.state for key in keys] == [KeyState.ACTIVE, KeyState.BLOCKED]


def _rotate(world: Restored) -> None:
    options = RotationOptions(active_address=world.signer.address)
    world.restorer.rotation.rotate(SECOND.address.lower(), OPERATOR, options)


@pytest.mark.parametrize("fills", [False, True], ids=["refund", "filler"])
def test_a_key_that_left_the_ring_during_the_restore(
    world: Restored, *, fills: bool
) -> None:
    """Another process changed the ring: a repeated command makes a new plan."""
    copy = world.backup()
    world.step(requested(world, "lost"))
    records = list(world.log)
    world.store = copy
    world.ring.active()
    stated = {("local", world.signer.address): 2} if fills else {}
    plan = plan_of(world, [] if fills else records, stated=stated)
    assert [each.fillers for each in plan.wallets] == [[0, 1] if fills else []]
    world.store = altered(copy, keys=lambda: [key_at(SECOND.address)])

    with pytest.raises(StaleStateError, match="left the ring"):
        world.restorer.restore(plan, (), OPERATOR, lambda: plan)


def test_two_restored_wallets_do_not_wait_for_each_other(world: Restored) -> None:
    """Each has a refund without a signature, and a filler above it (R24)."""
    old = world.step(requested(world, "old"))
    _rotate(world)
    young = world.step(requested(world, "young"))
    copy = world.backup()

    world.store = copy
    world.restore(
        stated={("local", each): 2 for each in (world.signer.address, SECOND.address)},
        has_log=False,
    )
    new = requested(world, "new")
    ended = world.finish(old, young, new)

    wallets = world.store.wallets()
    assert [each.status for each in ended] == [Status.CONFIRMED] * 3
    assert [each.sender for each in ended] == [
        world.signer.address,
        SECOND.address,
        SECOND.address,
    ]
    assert [each.is_paused for each in wallets] == [False, False]
    payments = [Sent.read(raw).payment for raw in {*world.chain.broadcasts}]
    assert payments.count(None) == 2


def test_a_restored_former_wallet_keeps_others_from_paying(world: Restored) -> None:
    """Its forgotten transactions may be payments of the same refunds (R24)."""
    _paid_before(world)
    _rotate(world)
    world.restore(
        stated={("local", world.signer.address): 3, ("local", SECOND.address): 0},
        has_log=False,
    )
    refund = requested(world, "new")
    for _ in range(3):
        world.work(after=timedelta(seconds=31))
    waiting = world.stored(refund)

    (confirmed,) = world.finish(refund)

    assert (waiting.status, waiting.blocked_by) == (Status.QUEUED, "wallet-paused")
    assert (confirmed.status, confirmed.sender) == (Status.CONFIRMED, SECOND.address)


def test_another_administrator_approves_a_restore(world: Restored) -> None:
    """One approval is for all of it, and is used up by it."""
    world.step(world.accepted(), times=3)
    world.settle()
    audit = AuditLog(LogLines(lambda line: None), world.clock, journal=world.store)
    approvals = Approvals(
        world.store, audit, Alerts(world.store), world.clock, required=True
    )
    restorer = world.restorer
    restorer.admin_audit = AdminAudit(
        audit, Operation.ADMINISTRATION, approvals=approvals
    )
    stated = {("local", world.signer.address): 3}
    plan = world.planner.plan([], stated, (), has_log=False)

    with pytest.raises(ApprovalRequiredError) as required:
        restorer.restore(plan, (), Actor("token:alice"), lambda: plan)
    before = world.wallet
    approvals.approve(
        required.value.digest, Actor("token:bob").because("the disk failed")
    )
    restorer.restore(plan, (), Actor("token:alice"), lambda: plan)

    used = world.store.find_approval(required.value.digest)
    assert not before.is_paused
    assert (world.wallet.paused_by, world.wallet.high_water) == (Pause.RESTORED, 3)
    assert used is not None
    assert used.state is ApprovalState.DONE


def test_the_roles_may_restore_and_fill(
    processes: Processes, empty: Callable[[], Ledger]
) -> None:
    """
    Administrators open wallets, create refunds and hold nonces; workers hold and sign
    those of fillers (R24).
    """
    lost = World(empty())
    log = keep_log(lost)
    refunds = [requested(lost, name) for name in ("paid", "cancelled", "refused")]
    unknown = requested(lost, "unknown")
    lost.step(refunds[0], times=3)
    lost.service.request_cancellation("gateway", refunds[1].id, ACTOR)
    lost.chain.revert = "blocked"
    lost.step(refunds[2])
    lost.chain.revert = None
    lost.step(unknown, times=2)
    records = [each for each in log if unknown.reference not in each.body]
    admin, worker = (
        replace(each, chain=lost.chain) for each in (processes.admin, processes.worker)
    )

    plan = admin.restore(records)
    ended = worker.finish(*refunds)
    worker.work()

    assert [each.fillers for each in plan.wallets] == [[1]]
    assert [each.status for each in ended] == [
        Status.CONFIRMED,
        Status.CANCELLED,
        Status.CANCELLED,
    ]
    assert worker.store.paused_wallets() == set()
    assert lost.chain.payouts() == [(CUSTOMER, AMOUNT)]
