"""
Refunds that wait for people because a rule demands it: ways around these people.

The intruder may write every row of the database, or be one administrator.
"""

from collections.abc import Callable

import pytest

from signer.errors import NotFoundError, PolicyViolationError, SamePersonError
from signer.model.audit_record import Actor
from signer.model.refund import Status
from signer.model.transaction import Kind
from signer.refunds.transaction_signer import Attempt, TransactionSigner
from tests.attacks.test_unapproved_refunds import FORGERIES, known_of
from tests.attacks.theft import let_work
from tests.support.approvals import (
    BOB,
    CAROL,
    WHY,
    administrators,
    approve_waiting,
    requested,
    rule,
    ruled,
    waiting,
)
from tests.support.refunds import AMOUNT, CUSTOMER, World


TWO = rule("two", 2)


Steal = Callable[..., None]


@pytest.fixture
def writable_url(sqlite_url: str) -> str:
    """A file that the intruder can write."""
    return sqlite_url


@pytest.fixture
def world(world: World) -> World:
    """A service in which each refund needs two approvals."""
    return ruled(world, TWO)


@pytest.mark.parametrize("statements", FORGERIES.values(), ids=FORGERIES)
@pytest.mark.parametrize("has_one", [False, True], ids=["none", "one approval"])
def test_a_forged_row_pays_nothing(
    world: World, steal: Steal, statements: list[str], has_one: bool
) -> None:
    """Also with one of two approvals."""
    refund = requested(world)
    if has_one:
        approve_waiting(world, refund, BOB)
    known = known_of(world, refund)
    steal(*(each.format(**known) for each in statements))
    let_work(world, world.worker)

    assert world.chain.payouts() == []
    assert not world.stored(refund).status.is_final


def test_a_second_name_is_not_written(world: World, steal: Steal) -> None:
    """The intruder adds the second person to the row that the first one approved."""
    refund = requested(world)
    approve_waiting(world, refund, BOB)
    steal(
        "UPDATE approvals SET decided_by = 'token:bob token:carol',"
        " state = 'approved', version = version + 1"
    )
    let_work(world, world.worker)

    assert world.chain.payouts() == []
    assert world.store.approvals_of(refund.id)[0].is_authentic is False


def test_an_earlier_version_is_not_put_back(world: World, steal: Steal) -> None:
    """A rejected proposal gets the row back that one person had approved."""
    refund = requested(world)
    approve_waiting(world, refund, BOB)
    columns = "decided_by, decided_at, state, mac, version"
    steal(f"CREATE TABLE kept AS SELECT {columns} FROM approvals")
    approve_waiting(world, refund, CAROL)
    steal(f"UPDATE approvals SET ({columns}) = (SELECT {columns} FROM kept)")
    let_work(world, world.worker)

    assert world.chain.payouts() == []


def test_who_requested_it_is_none_of_the_two(world: World) -> None:
    refund = requested(world)
    approve_waiting(world, refund, BOB)
    for name in ("token:gateway", "token:GateWay", "token:bob", "token:BoB"):
        with pytest.raises(SamePersonError):
            approve_waiting(world, refund, Actor(name, token_id="another"))
    let_work(world, world.worker)

    assert world.chain.payouts() == []


def test_the_group_is_part_of_what_is_approved(world: World, steal: Steal) -> None:
    """The intruder removes it from the proposal, and approves that."""
    refund = requested(ruled(world, rule("one", 1, group="finance")))
    steal(
        "UPDATE approvals SET proposal ="
        " replace(proposal, '\"approvers\":\"finance\",', '')"
    )
    digest = world.store.approvals_of(refund.id)[0].digest
    with pytest.raises(NotFoundError):
        administrators(world).approve(digest, BOB.because(WHY))
    let_work(world, world.worker)

    assert world.chain.payouts() == []


def test_an_approval_of_another_refund_pays_nothing(world: World, steal: Steal) -> None:
    """Its whole decision is copied, or its row claims to be that of this refund."""
    paid, copied, claimed = (requested(world) for _ in range(3))
    approve_waiting(world, paid, BOB, CAROL)
    let_work(world, world.worker)
    columns = "state, decided_by, decided_at, version, mac"
    steal(
        f"UPDATE approvals SET ({columns}) = (SELECT {columns} FROM approvals"
        f" WHERE refund_id = '{paid.id}') WHERE refund_id = '{copied.id}'",
        f"DELETE FROM approvals WHERE refund_id = '{claimed.id}'",
        f"UPDATE approvals SET refund_id = '{claimed.id}' WHERE refund_id ="
        f" '{paid.id}'",
    )
    let_work(world, world.worker)

    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]
    assert world.stored(copied).moving.blocked_by == "row-not-authentic"
    assert waiting(world, claimed).requested_by == "worker"


@pytest.mark.parametrize("kind", Kind)
def test_a_path_that_asks_nobody_signs_nothing(world: World, kind: Kind) -> None:
    """The signer itself refuses: a caller that forgets the approvals pays nothing."""
    everything = rule("every", 1).replace('context.path == "refund" && true', "true")
    refund = world.step(ruled(world, "").accepted())
    signer = TransactionSigner(
        world.ring, world.clock, ruled(world, everything).payment_policy
    )
    gas = int(refund.gas_limit or 0) if kind is Kind.TRANSFER else 21_000
    attempt = Attempt(kind, 0, gas, 10**9, 1, is_legacy=False)

    assert refund.status is Status.RESERVED
    with pytest.raises(PolicyViolationError) as refused:
        signer.build_and_sign(refund.reserved(), attempt, world.network)
    assert refused.value.rule == "every"
    if kind is Kind.NOOP:  # Nor with people: only refunds can be approved.
        with pytest.raises(PolicyViolationError):
            signer.build_and_sign(
                refund.reserved(), attempt, world.network, approve=lambda _, need: None
            )
