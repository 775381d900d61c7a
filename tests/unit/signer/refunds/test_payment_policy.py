"""The policy in front of refunds, sweeps and no-ops, and rules about what was paid."""

import pathlib
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from signer.config.tenants import TenantRegistry
from signer.errors import PolicyViolationError, StaleStateError
from signer.model.decision import Decision, Verdict
from signer.model.key import KeyState
from signer.model.refund import Status
from signer.model.spending_limits import PaymentTotals, Spent
from signer.policy.default_rules import service_files
from signer.policy.facts import AnyFacts, Caller, Path
from signer.policy.policy import LivePolicy, Policy
from signer.policy.rules import PolicyFile
from signer.ports.meter import Meter
from signer.ports.refund_store import Reservation
from signer.refunds.payment_approvals import decide
from signer.refunds.payment_policy import PolicyReview, build_caller, own_keys
from tests.support.approvals import (
    BOB,
    CAROL,
    approve_waiting,
    requested,
    rule,
    ruled,
    waiting,
)
from tests.support.devices import honest, recording, signer_over
from tests.support.policy import SERVICE_POLICY
from tests.support.policy_reload import compiled
from tests.support.refunds import CUSTOMER, KEY, NETWORK, World, altered, refused


BLOCKED = f"""
@id("blocked")
forbid (principal, action == Action::"sign-transaction", resource)
when {{
  context.path == "refund"
  && context has recipient && context.recipient == "{CUSTOMER}"
}};
"""


BEFORE_NOON = """
@id("before-noon")
forbid (principal, action == Action::"sign-transaction", resource)
when { context.path == "refund" && context.hour >= 12 };
"""


def _policy(own: str) -> Policy:
    defaults = service_files({}, TenantRegistry())
    return Policy.compile(defaults, [PolicyFile("own.cedar", own)])


def test_a_refund_that_an_own_rule_refuses_gets_no_nonce(world: World) -> None:
    """It waits, and later refunds do not wait for it; then it is paid."""
    world.policy = _policy(BLOCKED)
    refund = world.accepted()

    with refused("blocked"):
        world.step(refund)
    assert world.stored(refund).status is Status.QUEUED
    assert world.stored(refund).nonce is None
    world.policy = SERVICE_POLICY
    assert world.step(refund).status is Status.RESERVED


def test_a_refund_with_a_nonce_waits_for_the_policy(world: World) -> None:
    """Nothing is signed while a rule refuses it."""
    reserved = world.step(world.accepted())
    world.policy = _policy(BEFORE_NOON)
    world.clock.now = world.clock.now.replace(hour=12)

    with pytest.raises(PolicyViolationError):
        world.step(reserved)

    assert world.store.transactions(reserved.id) == ()
    world.clock.now -= timedelta(hours=1)
    assert world.step(reserved).status is Status.SIGNED


def test_the_audit_has_the_policy_and_the_rule(world: World) -> None:
    """From the reservation on the hash, and with the signature the rule."""
    audit, events = recording()
    world.signer = signer_over(honest(KEY), audit)

    world.step(world.accepted(), times=2)

    requested, finished = (event["details"] for event in events)
    assert requested["policy"] == finished["policy"] == SERVICE_POLICY.short_hash
    assert "rule" not in requested
    assert finished["rule"] == "refund"


class Counting(Policy):
    """A policy that keeps what it was asked."""

    asked: list[AnyFacts]

    def evaluate(self, facts: AnyFacts) -> Decision:
        """Decide as always."""
        self.asked.append(facts)
        return super().evaluate(facts)


def test_a_refund_costs_two_evaluations(world: World) -> None:
    """One before its nonce, and the signature's."""
    world.policy = policy = Counting.compile(service_files({}, TenantRegistry()))
    policy.asked = []

    world.step(world.accepted(), times=3)

    assert [facts.caller.path for facts in policy.asked] == [Path.REFUND] * 2


def test_a_transfer_of_another_refund_is_refused(world: World) -> None:
    """The memo is compared by the policy too, not only by the refund's own check."""
    signed = world.step(world.accepted(), times=2)
    review = PolicyReview(world.store, SERVICE_POLICY, {"local": NETWORK})

    (same,) = review.review(signed)
    (other,) = review.review(replace(signed, reference="another"))

    assert same.decision.rules == ("refund",)
    assert other.decision.rules == ("extra-calldata",)


def test_a_refund_that_is_signed_meanwhile_is_reviewed(world: World) -> None:
    """It was read while it was queued, without its transaction."""
    refund = world.accepted()
    world.step(refund, times=2)
    review = PolicyReview(world.store, SERVICE_POLICY, {"local": NETWORK})

    (found,) = review.review(refund)

    assert found.decision.rules == ("refund",)


def test_callers_of_the_service_itself_have_no_tenant(world: World) -> None:
    """A no-op of a refund pays nothing, and a tenant did not request it."""
    refund = world.step(world.accepted())

    assert build_caller(refund) == Caller(
        Path.REFUND, tenant=refund.tenant, process="worker"
    )
    assert build_caller(None) == Caller(Path.NOOP, process="worker")


def test_own_keys_are_those_of_the_ring(world: World) -> None:
    """One of them may be active."""
    keys = world.ring.refresh()
    own = own_keys(keys)

    assert own.addresses == {key.address.lower() for key in keys}
    active = [key for key in keys if key.state is KeyState.ACTIVE]
    assert own.active == active[0].address.lower()
    assert own_keys([]).active is None


def test_the_last_transactions_are_compared(world: World) -> None:
    """As many as are asked for, over several pages."""
    for _ in range(3):
        world.step(world.accepted(), times=2)
    review = PolicyReview(world.store, _policy(BLOCKED), {"local": NETWORK})

    found = list(review.review_last(2))

    assert [each.decision.rules for each in found] == [("blocked",)] * 2
    assert len(list(review.review_last(100, page_size=1))) == 3


FIRST = rule("first", 1, "context has first_payment && context.first_payment")
COSTLY = rule("costly", 1, "context.max_fee_gwei > 0")

NOTHING = Spent(0, 0, 0, 0)
NOTHING_PAID = PaymentTotals(NOTHING, NOTHING, is_first_payment=True)
PAID_BEFORE = PaymentTotals(NOTHING, NOTHING, is_first_payment=False)


def _forbid(condition: str) -> str:
    return (
        '@id("own") forbid (principal, action == Action::"sign-transaction", resource)'
        f' when {{ context.path == "refund" && {condition} }};'
    )


HOUR = _forbid(
    'context has spent_hour && context.spent_hour.greaterThan(decimal("12.5"))'
)
ONCE = _forbid("context has first_payment && !context.first_payment")


def _seeing(world: World, totals: PaymentTotals) -> World:
    """Let the processes of *world* see *totals* outside of reservations."""
    world.store = altered(world.store, payment_totals=lambda refund: totals)
    return world


def test_the_totals_of_the_reservation_decide(world: World) -> None:
    """Another process pays after this one has asked the policy."""
    ruled(_seeing(world, NOTHING_PAID), ONCE)
    world.step(world.accepted())
    second = world.accepted()

    with refused("own"):
        world.step(second)
    assert world.stored(second) == second


class _Decisions(Meter):
    """Keeps which decisions are counted."""

    def __init__(self) -> None:
        self.counted: list[tuple[str, str, str]] = []

    def decided(self, path: str, verdict: Verdict, rule: str) -> None:
        self.counted.append((path, verdict, rule))


@pytest.mark.parametrize(
    ("text", "paid_before", "verdict", "name"),
    [
        (ONCE, NOTHING_PAID, "refuse", "own"),
        (FIRST, PAID_BEFORE, "needs-approval", "first"),
    ],
    ids=["refused", "not approved"],
)
@pytest.mark.parametrize("live", [False, True])
def test_a_refusal_of_the_reservation_is_counted(
    world: World,
    text: str,
    paid_before: PaymentTotals,
    verdict: str,
    name: str,
    live: bool,
) -> None:
    """Beside the decision before it, which allowed what was paid until then."""
    if text == ONCE:
        world.step(world.accepted())
    seen = _Decisions()
    files = service_files({}, TenantRegistry())
    policy = Policy.compile(files, [PolicyFile("own.cedar", text)], seen)
    _seeing(world, paid_before).policy = LivePolicy(policy) if live else policy

    with pytest.raises(PolicyViolationError):
        world.step(world.accepted())

    assert seen.counted[-1] == ("refund", verdict, name)
    assert ("refund", "allow", "refund") in seen.counted
    assert seen.counted.count(("refund", verdict, name)) == 1


def test_refunds_of_one_batch_count_each_other(world: World) -> None:
    ruled(world, HOUR)
    refunds = [world.accepted() for _ in range(3)]

    outcomes = world.lifecycle.step_all(refunds)

    assert [type(each) for each in outcomes[1:]] == [PolicyViolationError] * 2
    assert world.stored(refunds[0]).nonce == 0
    assert [world.stored(each).nonce for each in refunds[1:]] == [None, None]
    world.clock.now += timedelta(hours=1)
    assert world.step(refunds[1]).status is Status.RESERVED


def test_a_signature_is_not_asked_about_totals(world: World) -> None:
    """What was reserved is paid, also if more was reserved since."""
    ruled(world, HOUR)
    first = world.step(world.accepted())
    world.step(ruled(world, "").accepted())
    ruled(world, HOUR)

    assert world.step(first, times=2).status is Status.BROADCAST


def test_a_rule_that_the_signature_would_break_gives_no_nonce(world: World) -> None:
    """At the signature the fact is absent, so this rule would refuse it."""
    ruled(world, _forbid("!(context has spent_day)"))
    refund = world.accepted()

    with pytest.raises(PolicyViolationError):
        world.step(refund)

    assert world.stored(refund).nonce is None


GUIDE = pathlib.Path(__file__).resolve().parents[4] / "docs" / "how-to" / "policy.md"


def test_the_guides_rule_about_new_recipients(world: World) -> None:
    """A first payment of one unit lets no other one pass: a person is asked."""
    (text,) = re.findall(r"@id\(\"new-recipient\"\).*?};", GUIDE.read_text(), re.DOTALL)
    local = text.replace('"polygon"', '"local"').replace('"USDC"', '"TUSD"')
    ruled(world, local)

    (probe,) = world.finish(requested(world, amount="0.000001"))
    parts = [requested(world, amount="20") for _ in range(5)]
    large = requested(world, amount="900")
    world.work()
    world.work()

    assert probe.status is Status.CONFIRMED
    assert large.status is Status.AWAITING_APPROVAL
    statuses = [world.stored(each).status for each in parts]
    assert statuses.count(Status.AWAITING_APPROVAL) == 3
    assert world.store.payment_totals(large).spent.recipient == 40_000_001


def test_an_approval_covers_rules_about_fees_and_totals(world: World) -> None:
    """People are asked once about both, as soon as the fee is known."""
    ruled(world, COSTLY + FIRST)
    refund = requested(world)
    approve_waiting(world, refund, BOB)
    world.work()
    world.work()
    both = waiting(world, refund)
    approve_waiting(
        world, refund, BOB, CAROL
    )  # A worker asked: the first asks as well.
    (paid,) = world.finish(refund)

    assert both.need is not None
    assert len(both.need.rules) == 2
    assert paid.status is Status.CONFIRMED


def test_a_reservation_accepts_only_what_people_approved(world: World) -> None:
    """The payment turns out to be the first one in the transaction: it waits."""
    ruled(_seeing(world, PAID_BEFORE), FIRST)
    refund = world.accepted()

    with pytest.raises(PolicyViolationError, match="approvals needed: 1"):
        world.step(refund)

    assert world.stored(refund).status is Status.QUEUED
    _seeing(world, NOTHING_PAID)
    assert world.step(refund).status is Status.AWAITING_APPROVAL


def test_an_approval_of_another_rule_does_not_count(world: World) -> None:
    """People approved the fee; that it is a first payment shows only later."""
    ruled(_seeing(world, PAID_BEFORE), COSTLY + FIRST)
    refund = world.step(world.accepted())
    approve_waiting(world, refund, BOB, CAROL)
    queued = world.step(refund)

    with pytest.raises(PolicyViolationError, match="approvals needed: 1"):
        world.step(queued)

    assert world.stored(queued).nonce is None


def test_the_approval_is_verified_with_the_nonce(world: World) -> None:
    """It is changed after the worker has read it."""
    ruled(world, FIRST)
    refund = requested(world)
    approve_waiting(world, refund, BOB)
    queued = world.step(refund)
    store = world.store
    digests: list[frozenset[str]] = []

    def reserve_all(reservations: Sequence[Reservation], **options: Any) -> Any:
        digests.extend(each.approvals for each in reservations)
        later = [
            replace(each, approvals=frozenset({"00" * 32})) for each in reservations
        ]
        return store.reserve_all(later, **options)

    world.store = altered(store, reserve_all=reserve_all)
    with pytest.raises(StaleStateError, match="approval"):
        world.step(queued)

    (approval,) = store.approvals_of(refund.id)
    assert digests == [{approval.digest}]
    assert world.stored(queued).nonce is None


def test_a_decision_about_a_refund_with_a_nonce_has_no_totals(world: World) -> None:
    """Its own amount is counted already."""
    policy = ruled(world, FIRST).payment_policy
    queued = world.accepted()
    before = decide(policy, queued, world.network).need
    reserved = ruled(world, "").step(queued)

    assert before is not None
    assert decide(policy, reserved, world.network).need is None


def test_totals_are_read_only_for_rules(world: World) -> None:
    """Without such a rule, a refund costs no read of the store."""
    world.store = altered(world.store, payment_totals=AssertionError("not read"))

    assert world.step(ruled(world, COSTLY.replace("costly", "x")).accepted())


def test_rules_that_are_applied_later_read_the_totals(world: World) -> None:
    """The process has started without a rule that reads them."""
    live = LivePolicy(SERVICE_POLICY)
    world.policy = live
    lifecycle = world.lifecycle
    first, second = world.accepted(), world.accepted()
    lifecycle.step(first)
    live.replace(compiled({"own.cedar": HOUR}))

    with refused("own"):
        lifecycle.step(second)
    assert world.stored(second).nonce is None
