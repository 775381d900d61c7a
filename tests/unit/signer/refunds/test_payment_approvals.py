"""Refunds that wait for administrators, above an amount or by a rule of the policy."""

import json
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from operator import itemgetter
from typing import Any

import pytest
from structlog.testing import capture_logs

from signer.approvals import MAX_LISTED, VALID_FOR
from signer.config.tenants import NetworkLimits, Tenant, TenantRegistry, TokenLimits
from signer.errors import (
    ApprovalRequiredError,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
    RowNotAuthenticError,
    SamePersonError,
    UnidentifiedOperatorError,
)
from signer.model.approval import Approval, ApprovalState, Proposal
from signer.model.audit_record import Actor
from signer.model.refund import Refund, Status
from signer.model.transaction import Kind
from signer.refunds.acceptance import SubmittedRequest
from signer.refunds.nonce_admin import repair_wallets
from signer.refunds.payment_approvals import build_proposal, is_approved
from tests.fixtures.ledger import forge
from tests.support.approvals import (
    APPROVE_ABOVE,
    ASKING,
    BOB,
    CAROL,
    WHY,
    administrators,
    approval_of,
    approve,
    approve_signed,
    approve_waiting,
    limited,
    proposal_of,
    reject,
    requested,
    rule,
    ruled,
    waiting,
)
from tests.support.approvers import AnyKey, SSHKey, approvers_of
from tests.support.audit import record
from tests.support.ledgers import seal
from tests.support.refunds import AMOUNT, CUSTOMER, REQUEST, World, altered


def _history(world: World, refund: Refund) -> list[str]:
    return [str(move.status) for move in world.store.history(refund.id)]


def _records(world: World) -> list[tuple[str, str]]:
    """Return event and actor of the audit records of approvals, in order."""
    while seal(world.store):
        pass
    fields = [each.record.fields for each in world.store.sealed(0, 1000)]
    fields.sort(key=itemgetter("monotonic_us"))  # The processes have two clocks.
    return [
        (each["event"], each["actor"])
        for each in fields
        if each["event"].startswith("approval-")
    ]


def test_a_refund_above_the_amount_is_paid_once_it_is_approved(world: World) -> None:
    refund = requested(limited(world))
    before = world.work(), world.chain.payouts()
    approve(world, refund)
    (paid,) = world.finish(refund)

    assert refund.status is Status.AWAITING_APPROVAL
    assert before == (0, [])
    assert paid.status is Status.CONFIRMED
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]
    assert _history(world, refund)[:3] == ["awaiting-approval", "queued", "reserved"]
    assert approval_of(world, refund).state is ApprovalState.DONE
    assert _records(world) == [
        ("approval-request-succeeded", "token:gateway"),
        ("approval-grant-succeeded", "token:bob"),
        ("approval-use-succeeded", "worker"),
    ]


def test_the_proposal_says_exactly_what_is_paid(world: World) -> None:
    refund = requested(limited(world))
    (listed,) = administrators(world).list().approvals

    assert json.loads(listed.proposal) == {
        "action": "refund-pay",
        "refund_id": refund.id,
        "reference": refund.reference,
        "tenant": "gateway",
        "network": "local",
        "chain_id": "31337",
        "token_symbol": "TUSD",
        "token_address": refund.token_address,
        "recipient": CUSTOMER,
        "amount": "12.500000",
        "approvals": "1",
        "rules": min(APPROVE_ABOVE.rules),
    }
    assert (listed.requested_by, listed.refund_id) == ("token:gateway", refund.id)
    assert listed.expires_at == refund.created_at + VALID_FOR


@pytest.mark.parametrize("above", ["12.5", "12.6"])
def test_a_refund_of_the_amount_needs_no_approval(world: World, above: str) -> None:
    refund = requested(limited(world, above))

    assert refund.status is Status.QUEUED
    assert administrators(world).list().approvals == []


def test_a_tenant_may_have_a_lower_amount(world: World) -> None:
    """Each refund is compared with the token's amount and with the tenant's."""
    limits = NetworkLimits(tokens={"TUSD": TokenLimits(approve_above="10")})
    tenant = Tenant(subjects=("gateway",), networks={"local": limits})
    world.tenants = TenantRegistry({"gateway": tenant})

    assert requested(limited(world, "100")).status is Status.AWAITING_APPROVAL
    assert requested(world, amount="9").status is Status.QUEUED


def test_a_decided_refund_waits_while_its_wallet_is_paused(world: World) -> None:
    """The chain may know that a restored ledger has lost its payment."""
    world.chain.mine_foreign(world.signer.address, b"")
    world.chain.mine_empty(2)
    rejected, approved = requested(limited(world)), requested(world)
    explain = world.explainer.explain
    assert "has not decided yet" in explain(rejected).summary
    reject(world, rejected)
    approve(world, approved)
    decided = [explain(each) for each in (rejected, approved)]
    world.worker.work()
    waiting = explain(world.stored(rejected))
    list(repair_wallets(world.store, world.chains, world.clock, apply=True))
    (ended,) = world.finish(rejected)

    assert [each.summary for each in decided] == [
        "An administrator rejected it.",
        "An administrator approved it.",
    ]
    assert {each.next_step for each in decided} == {"A worker follows the decision."}
    assert waiting.refund.status is Status.AWAITING_APPROVAL
    assert waiting.summary == (
        "An administrator rejected it; the last 1 attempts failed, most recently with"
        " wallet-paused."
    )
    assert (ended.status, ended.failure_code) == (Status.REFUSED, "approval-rejected")


def test_an_approval_can_be_taken_back_until_a_worker_uses_it(world: World) -> None:
    taken, used = requested(limited(world)), requested(world)
    for refund in (taken, used):
        approve(world, refund)
    reject(world, taken)
    world.work()

    with pytest.raises(ConflictError, match="done"):
        reject(world, used)
    assert world.statuses([taken, used]) == [Status.REFUSED, Status.BROADCAST]
    assert world.stored(taken).failure_code == "approval-rejected"
    assert _history(world, taken) == ["awaiting-approval", "refused"]


def test_a_refund_that_is_not_decided_is_refused(world: World) -> None:
    refund = requested(limited(world))
    world.clock.now = refund.created_at + VALID_FOR - timedelta(seconds=1)
    world.worker.work()
    still_waits = world.stored(refund).status
    world.clock.advance(seconds=1)
    world.worker.work()
    ended = world.stored(refund)

    assert still_waits is Status.AWAITING_APPROVAL
    assert (ended.status, ended.failure_code) == (Status.REFUSED, "approval-expired")
    assert approval_of(world, refund).state is ApprovalState.EXPIRED
    with pytest.raises(ConflictError):
        approve(world, refund)


def test_refunds_of_one_tenant_hide_no_other_proposal(world: World) -> None:
    """An administrator's comes first, and then tenants take turns, page by page."""
    limited(world)
    requests = [
        SubmittedRequest(f"key-{n}", replace(REQUEST, reference=f"order-{n}"))
        for n in range(MAX_LISTED + 5)
    ]
    world.service.submit_all(tenant="gateway", requests=requests, actor=ASKING)
    other = world.submit(tenant="shop").refund
    resume = Proposal("signing-resume", {"chain_id": 1})
    with suppress(ApprovalRequiredError), administrators(world).authorize(resume, BOB):
        pass
    page = administrators(world).list()
    rest = administrators(world).list(MAX_LISTED)

    assert page.approvals[0].digest == resume.digest
    assert approval_of(world, other) in page.approvals[:3]
    assert (len(page.approvals), page.following) == (MAX_LISTED, MAX_LISTED)
    assert (len(rest.approvals), rest.is_complete) == (7, True)


def test_ended_proposals_of_one_tenant_delay_no_other(world: World) -> None:
    """Tenants take turns, however many proposals of one expire at once."""
    limited(world)
    for _ in range(3):
        requested(world)
    world.submit(tenant="shop")
    now = world.clock.now + VALID_FOR
    found = world.store.decided_refunds(now, now - VALID_FOR, 2)

    assert {refund.tenant for refund in found} == {"gateway", "shop"}


def test_the_list_may_record_the_end_of_the_time_first(world: World) -> None:
    refund = requested(limited(world))
    world.clock.now += VALID_FOR

    assert administrators(world).list().approvals == []
    (ended,) = world.finish(refund)
    assert ended.failure_code == "approval-expired"


def test_the_tenant_can_cancel_it(world: World) -> None:
    """Its proposal is closed: an approval would have no effect."""
    refund = requested(limited(world))
    cancelled = world.cancel(refund)

    assert cancelled.status is Status.CANCELLED
    assert approval_of(world, refund).state is ApprovalState.REJECTED
    assert administrators(world).list().approvals == []
    with pytest.raises(ConflictError):
        approve(world, refund)
    assert _records(world)[1:] == [("approval-reject-succeeded", "worker")]


def test_a_decided_refund_can_be_cancelled(world: World) -> None:
    """The request of the tenant comes first, until the refund has a nonce."""
    approved, rejected = requested(limited(world)), requested(world)
    approve(world, approved)
    reject(world, rejected)
    for refund in (approved, rejected):
        world.service.request_cancellation("gateway", refund.id, ASKING)
    world.work()

    assert world.statuses([approved, rejected]) == [Status.CANCELLED] * 2


def test_the_answer_shows_that_it_waits(world: World) -> None:
    """No request waits for a worker, and a repeated one gets the same answer."""
    world = limited(world)
    started = world.clock.now
    refund = requested(world)

    assert world.service.await_broadcast(refund) == refund
    assert world.clock.now == started


def test_an_alert_is_sounded_once_in_a_while(world: World) -> None:
    service = limited(world).service
    with capture_logs() as logs:
        for key in ("one", "two"):
            world.submit(replace(REQUEST, reference=key), key=key, service=service)

    alerts = [each for each in logs if each["event"] == "alert"]
    assert [each["alert"] for each in alerts] == ["approval-requested"]


def test_a_lowered_amount_counts_for_queued_refunds(world: World) -> None:
    """No person is known to have asked, so two administrators must agree."""
    refund = world.accepted()
    limited(world).work()
    waits = world.stored(refund)
    first = approve(world, refund)
    world.work()
    with pytest.raises(SamePersonError):
        approve(world, refund)
    approve(world, refund, CAROL)
    (paid,) = world.finish(refund)

    assert waits.status is Status.AWAITING_APPROVAL
    assert (first.state, first.requested_by) == (ApprovalState.WAITING, BOB.name)
    assert paid.status is Status.CONFIRMED
    assert _records(world) == [
        ("approval-request-succeeded", "worker"),
        ("approval-request-succeeded", "token:bob"),
        ("approval-grant-succeeded", "token:carol"),
        ("approval-use-succeeded", "worker"),
    ]


def test_one_person_may_approve_in_an_emergency(world: World) -> None:
    refund = requested(limited(world))
    digest = proposal_of(refund).digest
    administrators(world).break_glass(digest, Actor("cli:root").because("no time"))
    (paid,) = world.finish(refund)

    assert paid.status is Status.CONFIRMED
    assert approval_of(world, refund).is_alone


def test_a_refund_with_a_nonce_waits_for_its_approval(world: World) -> None:
    """The amount was lowered between the reservation and the signature."""
    refund = world.step(world.accepted())
    limited(world).work()
    blocked = world.blocked(refund)
    for administrator in (BOB, CAROL):
        approve(world, refund, administrator)
    (paid,) = world.finish(refund)

    assert blocked == (Status.RESERVED, "approval-required")
    assert paid.status is Status.CONFIRMED
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_a_rejected_refund_with_a_nonce_fails(world: World) -> None:
    """A no-op uses its nonce, so that later refunds are paid."""
    refund = world.step(world.accepted())
    limited(world).work()
    reject(world, refund)
    failed, small = world.finish(refund, requested(world, amount="9"))

    assert (failed.status, failed.failure_code) == (Status.FAILED, "approval-rejected")
    assert [each.kind for each in world.store.transactions(refund.id)] == [Kind.NOOP]
    assert small.status is Status.CONFIRMED


def test_a_signed_refund_is_replaced_without_an_approval(world: World) -> None:
    """Its bytes may be public, and only one transaction of its nonce is mined."""
    refund = world.broadcast()
    limited(world)
    world.clock.advance(seconds=world.network.stuck_after_seconds)
    replaced = world.step(world.stored(refund))

    assert replaced.status is Status.SIGNED
    assert [each.attempt for each in world.store.transactions(refund.id)] == [0, 1]
    assert administrators(world).list().approvals == []


@pytest.mark.parametrize("raw", [b"\x02", None])
def test_other_signed_bytes_are_no_approval(world: World, raw: bytes | None) -> None:
    """A program that can write rows gives a refund bytes that pay another one."""
    (sent,) = world.store.transactions(world.broadcast().id)
    refund = world.step(world.accepted())
    copied = replace(sent, raw=sent.raw if raw is None else raw)
    world.store = altered(world.store, attempts=lambda _: [copied])
    world._known.clear()

    with pytest.raises(ApprovalRequiredError):
        limited(world).step(refund)


@pytest.mark.parametrize("status", ["awaiting-approval", "queued"])
def test_a_changed_approval_pays_nothing(world: World, status: str) -> None:
    refund = requested(limited(world))
    approve(world, refund)
    forge(world.store, "UPDATE approvals SET state = 'done', version = version + 1")
    forge(world.store, f"UPDATE refunds SET state = '{status}'")
    world.work()

    assert world.blocked(refund) == (status, "row-not-authentic")
    assert world.store.alert_counts()["row-not-authentic"]
    with pytest.raises(NotFoundError):
        approve(world, refund)


def test_a_refund_with_a_changed_approval_expires(world: World) -> None:
    refund = requested(limited(world))
    forge(world.store, "UPDATE approvals SET state = 'done', version = version + 1")
    with pytest.raises(RowNotAuthenticError):
        world.step(refund)
    world.clock.now += VALID_FOR
    world.worker.work()

    assert world.stored(refund).failure_code == "approval-expired"


def test_a_changed_approval_does_not_prevent_a_cancellation(world: World) -> None:
    refund = requested(limited(world))
    forge(world.store, "UPDATE approvals SET state = 'done', version = version + 1")

    assert world.cancel(refund).status is Status.CANCELLED


def test_a_requeued_refund_waits_again(world: World) -> None:
    """A program that can write rows skips the approval: a worker puts it back."""
    refund = requested(limited(world))
    for _ in range(2):
        forge(world.store, "UPDATE refunds SET state = 'queued', due_at = updated_at")
        world.work()
        assert world.stored(refund).status is Status.AWAITING_APPROVAL
    approve(world, refund)
    (paid,) = world.finish(refund)

    assert paid.status is Status.CONFIRMED
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_a_refund_without_its_proposal_is_proposed_again(world: World) -> None:
    """The owner of the tables deleted the row: two administrators must agree."""
    refund = requested(limited(world))
    forge(world.store, "DROP TRIGGER approvals_stay")
    forge(world.store, "DELETE FROM approvals")
    world.work()
    again = approval_of(world, refund)

    assert (again.requested_by, again.state) == ("worker", ApprovalState.WAITING)
    assert world.step(world.stored(refund)).status is Status.AWAITING_APPROVAL


def test_it_is_explained(world: World) -> None:
    refund = requested(limited(world))
    explained = world.explainer.explain(refund)

    assert "administrator" in explained.summary
    assert "hotwallet approvals list" in explained.next_step
    mine = world.explainer.explain(refund, for_tenant=True).next_step
    assert mine == (
        "An administrator approves or rejects it. After 24 hours it is refused."
    )
    assert explained.next_at is None


ONE, TWO, OTHER = rule("one", 1), rule("two", 2), rule("other", 1)


def _let_work(world: World) -> None:
    for _ in range(3):
        world.work()


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
    getattr(administrators(world), decide)(digest, BOB.because("an emergency"))
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
    "text",
    [rule("one", 2), rule("one", 1, "context.gas > 0"), ONE + OTHER],
    ids=["more", "text", "another"],
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


def test_what_was_approved_is_known_later(world: World) -> None:
    """As a review of another policy asks: only what covers its demand counts."""
    waits = requested(ruled(world, ONE))
    refund = requested(world)
    approve_waiting(world, refund, BOB)
    need = waiting(world, waits).need
    assert need is not None

    assert not is_approved(world.store, waits, need)
    assert is_approved(world.store, refund, need)
    (paid,) = world.finish(refund)
    assert is_approved(world.store, paid, need)
    assert not is_approved(world.store, paid, replace(need, count=2))
    forge(world.store, "UPDATE approvals SET version = version + 1")
    assert not is_approved(world.store, paid, need)


def test_a_rejection_is_not_forgotten(world: World) -> None:
    """Other rules do not ask again about a refund that a person rejected."""
    refund = requested(ruled(world, ONE))
    administrators(world).reject(waiting(world, refund).digest, BOB.because(WHY))
    _let_work(ruled(world, OTHER))

    assert world.stored(refund).failure_code == "approval-rejected"


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


@pytest.mark.parametrize("name", ["one", "approve-above"])
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
    approvals = world.lifecycle.parts.approvals
    wider = replace(need, rules=need.rules | {"more@1"})
    lie = approvals.propose(lesser, ASKING, world.clock(), wider)
    lie = replace(lie, approval=replace(lie.approval, refund_id=refund.id))
    world.store.put_approval(None, lie.approval, lie.record)
    administrators(world).approve(lie.approval.digest, BOB.because(WHY))
    _let_work(world)

    assert world.stored(refund).status is Status.AWAITING_APPROVAL
    assert world.chain.payouts() == []
    assert build_proposal(lesser, wider).digest == lie.approval.digest


KEYS: dict[str, AnyKey] = {name: SSHKey() for name in ("bob", "carol", "gateway")}


def _signing(world: World, **people: Any) -> World:
    """Return *world*, in which only signatures of *people* approve, by default all."""
    world.approvers = approvers_of(**(people or KEYS))
    return world


def _sign(world: World, refund: Refund, name: str) -> Approval:
    """Hand in the signature of *name* that *refund* may be paid."""
    return approve_signed(world, refund, name, KEYS[name])


def test_a_refund_is_paid_with_the_signatures_that_its_rule_demands(
    world: World,
) -> None:
    """Of others than the subject that requested it, from any hand."""
    refund = requested(ruled(_signing(world), rule("two", 2)))
    with pytest.raises(SamePersonError, match="asked for the refund"):
        _sign(world, refund, "gateway")
    _sign(world, refund, "bob")
    world.work()
    before = world.chain.payouts()
    _sign(world, refund, "carol")
    (paid,) = world.finish(refund)

    assert before == []
    assert paid.status is Status.CONFIRMED
    assert world.store.approvals_of(refund.id)[0].decided_by == "token:bob token:carol"


def test_the_file_says_who_is_of_a_group(world: World) -> None:
    """The token of the person who hands it in does not."""
    finance = {"keys": {"a": KEYS["carol"].line}, "groups": ["finance", "night"]}
    _signing(world, bob=KEYS["bob"], carol=finance)
    refund = requested(ruled(world, rule("one", 1, group="finance")))
    with pytest.raises(PermissionDeniedError, match="not in the groups"):
        _sign(world, refund, "bob")

    assert _sign(world, refund, "carol").state is ApprovalState.APPROVED


@pytest.mark.parametrize("state", [ApprovalState.APPROVED, ApprovalState.DONE])
def test_a_worker_asks_again_for_what_is_not_signed(
    world: World, state: ApprovalState
) -> None:
    """A host that has the MAC key wrote the row; or a key was removed since."""
    refund = requested(_signing(limited(world)))
    row = waiting(world, refund)
    forged = replace(row, state=state, decided_by="token:bob", decided_at=world.clock())
    world.store.put_approval(row, forged, record())
    with capture_logs() as logs:
        world.work()
    asked = waiting(world, refund)

    assert world.chain.payouts() == []
    assert (asked.state, asked.decided_by) == (ApprovalState.WAITING, None)
    assert asked.reason.startswith("its signatures do not count")
    assert [each["alert"] for each in logs if each["event"] == "alert"] == [
        "approval-requested"
    ]
    _sign(world, refund, "bob")
    (paid,) = world.finish(refund)
    assert paid.status is Status.CONFIRMED


def test_a_removed_key_stops_a_refund_that_has_its_nonce(world: World) -> None:
    """It is signed once other people have approved it."""
    refund = requested(_signing(limited(world)))
    _sign(world, refund, "bob")
    refund = world.step(refund, times=2)
    assert refund.status is Status.RESERVED
    _signing(world, carol=KEYS["carol"], gateway=KEYS["gateway"])
    world.work()
    before = world.chain.payouts(), world.stored(refund).moving.blocked_by
    _sign(world, refund, "carol")
    (paid,) = world.finish(refund)

    assert before == ([], "approval-required")
    assert paid.status is Status.CONFIRMED
