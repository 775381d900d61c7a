"""Refunds that a rule of the policy lets wait for approvals."""

import json
from dataclasses import replace

import pytest

from signer.approvals import VALID_FOR
from signer.errors import (
    ConflictError,
    PermissionDeniedError,
    SamePersonError,
    UnidentifiedOperatorError,
)
from signer.model.approval import ApprovalState
from signer.model.audit_record import Actor
from signer.model.refund import Status
from signer.model.transaction import Kind
from signer.policy.rules import APPROVE_ABOVE
from signer.refunds.payment_approvals import ACTION, build_proposal
from tests.fixtures.ledger import forge
from tests.support.approvals import (
    ASKING,
    BOB,
    CAROL,
    WHY,
    administrators,
    approve_waiting,
    limited,
    requested,
    rule,
    ruled,
    waiting,
)
from tests.support.refunds import AMOUNT, CUSTOMER, World


ONE, TWO, OTHER = rule("one", 1), rule("two", 2), rule("other", 1)


def _let_work(world: World) -> None:
    for _ in range(3):
        world.work()


def test_a_refund_waits_for_one_approval(world: World) -> None:
    refund = requested(ruled(world, ONE))
    _let_work(world)
    before = world.stored(refund).status, world.chain.payouts()
    proposal = json.loads(waiting(world, refund).proposal)
    approve_waiting(world, refund, BOB)
    (paid,) = world.finish(refund)

    assert refund.status is Status.AWAITING_APPROVAL
    assert before == (Status.AWAITING_APPROVAL, [])
    assert proposal["action"] == ACTION
    assert proposal["rules"].startswith("one@")
    assert proposal["approvals"] == "1"
    assert paid.status is Status.CONFIRMED
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_a_refund_waits_for_two_people(world: World) -> None:
    """The first approval is kept, and counts once; no refund is paid with one."""
    refund = requested(ruled(world, TWO + ONE))
    first = approve_waiting(world, refund, BOB)
    _let_work(world)
    with pytest.raises(SamePersonError, match="approved it already"):
        approve_waiting(world, refund, Actor("token:BOB"))
    with pytest.raises(SamePersonError):
        approve_waiting(world, refund, Actor("token:gateway"))
    unpaid = world.chain.payouts()
    second = approve_waiting(world, refund, CAROL)
    with pytest.raises(ConflictError):
        approve_waiting(world, refund, Actor("token:dave"))
    (paid,) = world.finish(refund)

    assert (first.state, first.approvers) == (ApprovalState.WAITING, ("token:bob",))
    assert second.state is ApprovalState.APPROVED
    assert second.approvers == ("token:bob", "token:carol")
    assert not first.is_alone
    assert not second.is_alone
    assert unpaid == []
    assert paid.status is Status.CONFIRMED


def test_only_people_of_the_group_approve(world: World) -> None:
    """Another administrator approves nothing, whose token names other groups."""
    refund = requested(ruled(world, rule("one", 1, group="finance")))
    others = (BOB, Actor("token:carol", groups=frozenset({"financ", "legal"})))
    for actor in others:
        with pytest.raises(PermissionDeniedError, match="the scope approver:finance"):
            approve_waiting(world, refund, actor)
    before = waiting(world, refund)
    approve_waiting(
        world, refund, Actor("token:dave", groups=frozenset({"finance", "legal"}))
    )
    (paid,) = world.finish(refund)

    assert (before.state, before.approvers) == (ApprovalState.WAITING, ())
    assert json.loads(before.proposal)["approvers"] == "finance"
    assert paid.status is Status.CONFIRMED


@pytest.mark.parametrize(
    ("decide", "status"),
    [("reject", Status.REFUSED), ("break_glass", Status.CONFIRMED)],
)
def test_administrators_of_no_group_reject_it_and_break_the_glass(
    world: World, decide: str, status: Status
) -> None:
    refund = requested(ruled(world, rule("one", 1, group="finance")))
    digest = waiting(world, refund).digest
    getattr(administrators(world), decide)(digest, BOB, "an emergency")
    (ended,) = world.finish(refund)

    assert ended.status is status


def test_a_rule_that_gets_a_group_needs_another_approval(world: World) -> None:
    """The person who approved it before is in no group."""
    refund = requested(ruled(world, rule("one", 1)))
    approve_waiting(world, refund, BOB)
    ruled(world, rule("one", 1, group="finance"))
    _let_work(world)

    assert world.chain.payouts() == []
    with pytest.raises(PermissionDeniedError):
        approve_waiting(world, refund, BOB)


def test_one_name_is_not_two(world: World) -> None:
    """A subject with a space would read as two people."""
    refund = requested(ruled(world, TWO))

    with pytest.raises(UnidentifiedOperatorError, match="has a space"):
        approve_waiting(world, refund, Actor("token:eve token:mallory"))
    assert waiting(world, refund).approvers == ()


def test_one_person_may_break_the_glass(world: World) -> None:
    """It is shown that fewer people approved it than it needs."""
    refund = requested(ruled(world, TWO))
    approve_waiting(world, refund, BOB)
    digest = waiting(world, refund).digest
    alone = administrators(world).break_glass(digest, CAROL, "no time")
    (paid,) = world.finish(refund)

    assert alone.is_alone
    assert paid.status is Status.CONFIRMED


@pytest.mark.parametrize("approved_by", [(), (BOB,)])
def test_it_is_rejected_or_expires(
    world: World, approved_by: tuple[Actor, ...]
) -> None:
    rejected, expired = requested(ruled(world, TWO)), requested(world)
    for actor in approved_by:
        approve_waiting(world, rejected, actor)
    digest = waiting(world, rejected).digest
    assert administrators(world).reject(digest, CAROL, WHY).approvers == ()
    _let_work(world)
    world.clock.now += VALID_FOR
    _let_work(world)

    assert world.stored(rejected).failure_code == "approval-rejected"
    assert world.stored(expired).failure_code == "approval-expired"
    assert world.chain.payouts() == []


def test_the_tenant_can_cancel_it(world: World) -> None:
    refund = requested(ruled(world, ONE))

    assert world.cancel(refund).status is Status.CANCELLED
    assert administrators(world).list().approvals == []


def test_only_the_rules_that_fire_count(world: World) -> None:
    above = rule("large", 1, 'context.amount.greaterThan(decimal("10.0"))')
    above = above.replace("context.amount", "context has amount && context.amount")

    assert requested(ruled(world, above), amount="10").status is Status.QUEUED
    refund = requested(world, amount="10.01")
    assert refund.status is Status.AWAITING_APPROVAL


def test_an_amount_and_a_rule_need_one_approval(world: World) -> None:
    """One proposal names both: the amount, and the rule."""
    refund = requested(limited(ruled(world, TWO)))
    approve_waiting(world, refund, BOB, CAROL)
    (paid,) = world.finish(refund)

    assert paid.status is Status.CONFIRMED


# A policy that changed in between.


def test_a_new_rule_needs_a_new_approval(world: World) -> None:
    """An approval of one rule is none of another one."""
    refund = requested(ruled(world, ONE))
    approve_waiting(world, refund, BOB)
    ruled(world, ONE + OTHER)
    _let_work(world)
    again = waiting(world, refund)
    unpaid = world.chain.payouts()
    approve_waiting(world, refund, BOB, CAROL)  # No person is known to have asked.
    (paid,) = world.finish(refund)

    assert again.requested_by == "worker"
    assert {each.partition("@")[0] for each in again.need.rules} == {"one", "other"}  # type: ignore[union-attr]
    assert unpaid == []
    assert paid.status is Status.CONFIRMED


def test_a_used_approval_is_none_of_a_new_rule(world: World) -> None:
    """The refund was queued after its approval, and waits again."""
    refund = requested(ruled(world, ONE))
    approve_waiting(world, refund, BOB)
    assert world.step(refund).status is Status.QUEUED
    _let_work(ruled(world, ONE + OTHER))

    assert world.stored(refund).status is Status.AWAITING_APPROVAL
    assert waiting(world, refund).requested_by == "worker"
    states = {each.state for each in world.store.approvals_of(refund.id)}
    assert states == {ApprovalState.DONE, ApprovalState.WAITING}


@pytest.mark.parametrize(
    "text", [rule("one", 2), rule("one", 1, "context.gas > 0")], ids=["more", "text"]
)
def test_a_changed_rule_needs_a_new_approval(world: World, text: str) -> None:
    refund = requested(ruled(world, ONE))
    approve_waiting(world, refund, BOB)
    ruled(world, text)
    _let_work(world)

    assert world.stored(refund).status is Status.AWAITING_APPROVAL
    assert waiting(world, refund).requested_by == "worker"
    assert world.chain.payouts() == []


def test_fewer_rules_need_no_new_approval(world: World) -> None:
    refund = requested(ruled(world, ONE + OTHER))
    approve_waiting(world, refund, BOB)
    (paid,) = ruled(world, OTHER).finish(refund)

    assert paid.status is Status.CONFIRMED


def test_a_removed_rule_decides_nothing(world: World) -> None:
    """What waits is decided by people all the same."""
    refund = requested(ruled(world, ONE))
    _let_work(ruled(world, ""))
    still = world.stored(refund).status
    approve_waiting(world, refund, BOB)
    (paid,) = world.finish(refund)

    assert still is Status.AWAITING_APPROVAL
    assert paid.status is Status.CONFIRMED


def test_a_rejection_is_not_forgotten(world: World) -> None:
    """Other rules do not ask again about a refund that a person rejected."""
    refund = requested(ruled(world, ONE))
    administrators(world).reject(waiting(world, refund).digest, BOB, WHY)
    _let_work(ruled(world, OTHER))

    assert world.stored(refund).failure_code == "approval-rejected"


def test_a_queued_refund_waits_for_a_new_rule(world: World) -> None:
    refund = world.accepted()
    _let_work(ruled(world, ONE))
    approve_waiting(world, refund, BOB, CAROL)
    (paid,) = world.finish(refund)

    assert paid.status is Status.CONFIRMED


def test_a_refund_with_a_nonce_waits_for_a_new_rule(world: World) -> None:
    refund = world.step(world.accepted())
    _let_work(ruled(world, ONE))
    waits = world.stored(refund)
    approve_waiting(world, refund, BOB, CAROL)
    (paid,) = world.finish(refund)

    assert (waits.status, waits.moving.blocked_by) == (
        Status.RESERVED,
        "approval-required",
    )
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]
    assert paid.status is Status.CONFIRMED


def test_a_rejected_refund_with_a_nonce_fails(world: World) -> None:
    refund = world.step(world.accepted())
    _let_work(ruled(world, ONE))
    administrators(world).reject(waiting(world, refund).digest, BOB, WHY)
    (failed,) = world.finish(refund)

    assert (failed.status, failed.failure_code) == (Status.FAILED, "approval-rejected")
    assert [each.kind for each in world.store.transactions(refund.id)] == [Kind.NOOP]


def test_the_bytes_that_are_signed_need_the_approval(world: World) -> None:
    """A rule about fees fires only for the transaction itself, before its nonce."""
    refund = requested(ruled(world, rule("fees", 1, "context.max_fee_gwei > 0")))
    _let_work(world)
    waits = world.stored(refund)
    approve_waiting(world, refund, BOB, CAROL)
    (paid,) = world.finish(refund)

    assert refund.status is Status.QUEUED
    assert (waits.status, waits.nonce) == (Status.AWAITING_APPROVAL, None)
    assert paid.status is Status.CONFIRMED


@pytest.mark.parametrize("name", ["one", APPROVE_ABOVE])
def test_a_replacement_needs_the_approval_of_a_new_rule(
    world: World, name: str
) -> None:
    """The bytes that were sent stay; higher fees wait, for any name of the rule."""
    refund = world.broadcast()
    ruled(world, rule(name, 1))
    world.clock.advance(seconds=world.network.stuck_after_seconds)

    assert world.step(world.stored(refund)).status is Status.BROADCAST
    assert len(world.store.transactions(refund.id)) == 1
    approve_waiting(world, refund, BOB, CAROL)
    assert world.step(world.stored(refund)).status is Status.SIGNED


def test_a_replacement_of_an_approved_refund_needs_no_other(world: World) -> None:
    refund = requested(ruled(world, ONE))
    approve_waiting(world, refund, BOB)
    for _ in range(4):
        refund = world.step(world.stored(refund))
    assert refund.status is Status.BROADCAST
    world.clock.advance(seconds=world.network.stuck_after_seconds)

    assert world.step(world.stored(refund)).status is Status.SIGNED


# Proposals that are not what they seem.


def test_an_unreadable_need_approves_nothing(world: World) -> None:
    """A process with the MAC key wrote a proposal whose number is none."""
    refund = requested(ruled(world, ONE))
    (found,) = world.store.approvals_of(refund.id)
    for proposal in ('{"action":"refund-pay","rules":"one@1"}', "[]", "\udc80"):
        odd = replace(found, proposal=proposal)
        assert (odd.need, odd.needed) == (None, 1)
    assert replace(found, is_authentic=False).need is None


def test_an_approval_of_another_refund_is_none(world: World) -> None:
    """Its row is copied, with its MAC; or it names the refund of another one."""
    one, other = requested(ruled(world, ONE)), requested(world)
    approve_waiting(world, one, BOB)
    forge(
        world.store,
        f"UPDATE approvals SET refund_id = '{other.id}', version = version + 1"
        f" WHERE refund_id = '{one.id}'",
    )
    _let_work(world)

    assert world.chain.payouts() == []
    (own,) = [e for e in world.store.approvals_of(other.id) if e.is_authentic]
    assert own.state is ApprovalState.WAITING


def test_the_digest_must_be_that_of_the_refund(world: World) -> None:
    """A host that may ask names this refund in the proposal of a smaller one."""
    refund, lesser = requested(ruled(world, ONE)), requested(world, amount="1")
    need = waiting(world, refund).need
    assert need is not None
    approvals = world.signatures._approvals
    wider = replace(need, rules=need.rules | {"more@1"})
    lie = approvals.propose(lesser, ASKING, world.clock(), wider)
    lie = replace(lie, approval=replace(lie.approval, refund_id=refund.id))
    world.store.put_approval(None, lie.approval, lie.record)
    administrators(world).approve(lie.approval.digest, BOB, WHY)
    _let_work(world)

    assert world.stored(refund).status is Status.AWAITING_APPROVAL
    assert world.chain.payouts() == []
    assert build_proposal(lesser, wider).digest == lie.approval.digest
