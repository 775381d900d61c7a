"""A worker takes the steps of many refunds together; none stops the others."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from signer.audit.log import AuditLog
from signer.errors import (
    BroadcastRejectedError,
    ChainUnavailableError,
    InsufficientFundsError,
    SigningStoppedError,
    StoreUnavailableError,
)
from signer.keys.signer import Signer
from signer.model.audit_record import Record
from signer.model.key import SigningCondition
from signer.model.refund import Refund, Status
from signer.model.transaction import CLAIM_TIME
from signer.ports.chain import Call
from signer.ports.key_backend import DeviceSignature, KeyId
from signer.refunds.saved_steps import Moving
from signer.refunds.transaction_signer import TransactionSigner
from tests.fixtures.ledger import as_if, stopped
from tests.support.audit import record
from tests.support.devices import FullDisk, honest, recording, signer_over
from tests.support.refunds import (
    ACTOR,
    KEY,
    World,
    altered,
    altered_chain,
    stepping,
    unsaved,
)


def _due(world: World, count: int) -> list[Refund]:
    refunds = [world.accepted() for _ in range(count)]
    world.clock.now += CLAIM_TIME
    return refunds


def test_a_batch_shares_its_requests(world: World) -> None:
    """Count, fees and wallet are read once, and each refund is estimated."""
    refunds = _due(world, 6)
    world.worker.work()  # Opens the wallet.
    world.chain.calls.clear()
    more = _due(world, 6)

    assert world.worker.advance() == 18

    assert world.chain.calls["preflight"] == world.chain.calls["broadcast_all"] == 1
    assert world.chain.calls["fees"] == world.chain.calls["pending_count"] == 1
    assert world.statuses([*refunds, *more]) == [Status.BROADCAST] * 12
    nonces = [world.stored(refund).nonce for refund in (*refunds, *more)]
    assert nonces == list(range(12))


def test_a_refund_whose_intent_has_no_line_is_not_signed(world: World) -> None:
    """It keeps its nonce, and is signed once the log can be written again (A1)."""
    refunds = _due(world, 3)
    signer, device = world.signer, honest(KEY)
    # The lines of the first two intents fit; the third one finds the disk full.
    world.signer = signer_over(device, AuditLog(FullDisk(good=2), journal=world.store))
    world.worker.advance()
    during = [world.stored(refund) for refund in refunds]

    world.signer = signer
    world.work()
    after = [world.stored(refund) for refund in refunds]

    assert device.calls == 2
    assert [each.status for each in during] == [
        Status.BROADCAST,
        Status.BROADCAST,
        Status.RESERVED,
    ]
    assert [each.nonce for each in during] == [each.nonce for each in after]
    assert {each.status for each in after} == {Status.BROADCAST}
    world.mine_deep()
    assert len(world.chain.payouts()) == 3


@pytest.mark.parametrize(
    "error", [ChainUnavailableError("gone"), InsufficientFundsError("top it up")]
)
def test_an_estimate_that_fails_concerns_one_refund(
    world: World, error: Exception
) -> None:
    """It waits; the network is not taken for unreachable when others go on."""
    refunds = _due(world, 3)

    def estimate_gas(call: Call) -> int:
        if call.data.endswith(refunds[0].memo):
            raise error
        return 50_000

    world.client = altered_chain(world.chain, estimate_gas=estimate_gas)
    with capture_logs() as logs:
        world.worker.work()

    assert world.statuses(refunds) == [Status.QUEUED, *[Status.BROADCAST] * 2]
    assert [entry["refund_id"] for entry in logs] == [refunds[0].id]


def test_a_changed_row_leaves_the_batch(world: World) -> None:
    """Another program changed what it pays; the others are paid."""
    refunds = _due(world, 3)
    lifecycle = world.lifecycle
    forged = replace(refunds[1], amount=1)

    outcomes = lifecycle.step_all([refunds[0], forged, refunds[2]])

    assert [getattr(each, "code", None) for each in outcomes] == [
        None,
        "row-not-authentic",
        None,
    ]
    assert world.statuses(refunds) == [Status.RESERVED, Status.QUEUED, Status.RESERVED]


def test_steps_of_different_kinds_in_one_batch(world: World) -> None:
    """Queued, reserved, signed and final refunds each take their own step."""
    queued, reserved, signed = world.accepted(), world.accepted(), world.accepted()
    reserved = world.step(reserved)
    signed = world.step(signed, times=2)
    final = as_if(queued, id="final", status=Status.CONFIRMED)

    outcomes = world.lifecycle.step_all([final, signed, queued, reserved])

    assert [None if isinstance(e, Exception) else e.status for e in outcomes] == [
        Status.CONFIRMED,
        Status.BROADCAST,
        Status.RESERVED,
        Status.SIGNED,
    ]


def test_signatures_of_a_batch_that_cannot_be_stored_are_accounted_for(
    world: World,
) -> None:
    """Nothing is sent; each refund is signed again later."""
    refunds = [world.step(world.accepted()) for _ in range(3)]
    lost = world.store
    world.store = altered(lost, save_all=unsaved)
    outcomes = world.lifecycle.step_all(refunds)
    world.store = lost

    assert [type(each) for each in outcomes] == [StoreUnavailableError] * 3
    assert world.chain.broadcasts == []
    world.work(after=CLAIM_TIME)
    assert world.statuses(refunds) == [Status.BROADCAST] * 3


@pytest.mark.parametrize("is_down", [True, False])
def test_outcomes_of_a_batch_that_cannot_be_stored_are_written_at_once(
    world: World, is_down: bool
) -> None:
    """A process that must end waits for the database once, not for each signature."""
    appended: list[Sequence[Record]] = []

    def append(
        records: Sequence[Record], *, condition: SigningCondition | None = None
    ) -> None:
        appended.append(records)
        if is_down:
            raise StoreUnavailableError("gone")

    journal = altered(world.store, append=append)
    audit, _ = recording(journal=journal)
    world.signer = signer_over(honest(KEY), audit)
    reserved = [world.step(world.accepted()).reserved() for _ in range(3)]
    refunds = [replace(each, intent=record()) for each in reserved]
    appended.clear()
    world.store = altered(world.store, save_all=unsaved)

    with capture_logs() as logs:
        world.lifecycle.step_all(refunds)

    (records,) = appended
    ids = [each.payment.id for each in refunds]
    assert [record.fields["refund_id"] for record in records] == ids
    unrecorded = [
        each["refund_id"] for each in logs if each["event"] == "outcome-not-recorded"
    ]
    assert unrecorded == (ids if is_down else [])


def _block(world: World) -> None:
    world.rotate(block=True)


def _stop(world: World) -> None:
    stopped(world.store)


def _move(world: World) -> None:
    moved = world.clock(), record(event="key-relocate-succeeded")
    world.store.relocate(world.key, "another id", *moved)


def _sign_slowly(
    world: World, meanwhile: Callable[[int], object]
) -> tuple[Sequence[Status], list[str]]:
    """
    Sign eight refunds with a device that takes 0.3 s, and call *meanwhile* each time.

    Return their statuses, and the events of the audit log.
    """
    device = honest(KEY)
    signed = []

    def sign_digest(key_id: KeyId, digest: bytes) -> DeviceSignature:
        signed.append(digest)
        meanwhile(len(signed))
        world.clock.advance(seconds=0.3)
        return device.sign_digest(key_id, digest)

    world.signer = signer_over(altered(device, sign_digest=sign_digest))
    world.signer._audit, events = recording(journal=world.store)
    refunds, lifecycle = [world.accepted() for _ in range(8)], world.lifecycle
    reserved = lifecycle.step_all(refunds)
    assert world.statuses(refunds) == [Status.RESERVED] * 8
    lifecycle.step_all(reserved)  # type: ignore[arg-type]
    assert world.chain.broadcasts == []
    return world.statuses(refunds), [each["event"] for each in events]


@pytest.mark.parametrize(("last", "signatures"), [(1, 2), (4, 4)])
@pytest.mark.parametrize("forbid", [_block, _move, _stop])
def test_a_revoked_key_or_a_stop_ends_the_signatures_of_a_slow_batch(
    world: World, forbid: Callable[[World], None], last: int, signatures: int
) -> None:
    """
    The reservation, which recorded the intents, was long ago (O8).

    What was read before the third and the fifth signature is valid for the next one.
    """
    signed = []

    def meanwhile(count: int) -> None:
        signed.append(count)
        if count == last:
            forbid(world)

    statuses, _ = _sign_slowly(world, meanwhile)

    assert len(signed) == signatures
    # The bytes of a key that has another id now are not lost.
    kept = signatures if forbid is _move else 0
    assert statuses.count(Status.SIGNED) == kept


def test_a_slow_batch_is_checked_by_one_read_each_half_second(world: World) -> None:
    """No intent is written a second time, and all is signed."""
    reads, find_stop = [], world.store.find_stop

    def count(*given: Any) -> Any:
        reads.append(world.clock())
        return find_stop(*given)

    world.ring.active()  # It is enrolled in the store itself.
    world._enrolled = world.store = altered(world.store, find_stop=count)

    statuses, events = _sign_slowly(world, lambda _: None)

    assert statuses == [Status.SIGNED] * 8
    assert events.count("digest-sign-requested") == 8
    assert len(reads) == 3


def test_a_database_that_is_down_is_asked_once_for_a_batch(world: World) -> None:
    """No intent can be recorded, so nothing is signed, and each refund waits."""
    refunds = [world.step(world.accepted()) for _ in range(5)]
    tries = []

    def append(*given: object, **condition: object) -> None:
        tries.append(given)
        raise StoreUnavailableError("gone")

    journal = altered(world.store, append=append)
    world.signer._audit, _ = recording(journal=journal)

    world._known.clear()
    outcomes = world.lifecycle.step_all([world.stored(each) for each in refunds])

    assert [type(each) for each in outcomes] == [StoreUnavailableError] * 5
    assert len(tries) == 1


def test_threads_sign_a_batch_at_the_same_time(world: World) -> None:
    """As many as the device can use; the order of the refunds is kept."""
    refunds = [world.step(world.accepted()) for _ in range(4)]
    together = threading.Barrier(2, timeout=10)
    names = set()

    class Waiting(TransactionSigner):
        def _open_signer(self, *given: object) -> Signer:
            names.add(threading.current_thread().name)
            together.wait()
            return super()._open_signer(*given)  # type: ignore[arg-type]

    lifecycle = world.lifecycle
    lifecycle.parts.attempts._transaction_signer = Waiting(
        world.ring, world.clock, world.payment_policy, lambda: 2
    )
    outcomes = lifecycle.step_all(refunds)

    assert len(names) == 2
    assert [each.nonce for each in outcomes if isinstance(each, Refund)] == [0, 1, 2, 3]
    assert world.statuses(refunds) == [Status.SIGNED] * 4


def test_a_slow_batch_makes_the_next_claims_small(world: World) -> None:
    """A batch must end before its claim expires, else others take its refunds too."""
    seconds = 0.0
    passed = 0.0
    sizes = []
    store = world.store

    def claim(*given: Any, **_: Any) -> Sequence[Moving]:
        claimed = store.claim(*given)
        sizes.append(len(claimed))
        return claimed

    def step(refund: Refund) -> Refund:
        nonlocal passed
        passed += seconds
        return as_if(refund, status=Status.BROADCAST)

    _due(world, 200)
    world.store = altered(store, claim=claim)
    worker = world.worker_with(stepping(world.lifecycle, step))
    worker._timer = lambda: passed
    worker.advance()
    assert sizes == [32, 64, 104, 0]

    sizes.clear()
    seconds = 0.1
    for _ in range(3):
        world.clock.now += CLAIM_TIME
        worker.advance()

    assert sizes == [128, 20, 20]


def test_batches_are_short_while_tenants_share_the_worker(world: World) -> None:
    """A new refund of another tenant waits for the batch that has begun."""
    mine, other = world.accepted(), world.accepted("other")
    worker = world.worker
    worker._timer = world._timer
    sizes = []
    for batch, seconds in [
        ([mine] * 128, 0.4),  # One tenant alone.
        ([other], 0.1),
        ([mine] * 2, 0.11),
        ([mine] * 3, 0.12),
        ([mine] * 4, 0.125),
        ([mine] * 5, 0.2),
    ]:
        worker._adapt_claims(batch, seconds)
        sizes.append(worker._claim_size)

    assert sizes == [128, 2, 3, 3, 4, 2]
    world.clock.advance(seconds=61)  # The other tenant had no refund for a minute.
    for _ in range(6):
        worker._adapt_claims([mine] * worker._claim_size, 0.4)
    assert worker._claim_size == 128


def test_batches_grow_no_longer_with_time(world: World) -> None:
    """What a batch may take follows from small batches, not from those before it."""
    mine, other = world.accepted(), world.accepted("other")
    worker = world.worker
    worker._timer = world._timer
    worker._adapt_claims([other], 0.1)
    sizes = []
    for _ in range(1000):
        size = worker._claim_size
        worker._adapt_claims([mine] * size, 0.1 + size * 0.002)
        sizes.append(size)

    assert max(sizes[100:]) <= 15
    assert sizes[100:].count(2) >= 900 // 32


def test_a_signed_refund_without_bytes_does_not_stop_others(world: World) -> None:
    """Only another program can make such a row; the others are sent (R13)."""
    refunds = [world.step(world.accepted(), times=2) for _ in range(3)]
    lost = refunds[1]
    store = world.store
    world.store = altered(
        store,
        attempts=lambda each: () if each.nonce == lost.nonce else store.attempts(each),
    )
    world.clock.now += CLAIM_TIME

    with capture_logs() as logs:
        world.worker.work()

    assert world.statuses(refunds) == [
        Status.BROADCAST,
        Status.SIGNED,
        Status.BROADCAST,
    ]
    assert [(each["event"], each["refund_id"]) for each in logs] == [
        ("refund-stuck", lost.id)
    ]


def test_signed_bytes_that_a_stop_keeps_back_stay_back_after_a_clock_change(
    world: World,
) -> None:
    """Their age is not known, so the stop is asked for again."""
    refund = world.step(world.accepted(), times=2)
    stopped(world.store)
    world.clock.advance(hours=-1)

    (outcome,) = world.lifecycle.step_all([refund])

    assert isinstance(outcome, SigningStoppedError)
    assert world.chain.broadcasts == []


def test_what_was_sent_is_recorded_before_rejections_are_looked_into(
    world: World,
) -> None:
    """That takes several requests for each; answers to clients do not wait for them."""
    refunds = [world.step(world.accepted(), times=2) for _ in range(3)]
    recorded = []
    world.chain.fail("broadcast", BroadcastRejectedError("no", reason="other"))

    def balance(address: str) -> int:
        recorded.append(world.statuses(refunds))
        return world.chain.balance(address)

    world.client = altered_chain(world.chain, balance=balance)
    world.lifecycle.step_all(refunds)

    assert recorded == [[Status.SIGNED, Status.BROADCAST, Status.BROADCAST]]


def test_cancellations_delay_no_payment_of_their_batch(world: World) -> None:
    """They share one look at the chain, after the others have their nonces."""
    refunds = [world.accepted() for _ in range(6)]
    for refund in refunds[::2]:
        world.service.request_cancellation("gateway", refund.id, ACTOR)
    refunds = [world.stored(refund) for refund in refunds]
    counted = []

    def pending_count(address: str) -> int:
        counted.append(world.statuses(refunds))
        return world.chain.pending_count(address)

    world.client = altered_chain(
        world.chain, pending_count=pending_count, preflight=world.chain.preflight
    )
    world.lifecycle.step_all(refunds)

    assert counted == [[Status.QUEUED, Status.RESERVED] * 3]
    assert world.statuses(refunds) == [Status.CANCELLED, Status.RESERVED] * 3


@pytest.mark.parametrize(("steps", "requests"), [(1, 2), (3, 1)])
def test_payments_do_not_wait_for_older_refunds(
    world: World, steps: int, requests: int
) -> None:
    """An old nonce takes several requests; those that were sent share theirs."""
    older = [world.step(world.accepted(), times=steps) for _ in range(2)]
    world.clock.advance(seconds=30)
    new = [world.accepted() for _ in range(2)]
    meanwhile = []

    def transaction_count(address: str) -> int:
        meanwhile.append(world.statuses(new))
        return world.chain.transaction_count(address)

    world.client = altered_chain(world.chain, transaction_count=transaction_count)
    world.worker.advance()

    assert meanwhile == [[Status.BROADCAST] * 2] * requests
    assert world.statuses([*older, *new]) == [Status.BROADCAST] * 4


def test_unmined_refunds_share_their_requests(world: World) -> None:
    """However many there are, new refunds do not wait for them (R18)."""
    older = [world.broadcast() for _ in range(20)]
    world.chain.forget()
    world.clock.advance(seconds=30)
    new = world.accepted()
    world.chain.calls.clear()
    lifecycle = world.lifecycle

    outcomes = lifecycle.step_all(
        [world.stored(refund) for refund in (*older[::-1], new)]
    )

    assert [None if isinstance(e, Exception) else e.status for e in outcomes] == [
        *[Status.BROADCAST] * 20,
        Status.RESERVED,
    ]
    assert world.chain.calls["transaction_count"] == 1
    assert world.chain.calls["broadcast_all"] == 1
    assert world.chain.broadcasts[20:] == world.chain.broadcasts[:20]
    assert all(world.stored(each).moving.due_at > world.clock() for each in older)
