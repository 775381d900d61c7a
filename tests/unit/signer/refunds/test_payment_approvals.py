"""Refunds above an amount: they wait for an administrator, who approves or rejects."""

import json
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from operator import itemgetter

import pytest
from structlog.testing import capture_logs

from signer.approvals import MAX_LISTED, VALID_FOR
from signer.config.tenants import NetworkLimits, Tenant, TenantRegistry, TokenLimits
from signer.errors import (
    ApprovalRequiredError,
    ChainUnavailableError,
    ConflictError,
    NotFoundError,
    RowNotAuthenticError,
    SamePersonError,
    UnidentifiedOperatorError,
)
from signer.model.approval import ApprovalState, Proposal
from signer.model.audit_record import Actor
from signer.model.refund import Refund, Status
from signer.model.transaction import Kind
from signer.refunds.acceptance import SubmittedRequest
from signer.refunds.nonce_admin import repair_wallets
from tests.fixtures.ledger import forge
from tests.support.approvals import (
    APPROVE_ABOVE,
    ASKING,
    BOB,
    CAROL,
    administrators,
    approval_of,
    approve,
    limited,
    proposal_of,
    reject,
    requested,
)
from tests.support.ledgers import seal
from tests.support.refunds import (
    AMOUNT,
    CUSTOMER,
    REQUEST,
    World,
    altered,
    altered_chain,
)


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


def test_a_rejected_refund_is_refused(world: World) -> None:
    refund = requested(limited(world))
    reject(world, refund)
    (ended,) = world.finish(refund)

    assert (ended.status, ended.failure_code) == (Status.REFUSED, "approval-rejected")
    assert _history(world, refund) == ["awaiting-approval", "refused"]
    assert world.chain.payouts() == []


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


def test_who_requested_it_cannot_approve_it(world: World) -> None:
    """Not with another token, nor with another spelling; and not without a token."""
    refund = requested(limited(world))
    for name in ("token:gateway", "token:Gateway"):
        with pytest.raises(SamePersonError):
            approve(world, refund, Actor(name, token_id="another"))
    with pytest.raises(UnidentifiedOperatorError):
        approve(world, refund, Actor("cli:root"))
    world.work()

    assert world.stored(refund).status is Status.AWAITING_APPROVAL


def test_the_answer_shows_that_it_waits(world: World) -> None:
    """No request waits for a worker, and a repeated one gets the same answer."""
    world = limited(world)
    started = world.clock.now
    refund = requested(world)

    assert world.service.await_broadcast(refund) == refund
    assert world.clock.now == started


def test_it_is_an_open_refund(world: World) -> None:
    tenant = Tenant(subjects=("gateway",), max_open_refunds=1)
    world.tenants = TenantRegistry({"gateway": tenant})
    requested(limited(world))

    with pytest.raises(Exception, match="1 open refunds"):
        requested(world)


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


def test_the_first_of_two_needs_a_token(world: World) -> None:
    refund = world.accepted()
    limited(world).work()

    with pytest.raises(UnidentifiedOperatorError):
        approve(world, refund, Actor("cli:root"))


def test_one_person_may_approve_in_an_emergency(world: World) -> None:
    refund = requested(limited(world))
    digest = proposal_of(refund).digest
    administrators(world).break_glass(digest, Actor("cli:root"), "no time")
    (paid,) = world.finish(refund)

    assert paid.status is Status.CONFIRMED
    assert approval_of(world, refund).is_alone


def test_an_emergency_needs_no_first_administrator(world: World) -> None:
    """A worker asked for the refund, and the decision is made."""
    refund = world.accepted()
    limited(world).work()
    digest = proposal_of(refund).digest
    administrators(world).break_glass(digest, BOB, "no time")

    with pytest.raises(UnidentifiedOperatorError):
        approve(world, refund, CAROL)
    (paid,) = world.finish(refund)
    assert paid.status is Status.CONFIRMED


def test_a_raised_amount_approves_nothing(world: World) -> None:
    """What waits is decided by a person: the amount may be raised for later ones."""
    refund = requested(limited(world))
    limited(world, "100").work()

    assert world.stored(refund).status is Status.AWAITING_APPROVAL
    approve(world, refund)
    (paid,) = world.finish(refund)
    assert paid.status is Status.CONFIRMED


def test_a_refund_with_a_nonce_waits_for_its_approval(world: World) -> None:
    """The amount was lowered between the reservation and the signature."""
    refund = world.step(world.accepted())
    limited(world).work()
    waits = world.stored(refund)
    for administrator in (BOB, CAROL):
        approve(world, refund, administrator)
    (paid,) = world.finish(refund)

    assert (waits.status, waits.moving.blocked_by) == (
        Status.RESERVED,
        "approval-required",
    )
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


def test_nothing_is_decided_while_the_chain_is_unknown(world: World) -> None:
    """A restored ledger may have lost the payment: the refund is not refused."""
    refund = requested(limited(world))
    reject(world, refund)
    gone = ChainUnavailableError("gone")
    world.client = altered_chain(world.chain, pending_count=gone)
    world.work()
    waits = world.stored(refund)
    world.client = None
    (ended,) = world.finish(refund)

    assert waits.status is Status.AWAITING_APPROVAL
    assert waits.moving.blocked_by == "chain-unavailable"
    assert ended.status is Status.REFUSED


@pytest.mark.parametrize("status", ["awaiting-approval", "queued"])
def test_a_changed_approval_pays_nothing(world: World, status: str) -> None:
    refund = requested(limited(world))
    approve(world, refund)
    forge(world.store, "UPDATE approvals SET state = 'done', version = version + 1")
    forge(world.store, f"UPDATE refunds SET state = '{status}'")
    world.work()
    waits = world.stored(refund)

    assert (waits.status, waits.moving.blocked_by) == (status, "row-not-authentic")
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
