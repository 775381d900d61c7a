"""Receipts, depth, reorganisations and Transfer events of broadcast refunds."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from eth_abi.abi import encode
from sqlalchemy import Connection
from structlog.testing import capture_logs

from signer.chain.chain import Chain
from signer.errors import ChainUnavailableError, HotWalletError, StoreUnavailableError
from signer.model.refund import Refund, Status
from signer.model.transaction import CLAIM_TIME, Transaction
from signer.ports.chain import Block, Log, Receipt
from signer.ports.meter import Meter, Meters
from signer.ports.refund_store import Change
from signer.refunds.confirmations import ConfirmationTracker
from signer.refunds.head_looks import LONGEST_OWN_PAUSE, HeadLooks
from signer.refunds.saved_steps import REBROADCAST_AFTER
from tests.support.refunds import AMOUNT, CUSTOMER, World, altered, altered_chain


class _Batches(Meter):
    def __init__(self) -> None:
        self.batches: list[tuple[str, int, list[str]]] = []

    def ended_batch(self, network: str, size: int, unpaid: Sequence[str]) -> None:
        self.batches.append((network, size, [*unpaid]))


@pytest.mark.parametrize("is_vault", [True, False])
def test_a_final_batch_is_measured(world: World, is_vault: bool) -> None:
    """The cap of the day was lowered meanwhile; a plain transfer is no batch."""
    vault = world.use_vault() if is_vault else None
    world.compile_policy()
    for _ in range(3):
        world.accepted()
    world.work()
    if vault is not None:
        vault.per_day = 2 * AMOUNT
    world.mine_deep()
    tracker = world.tracker(meter=(meter := _Batches()))

    with capture_logs() as logs:
        tracker.track()
        tracker.track()

    assert meter.batches == ([("local", 3, ["vault-limit"])] if is_vault else [])
    raised = [each["alert"] for each in logs if "alert" in each]
    assert raised == (["vault-limit"] if is_vault else [])


def test_a_batch_that_is_paid_raises_no_alert(world: World) -> None:
    world.use_vault()
    world.compile_policy()
    world.accepted()
    world.work()
    world.mine_deep()
    with capture_logs() as logs:
        world.confirmation_tracker.track()

    assert not [each for each in logs if "alert" in each]


def _mined(world: World) -> Refund:
    refund = world.broadcast()
    world.chain.mine()
    mined = world.tracked(refund)
    assert mined.status is Status.MINED
    return mined


def test_a_transaction_that_another_worker_changes_meanwhile_is_left(
    world: World,
) -> None:
    """What it pays is read after it, and may be newer than it."""
    refund = world.broadcast()
    world.chain.mine()
    store = world.store

    def with_payments(given: Sequence[Transaction]) -> Sequence[Transaction]:
        for each in given:
            store.save(each, each.with_due_at(world.clock()))
        return store.with_payments(given)

    world.store = altered(store, with_payments=with_payments)

    assert world.confirmation_tracker.track() == 0
    assert world.stored(refund).status is Status.BROADCAST


def test_what_another_worker_looks_at_is_left_to_it(world: World) -> None:
    """Its receipts are not asked for twice."""
    refund = world.broadcast()
    others = HeadLooks(world.store, world.clock)
    head = world.chain.latest_block

    def latest_block() -> Block:
        world.clock.advance(seconds=1)
        assert others.begin(world.chains["local"], [refund.reserved()])
        return head()

    world.client = altered_chain(world.chain)
    tracker = world.confirmation_tracker
    assert tracker.track() == 0  # It relied on no look.
    world.chain.mine()
    world.clock.advance(seconds=20)
    world.client = altered_chain(
        world.chain, latest_block=latest_block, receipts=AssertionError()
    )
    tracker.chains = world.chains

    assert tracker.track() == 0
    assert world.stored(refund).status is Status.BROADCAST


def test_a_refund_is_confirmed_at_its_depth(world: World) -> None:
    """Three confirmations are the receipt's own block and two more (R19)."""
    mined = _mined(world)
    world.chain.mine_empty(1)

    assert world.tracked(mined) == mined

    world.chain.mine_empty(1)

    assert world.tracked(mined).status is Status.CONFIRMED


def test_a_network_confirms_what_its_nodes_call_final(world: World) -> None:
    """Not at its depth alone, and only from there on the nodes are asked (R19)."""
    world.network = world.network.model_copy(update={"finality": "finalized"})
    mined = _mined(world)
    number = mined.block_number or 0
    world.chain.mine_empty(1)
    assert world.tracked(mined) == mined
    assert world.chain.calls["final_block"] == 0

    world.chain.finalized = number - 1
    world.chain.mine_empty(5)
    assert world.tracked(mined) == mined
    receipt = world.chain.receipts([mined.tx_hash or ""])[mined.tx_hash or ""]
    assert not world.chains["local"].is_final(receipt)

    # A node that cannot say it keeps no other transaction from being seen.
    other = world.broadcast()
    world.chain.finalized = number
    world.chain.mine()
    world.chain.fail("final_block", ChainUnavailableError("gone"))
    assert world.tracked(mined) == mined
    assert world.stored(other).status is Status.MINED

    world.chain.mine_empty(1)
    assert world.chains["local"].is_final(receipt)
    assert world.tracked(mined).status is Status.CONFIRMED


@pytest.mark.parametrize(("pending", "asked"), [("pool", 1), ("none", 0)])
def test_pools_are_asked_where_they_can_answer(
    world: World, pending: str, asked: int
) -> None:
    """Without a pending state, each transaction would seem to be dropped."""
    world.network = world.network.model_copy(update={"pending": pending})
    world.broadcast()
    world.clock.advance(seconds=1)
    world.confirmation_tracker.track()
    before = world.chain.calls["pending_count"]
    world.clock.advance(seconds=1)
    world.chain.mine_empty(1)
    world.confirmation_tracker.track()

    assert world.chain.calls["pending_count"] - before == asked


@pytest.mark.parametrize("keep", [True, False])
def test_a_reorganisation_moves_the_refund_back(world: World, keep: bool) -> None:
    """Mined becomes broadcast, and the same bytes are mined again (R19)."""
    mined = _mined(world)
    world.chain.mine_empty(5)
    world.chain.reorganise(keep=keep)

    refund = world.tracked(mined)

    assert refund.status is Status.BROADCAST
    assert (refund.block_number, refund.reserved().block_hash) == (None, None)
    assert refund.moving.due_at == world.clock()
    if not keep:
        refund = world.step(refund)
    world.mine_deep()
    assert world.tracked(refund).status is Status.MINED
    assert world.tracked(refund).status is Status.CONFIRMED
    assert len(set(world.chain.broadcasts)) == 1
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_fee_and_signatures_are_measured_when_a_refund_ends(world: World) -> None:
    """Once; a node that names no fee is no problem."""
    measured: list[tuple[str, int]] = []

    class Kept(Meter):
        def paid_fee(self, network: str, wei: int) -> None:
            measured.append((network, wei))

        def ended(self, network: str, *, signatures: int) -> None:
            measured.append((network, signatures))

    tracker = world.tracker(meter=Meters(Kept()))
    for fee, stuck in ((21_000, False), (None, True)):
        refund = world.broadcast()
        if stuck:
            world.clock.advance(seconds=world.network.stuck_after_seconds)
            world.step(refund, times=2)  # It is replaced.
        world.chain.mine(lambda receipt, fee=fee: replace(receipt, fee=fee))  # type: ignore[misc]
        world.chain.mine_empty(5)
        measured.clear()
        tracker.track()
        assert measured == []
        tracker.track()
        tracker.track()

        assert world.stored(refund).status is Status.CONFIRMED
        expected = {("local", 2)} if stuck else {("local", fee), ("local", 1)}
        assert {*measured} == expected
        assert len(measured) == len(expected)


STALE: dict[str, dict[str, Any]] = {
    "no receipt": {"receipts": lambda *_: {}},
    "no receipt or block": {"receipts": lambda *_: {}, "block": lambda number: None},
    "an older head": {"latest_block": lambda: Block(0, "0x")},
    "another block than the receipt's": {"block": lambda number: Block(number, "0x")},
}


@pytest.mark.parametrize("answers", STALE.values(), ids=STALE)
def test_a_node_that_lags_moves_no_refund(
    world: World, answers: dict[str, Any]
) -> None:
    """A mined refund waits until the node knows its block again (R10, R19, R25)."""
    mined = _mined(world)
    world.chain.mine_empty(5)
    world.client = altered_chain(world.chain, **answers)

    assert world.tracked(mined) == mined

    world.client = None
    assert world.tracked(mined).status is Status.CONFIRMED


def test_another_block_with_the_same_transaction_starts_over(world: World) -> None:
    """A receipt from a block with another hash restarts the count (R19)."""
    mined = _mined(world)
    world.chain.mine_empty(5)
    world.chain.rename_blocks()

    back = world.tracked(mined)
    again = world.tracked(back)

    assert back.status is Status.BROADCAST
    assert again.status is Status.MINED
    assert again.reserved().block_hash != mined.reserved().block_hash
    assert world.tracked(again).status is Status.CONFIRMED


def test_a_block_that_arrives_meanwhile_does_not_count(world: World) -> None:
    """The head is read before the receipts, which may be newer (R19)."""
    mined = _mined(world)
    world.chain.mine_empty(1)

    def receipts(tx_hashes: Sequence[str], *_: Any) -> Mapping[str, Receipt]:
        world.chain.mine_empty(1)
        return world.chain.receipts(tx_hashes)

    world.client = altered_chain(world.chain, receipts=receipts)

    assert world.tracked(mined) == mined


def _with_log(**changes: Any) -> Callable[[Receipt], Receipt]:
    return lambda it: replace(it, logs=(replace(it.logs[0], **changes),))


FAILURES: dict[str, tuple[Callable[[Receipt], Receipt], str]] = {
    "reverted": (lambda it: replace(it, succeeded=False), "reverted"),
    "no event": (lambda it: replace(it, logs=()), "transfer-mismatch"),
    "a fee": (_with_log(data=encode(("uint256",), (1,))), "transfer-mismatch"),
    "another token": (_with_log(address=CUSTOMER), "transfer-mismatch"),
    "another recipient": (
        lambda it: _with_log(topics=it.logs[0].topics[:2] * 2)(it),
        "transfer-mismatch",
    ),
}


@pytest.mark.parametrize(("change", "code"), FAILURES.values(), ids=FAILURES)
def test_a_mined_transaction_that_did_not_pay_fails_the_refund(
    world: World, change: Callable[[Receipt], Receipt], code: str
) -> None:
    """A revert, or a missing or different event, is final at depth (R20-R22)."""
    refund = world.broadcast()
    world.chain.mine(change)
    mined = world.tracked(refund)

    assert mined.status is Status.MINED
    assert world.tracked(mined) == mined

    world.chain.mine_empty(2)
    failed = world.tracked(mined)

    assert (failed.status, failed.failure_code) == (Status.FAILED, code)
    assert failed.nonce == refund.nonce
    assert world.work() == 0
    assert len(set(world.chain.broadcasts)) == 1


def test_the_event_decides(world: World) -> None:
    """The token's return value does not count, nor do other events (R22)."""
    refund = world.broadcast()
    noise = Log(CUSTOMER, (), b"")
    world.chain.mine(lambda it: replace(it, logs=(noise, *it.logs, noise)))
    world.chain.mine_empty(2)

    world.confirmation_tracker.track()

    assert world.tracked(refund).status is Status.CONFIRMED


def test_the_hash_that_is_mined_may_change(world: World) -> None:
    """
    The original may be mined after its replacement was sent (R16).

    A reorganisation may put the replacement in its place; it is paid once (R19).
    """
    refund = world.broadcast()
    original = world.sent(refund)
    world.clock.advance(seconds=world.network.stuck_after_seconds)
    replaced = world.sent(world.step(refund, times=2))
    hashes = []
    for mined in (original, replaced):
        world.chain.forget()
        world.chain.broadcast(mined.raw)
        world.mine_deep()
        hashes.append(world.tracked(refund).tx_hash)
        if mined is original:
            world.chain.reorganise(keep=False)
            world.confirmation_tracker.track()
    confirmed = world.tracked(refund)

    assert hashes == [original.tx_hash, replaced.tx_hash]
    assert (confirmed.status, confirmed.tx_hash) == (Status.CONFIRMED, replaced.tx_hash)
    assert world.store.transactions(refund.id) == (original, replaced)
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


@pytest.mark.parametrize("method", ["latest_block", "receipts", "block"])
def test_an_unreachable_network_is_tried_again(world: World, method: str) -> None:
    """Nothing changes, and the next pass succeeds (R13)."""
    mined = _mined(world)
    world.chain.mine_empty(2)
    world.chain.fail(method, ChainUnavailableError("https://u:p@node"))

    assert world.tracked(mined) == mined
    assert world.tracked(mined).status is Status.CONFIRMED


def test_an_unreachable_network_does_not_delay_others(world: World) -> None:
    """Each network is tracked separately."""
    here = _mined(world)
    silent, gone = (
        world.on_network(name, world.broadcast()) for name in ("a-silent", "gone")
    )
    unreachable = altered_chain(world.chain, latest_block=ChainUnavailableError("gone"))
    world.chain.mine_empty(2)
    chains = {"a-silent": Chain(world.network, unreachable), **world.chains}

    with capture_logs() as logs:
        moved = world.tracker(chains=chains).track()

    assert moved == 1
    assert world.stored(here).status is Status.CONFIRMED
    assert world.stored(silent) == silent
    assert world.stored(gone) == gone
    assert [
        entry["network"] for entry in logs if entry["event"] == "tracking-failed"
    ] == ["a-silent"]


def test_an_unreachable_ledger_is_an_error(world: World) -> None:
    mined = _mined(world)
    world.chain.mine_empty(2)
    store = altered(
        world.store, save_all=lambda given: [StoreUnavailableError("gone")] * len(given)
    )

    with pytest.raises(StoreUnavailableError):
        world.tracker(store=store).track()
    assert world.stored(mined) == mined


def test_two_trackers_move_a_refund_once(world: World) -> None:
    """The change of one whose claim of the block has expired is stale (R6)."""
    refund = world.broadcast()
    world.chain.mine()

    def late(changes: Sequence[Change]) -> Sequence[HotWalletError | None]:
        before = Counter(world.chain.calls)
        assert world.confirmation_tracker.track() == 0
        assert world.chain.calls == before
        world.clock.advance(seconds=10.1)
        assert world.confirmation_tracker.track() == 1
        return world.store.save_all(changes)

    tracker = world.tracker(store=altered(world.store, save_all=late))

    assert tracker.track() == 0
    assert world.stored(refund).status is Status.MINED
    assert world.stored(refund).revision == refund.revision + 1


def _sent_together(world: World, count: int, others: int, later: int) -> list[Refund]:
    """Return *count* refunds that a look finds in one block, with *later* ones."""
    refunds = [world.broadcast() for _ in range(count)]
    world.confirmation_tracker.track()
    world.chain.others = others
    world.chain.mine()
    world.chain.mine_empty(later)
    world.chain.expected.clear()
    world.confirmation_tracker.track()
    assert {world.stored(each).status for each in refunds} == {Status.MINED}
    return refunds


def test_transactions_that_share_a_block_are_expected_in_it(world: World) -> None:
    """When they were just mined, and at their depth: it is read only once (R19)."""
    refunds = _sent_together(world, 3, others=9, later=0)
    in_block = dict.fromkeys((str(world.stored(r).tx_hash) for r in refunds), 1)
    assert world.chain.expected == [in_block]

    world.chain.mine_empty(2)
    world.chain.calls.clear()
    assert world.confirmation_tracker.track() == 3
    assert world.chain.expected == [in_block] * 2
    assert world.chain.calls == {"latest_block": 1, "receipts": 1, "block": 1}


@pytest.mark.parametrize(
    ("count", "others", "later"),
    [(2, 0, 0), (3, 10, 0), (5, 0, 1)],
    ids=["few", "many-others", "empty-head"],
)
def test_transactions_are_expected_in_no_block(
    world: World, count: int, others: int, later: int
) -> None:
    """The receipts of a full block are large, and an empty one has none (R19)."""
    _sent_together(world, count, others, later)

    assert world.chain.expected == [{}]


@pytest.mark.parametrize("is_down", [True, False])
def test_a_block_that_cannot_be_read_is_not_asked_for(
    world: World, is_down: bool
) -> None:
    """Only its own read decides whether a refund is final."""
    refunds = _sent_together(world, 3, others=0, later=2)
    if is_down:
        world.chain.fail("block", ChainUnavailableError("gone"))
    else:
        world.client = altered_chain(world.chain, block=lambda number: None)
    world.chain.mine_empty(1)
    world.chain.expected.clear()
    world.confirmation_tracker.track()

    assert world.chain.expected == [{}]
    expected = Status.CONFIRMED if is_down else Status.MINED
    assert {world.stored(each).status for each in refunds} == {expected}


def test_others_may_be_paid_between_the_parts_of_a_pass(world: World) -> None:
    """All are tracked, with the requests of one part."""
    refunds = [world.broadcast() for _ in range(5)]
    world.chain.mine()
    mined: list[int] = []

    def count() -> None:
        mined.append(world.statuses(refunds).count(Status.MINED))

    world.chain.calls.clear()
    assert world.tracker(part=2).track(count) == 5
    assert mined == [2, 4]
    assert world.statuses(refunds) == [Status.MINED] * 5
    assert world.chain.calls["receipts"] == 1


def test_parts_of_a_pass_have_few_batches_of_many(world: World) -> None:
    """How many refunds a batch pays is not known before it is read."""
    world.use_vault()
    world.compile_policy()
    refunds: list[Refund] = []
    for _ in range(5):
        refunds += [world.accepted(), world.accepted()]
        world.work()
    world.chain.mine()
    mined: list[int] = []

    def count() -> None:
        mined.append(world.statuses(refunds).count(Status.MINED))

    assert world.tracker(part=4).track(count) == 5
    assert mined == [2, 6]


def test_a_change_between_the_parts_of_a_pass_is_kept(world: World) -> None:
    """Another worker saw the rest of the block meanwhile (R6)."""
    refunds = [world.broadcast() for _ in range(3)]
    world.chain.mine()
    other = world.tracker()

    def track() -> None:
        world.clock.now += LONGEST_OWN_PAUSE
        other.track()
        world.chain.mine_empty(5)
        other.track()

    assert world.tracker(part=1).track(track) == 1
    assert world.statuses(refunds) == [Status.CONFIRMED] * 3


def test_what_a_worker_changed_between_the_parts_is_looked_at_again(
    world: World,
) -> None:
    """At the same head: its receipt was not used."""
    refunds = [world.broadcast() for _ in range(2)]
    world.chain.mine()
    tracker = world.tracker(part=1)

    def claim() -> None:
        world.clock.now += REBROADCAST_AFTER
        assert world.store.claim(world.clock(), world.clock() + CLAIM_TIME, 10)

    world.clock.now += timedelta(seconds=1)  # Neither is new for the next look.
    assert tracker.track(claim) == 1
    world.clock.now += timedelta(seconds=13)
    assert tracker.track() == 1
    assert world.statuses(refunds) == [Status.MINED] * 2


@pytest.mark.parametrize(("seconds", "takes_over"), [(6, False), (11, True)])
def test_a_claim_is_renewed_between_the_parts_of_a_pass(
    world: World, seconds: int, takes_over: bool
) -> None:
    """Payments take longer than the claim in all; if one does, another worker looks."""
    tracker = world.confirmation_tracker
    refunds = [world.broadcast() for _ in range(4)]
    tracker.track()
    world.clock.advance(seconds=20)
    world.chain.mine()
    tracker.part = 1
    others: list[int] = []

    def pay() -> None:
        world.clock.advance(seconds=seconds)
        others.append(world.confirmation_tracker.track())

    world.chain.calls.clear()

    assert tracker.track(pay) == (1 if takes_over else 4)
    assert others == ([3] if takes_over else [0, 0, 0])
    assert world.chain.calls["receipts"] == (2 if takes_over else 1)
    assert world.statuses(refunds) == [Status.MINED] * 4


def test_the_next_network_has_what_was_sent_between_the_parts(world: World) -> None:
    """Its receipts do not wait for another block."""
    for _ in range(2):
        world.broadcast()
    refunds = [world.on_network("other", world.broadcast())]
    world.chain.mine()
    other = world.network.model_copy(update={"chain_id": 999})
    chains = {**world.chains, "other": Chain(other, world.chain)}

    def pay() -> None:
        if len(refunds) == 1:
            refunds.append(world.on_network("other", world.broadcast()))
            world.chain.mine()

    assert world.tracker(part=1, chains=chains).track(pay) == 4
    assert world.statuses(refunds) == [Status.MINED] * 2


def test_the_next_network_may_have_nothing_left(world: World) -> None:
    """Another worker has confirmed its refund between the parts of the first."""
    for _ in range(2):
        world.broadcast()
    refund = world.on_network("other", world.broadcast())
    world.chain.mine()
    other = Chain(world.network.model_copy(update={"chain_id": 999}), world.chain)

    def confirm() -> None:
        tracker = world.tracker(chains={"other": other})
        tracker.track()
        world.chain.mine_empty(3)
        world.clock.now += CLAIM_TIME
        tracker.track()

    chains = {**world.chains, "other": other}
    assert world.tracker(part=1, chains=chains).track(confirm) == 2
    assert world.statuses([refund]) == [Status.CONFIRMED]


@pytest.mark.parametrize("method", ["with_payments", "save_all"])
@pytest.mark.parametrize("errors", [1, 2])
def test_a_database_that_is_away_in_a_later_part_loses_nothing(
    world: World, method: str, errors: int
) -> None:
    """What the first part saw is saved, and the others are looked at again."""
    refunds = [world.broadcast() for _ in range(3)]
    world.chain.mine()
    calls: list[object] = []

    def fail(given: Sequence[Any]) -> Any:
        calls.append(given)
        if 1 < len(calls) <= 1 + errors:
            raise StoreUnavailableError("gone")
        return getattr(world.store, method)(given)

    tracker = world.tracker(store=altered(world.store, **{method: fail}), part=1)
    with suppress(StoreUnavailableError):
        tracker.track()
    assert world.statuses(refunds).count(Status.MINED) in {1, 2}
    for _ in range(errors):
        world.clock.now += CLAIM_TIME
        tracker.track()

    assert world.statuses(refunds) == [Status.MINED] * 3
    world.chain.mine_empty(3)
    world.clock.now += CLAIM_TIME
    assert world.confirmation_tracker.track() == 3
    assert world.statuses(refunds) == [Status.CONFIRMED] * 3


def test_a_changed_row_is_not_compared_with_the_chain(world: World) -> None:
    """The refund waits, and does not fail because the chain shows another payment."""
    refund, other = world.broadcast(), world.broadcast()
    world.mine_deep()

    def change(connection: Connection) -> None:
        connection.exec_driver_sql("DROP TRIGGER refunds_keep")
        connection.exec_driver_sql(
            "UPDATE refunds SET recipient = '0x01' WHERE id = ?", (refund.id,)
        )

    world.store._database.run(change)  # type: ignore[attr-defined]
    tracker = world.confirmation_tracker

    assert [tracker.track(), tracker.track(), tracker.track()] == [1, 1, 0]
    assert world.stored(refund).status is Status.BROADCAST
    assert world.stored(other).status is Status.CONFIRMED
    assert world.store.alert_counts() == {"row-not-authentic": 1}


def test_a_block_without_a_quorum_does_not_delay_earlier_refunds(world: World) -> None:
    """What the chain showed before the error is saved."""
    refunds = [_mined(world), _mined(world)]
    world.chain.mine_empty(3)
    disputed = world.stored(refunds[1]).block_number

    def block(number: int) -> Block | None:
        if number == disputed:
            raise ChainUnavailableError("too few nodes responded for a quorum")
        return world.chain.block(number)

    world.client = altered_chain(world.chain, block=block)
    with capture_logs() as logs:
        assert world.confirmation_tracker.track() == 1

    assert world.statuses(refunds) == [Status.CONFIRMED, Status.MINED]
    assert [each["event"] for each in logs] == ["tracking-failed", "refund-ended"]


def _asked(world: World, tracker: ConfirmationTracker) -> set[str]:
    """Return the methods of the chain that the next look of *tracker* calls."""
    before = Counter(world.chain.calls)
    tracker.track()
    return set(world.chain.calls - before)


def test_nodes_are_asked_when_the_answer_can_have_changed(world: World) -> None:
    """Receipts when a nonce is used, and at depth; blocks when the head has moved."""
    world.network = world.network.model_copy(update={"confirmations": 4})
    tracker = world.confirmation_tracker
    refund = world.broadcast()
    world.clock.advance(seconds=1)
    looks = [_asked(world, tracker)]
    world.clock.advance(seconds=1)
    looks.append(_asked(world, tracker))
    world.chain.mine_empty(1)
    looks.append(_asked(world, tracker))
    world.chain.mine()
    looks.append(_asked(world, tracker))
    world.clock.advance(seconds=1)
    looks.append(_asked(world, tracker))
    for blocks in (2, 1):
        world.chain.mine_empty(blocks)
        world.clock.advance(minutes=1)
        looks.append(_asked(world, tracker))

    assert looks == [
        {"latest_block", "transaction_count"},
        {"latest_block"},  # The head is the same.
        # No nonce is used, and the transaction is still in the pool.
        {"latest_block", "transaction_count", "pending_count"},
        {"latest_block", "transaction_count", "receipts"},
        {"latest_block"},
        {"latest_block", "block"},  # Its block is still there.
        {"latest_block", "receipts", "block"},
    ]
    assert world.stored(refund).status is Status.CONFIRMED


def test_a_refund_that_is_sent_while_a_worker_looks_is_found(world: World) -> None:
    """The look before saw the block of its transaction, and not the refund."""
    first = world.broadcast()
    late = world.step(world.accepted(), times=2)
    world.chain.broadcast(world.sent(late).raw)
    world.chain.mine()
    tracker = world.confirmation_tracker
    tracker.track()
    assert world.statuses([first, late]) == [Status.MINED, Status.SIGNED]

    world.clock.advance(seconds=1)
    world.step(world.stored(late))
    tracker.track()

    assert world.statuses([first, late]) == [Status.MINED, Status.MINED]


def test_a_newest_block_without_a_quorum_is_looked_at_with_the_next_head(
    world: World,
) -> None:
    """It delays no other refund."""
    mined = _mined(world)
    world.chain.reorganise(keep=True)
    world.chain.fail("block", ChainUnavailableError("gone"))
    tracker = world.confirmation_tracker
    tracker.track()
    assert world.stored(mined) == mined

    world.chain.mine_empty(1)
    tracker.track()

    assert world.stored(mined).status is Status.BROADCAST


def test_the_newest_block_is_looked_at_every_twelve_seconds(world: World) -> None:
    """Fast blocks cost no more requests."""
    world.network = world.network.model_copy(update={"confirmations": 20})
    _mined(world)
    world.broadcast()  # Each block may have it.
    tracker = world.confirmation_tracker
    before = world.chain.calls["block"]
    asked = []
    for _ in range(13):
        world.chain.mine_empty(1)
        tracker.track()
        asked.append(world.chain.calls["block"] - before)
        world.clock.advance(seconds=1)

    assert asked == [1] * 12 + [2]


@pytest.mark.parametrize("blocks", [1, 2, 6])
def test_a_block_that_is_lost_between_is_never_final(world: World, blocks: int) -> None:
    """It is found at its depth, or after twelve seconds, and pays once (R19)."""
    mined = _mined(world)
    tracker = world.confirmation_tracker
    world.chain.mine_empty(1)
    tracker.track()  # The block is there.
    world.chain.reorganise(keep=True)
    for _ in range(blocks):
        world.chain.mine_empty(1)
        world.clock.advance(seconds=1)
        tracker.track()
        assert world.stored(mined).status is not Status.CONFIRMED
    world.clock.advance(seconds=12)
    world.chain.mine_empty(1)
    tracker.track()

    assert world.stored(mined).status is Status.BROADCAST
    world.finish(mined)
    assert world.stored(mined).status is Status.CONFIRMED
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_dropped_transactions_are_sent_again_when_a_block_shows_it(
    world: World,
) -> None:
    """The same bytes, lowest nonce first, and none that is still in the pool."""
    refunds = [world.broadcast() for _ in range(4)]
    raws = [world.sent(refund).raw for refund in refunds]
    kept = [world.sent(refund).tx_hash for refund in refunds[:2]]
    world.chain.pool = {each: world.chain.pool[each] for each in kept}
    worker, before = world.worker, len(world.chain.broadcasts)
    world.clock.advance(seconds=11)
    worker.work()
    assert world.chain.broadcasts[before:] == []  # No block shows anything yet.

    world.clock.advance(seconds=1)
    world.chain.mine()
    worker.work()
    assert world.statuses(refunds) == [Status.MINED] * 2 + [Status.BROADCAST] * 2
    assert world.chain.broadcasts[before:] == raws[2:]

    before = len(world.chain.broadcasts)
    world.chain.forget()
    world.clock.advance(seconds=0.5)
    world.chain.mine_empty(1)
    worker.work()
    assert world.chain.broadcasts[before:] == []  # They were sent a moment ago.

    world.clock.advance(seconds=1)
    world.chain.mine_empty(1)
    worker.work()
    assert world.chain.broadcasts[before:] == raws[2:]
    world.clock.advance(seconds=12)
    world.chain.mine()
    worker.work()
    assert {len(world.store.transactions(refund.id)) for refund in refunds} == {1}
    assert Status.BROADCAST not in world.statuses(refunds)


def test_a_dropped_transaction_that_a_worker_has_claimed_stays_claimed(
    world: World,
) -> None:
    """Two workers at once could sign it twice again."""
    refund, tracker = world.broadcast(), world.confirmation_tracker
    world.clock.advance(seconds=1)
    tracker.track()
    world.chain.forget()
    world.clock.advance(seconds=30)
    (claimed,) = world.store.claim(world.clock(), world.clock() + CLAIM_TIME, 10)
    assert [each.id for each in claimed.payments] == [refund.id]
    world.clock.advance(seconds=1)
    world.chain.mine_empty(1)
    tracker.track()

    assert world.found(0) == claimed


def test_nodes_that_do_not_know_a_pool_delay_no_receipt(world: World) -> None:
    first, second = world.broadcast(), world.broadcast()
    del world.chain.pool[world.sent(second).tx_hash]
    world.clock.advance(seconds=12)
    world.chain.mine()
    world.chain.fail("pending_count", ChainUnavailableError("gone"))
    world.confirmation_tracker.track()

    assert world.statuses([first, second]) == [Status.MINED, Status.BROADCAST]
