"""The policy in front of refunds, sweeps and no-ops."""

from dataclasses import replace
from datetime import timedelta

import pytest

from signer.config.tenants import TenantRegistry
from signer.errors import PolicyViolationError
from signer.model.decision import Decision
from signer.model.key import KeyState
from signer.model.refund import Status
from signer.policy.default_rules import service_files
from signer.policy.facts import AnyFacts, Caller, Path
from signer.policy.policy import Policy
from signer.policy.rules import PolicyFile
from signer.refunds.payment_policy import PolicyReview, build_caller, own_keys
from tests.support.devices import honest, recording, signer_over
from tests.support.policy import SERVICE_POLICY
from tests.support.refunds import CUSTOMER, KEY, NETWORK, World


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

    with pytest.raises(PolicyViolationError) as refused:
        world.step(refund)

    assert refused.value.rule == "blocked"
    assert world.stored(refund).status is Status.QUEUED
    assert world.stored(refund).nonce is None
    world.policy = SERVICE_POLICY
    assert world.step(refund).status is Status.RESERVED


def test_a_refund_with_a_nonce_waits_for_the_policy(world: World) -> None:
    """Nothing is signed while a rule refuses it."""
    reserved = world.step(world.accepted())
    world.policy = _policy(BLOCKED)

    with pytest.raises(PolicyViolationError):
        world.step(reserved)

    assert world.store.transactions(reserved.id) == ()
    world.policy = SERVICE_POLICY
    assert world.step(reserved).status is Status.SIGNED


def test_a_refund_that_was_sent_is_sent_again_as_it_is(world: World) -> None:
    """A rule that now refuses higher fees does not stop the broadcasts."""
    world.clock.now = world.clock.now.replace(hour=11)
    sent = world.broadcast()
    world.clock.now += timedelta(hours=2)
    world.policy = _policy(BEFORE_NOON)
    before = len(world.chain.broadcasts)

    world.step(sent)

    assert len(world.store.transactions(sent.id)) == 1
    assert len(world.chain.broadcasts) == before + 1


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
