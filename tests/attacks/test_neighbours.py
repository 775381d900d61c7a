"""A tenant with a long queue beside another tenant of the same service."""

from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from backends.sql import SQLStore
from signer.audit.log import AuditLog
from signer.config.tenants import Tenant, TenantRegistry
from signer.model.refund import Refund, Status
from signer.model.transaction import CLAIM_TIME
from signer.refunds.saved_steps import Moving, Outcome
from tests.support.approvals import ruled
from tests.support.ledgers import seal
from tests.support.refunds import World, altered
from tests.support.ring import SILENCE


QUEUED = 200

HOSTILE, OTHER = "gateway", "shop"

FORBIDDEN = """
@id("two-hundred")
forbid (principal, action, resource)
when { context has amount && context.amount == decimal("200.0") };
"""


@pytest.fixture
def world(store: SQLStore) -> World:
    """A service with two tenants, whose audit records are stored."""
    world = World(store)
    world.tenants = TenantRegistry(
        {name: Tenant(subjects=(name,)) for name in (HOSTILE, OTHER)}
    )
    world.audit = AuditLog(SILENCE, world.clock, journal=world.store)
    return world


def _queue(world: World, amount: str) -> list[Refund]:
    return [world.accepted(HOSTILE, amount=amount) for _ in range(QUEUED)]


def _records(world: World) -> int:
    while seal(world.store):
        pass
    return len(world.store.sealed(0, 10_000))


def test_another_tenants_refund_is_the_next_one(world: World) -> None:
    """
    The queue, the device and the nodes are taken in turns.

    The nonce shows when the signature was asked for: in the first batch.
    """
    _queue(world, "1")
    refund = world.accepted(OTHER)
    world.work()

    paid = world.stored(refund)
    assert paid.status is Status.BROADCAST
    assert paid.nonce is not None
    assert paid.nonce <= 1


def test_a_new_refund_waits_for_few_of_another_tenant(world: World) -> None:
    """
    One that arrives during a batch: for that batch, and for its own.

    The time of a step is modelled, so that the size of batches follows from it.
    """
    _queue(world, "1")
    lifecycle, worker = world.lifecycle, world.worker
    passed = 0.0
    sent: list[Refund] = []
    asked: list[tuple[Refund, int]] = []

    def step_all(refunds: Sequence[Moving]) -> Sequence[Outcome]:
        nonlocal passed
        passed += 0.002 + 0.0003 * len(refunds)
        if asked == [] or asked[-1][0].id in {each.id for each in sent}:
            asked.append((world.accepted(OTHER), len(sent)))
        outcomes = lifecycle.step_all(refunds)
        sent.extend(
            payment
            for each in outcomes
            if not isinstance(each, Exception)
            for payment in each.payments
            if payment.status is Status.BROADCAST
        )
        return outcomes

    worker._lifecycle = altered(lifecycle, step_all=step_all)
    worker._timer = lambda: passed
    world.clock.now += CLAIM_TIME
    worker.advance()

    order = [each.id for each in sent]
    waits = [order.index(each.id) - before for each, before in asked[:-1]]
    assert len(waits) > 10
    assert max(waits[1:]) <= 8


def _limited(world: World) -> None:
    world.change_token(hourly_limit="100")


def _forbidden(world: World) -> None:
    """As if an operator had forbidden the amount after the refunds were accepted."""
    ruled(world, FORBIDDEN)


@pytest.mark.parametrize(
    ("forbid", "code"), [(_limited, "limit-reached"), (_forbidden, "policy-violation")]
)
def test_refunds_that_wait_cost_others_nothing(
    world: World, forbid: Callable[[World], object], code: str
) -> None:
    """For ten minutes: few lines of the log, no audit record, no request of a node."""
    waiting = _queue(world, "200")
    forbid(world)
    world.work()
    records = _records(world)
    world.chain.calls.clear()
    passes = 20
    with capture_logs() as logs:
        for _ in range(passes):
            world.work(after=timedelta(seconds=30))
    estimated = world.chain.calls["preflight"]
    refund = world.accepted(OTHER)
    world.work()

    assert {each.moving.blocked_by for each in map(world.stored, waiting)} == {code}
    assert len(logs) <= passes
    assert _records(world) - records < 10
    assert estimated <= passes
    assert world.stored(refund).status is Status.BROADCAST
