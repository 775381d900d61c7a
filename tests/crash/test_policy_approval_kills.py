"""
A worker dies at each step between an approval that a rule demands and the payment.

Nothing is signed before the last person has approved, and the refund is paid once.
"""

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from multiprocessing.connection import Connection

import pytest

from signer.model.approval import ApprovalState
from signer.model.refund import Refund, Status
from tests.crash.approval_laboratory import _fork
from tests.fixtures.races import start_process
from tests.support.approvals import BOB, CAROL, approve_waiting, requested, rule, ruled
from tests.support.ledgers import open_ledger
from tests.support.refunds import World


MAX_STEPS = 200


def kill_workers(stride: int, url: str, line: Connection) -> None:
    """
    Kill workers at points that are *stride* apart.

    Send how often one died, what was wrong, and how many transactions are signed.
    """
    with closing(open_ledger(url)) as store:
        world = ruled(World(store), rule("two", 2))
        refund = requested(world)
        problems, deaths = [], 0
        for people in ((), (BOB,), (CAROL,)):
            if people:
                approve_waiting(world, refund, *people)
            for point in range(1, MAX_STEPS, stride):
                # What a dead worker held is free again.
                world.clock.advance(seconds=60)
                died = _fork(store, partial(_work, world), point)
                deaths += died
                problems += [f"{people}, {point}: {e}" for e in _check(world, refund)]
                if not died:
                    break
        line.send((deaths, problems, len(store.transactions(refund.id))))


def _work(world: World) -> None:
    """Work as a new worker does, until nothing is to be done."""
    worker = world.worker
    while worker.work():
        pass


def _check(world: World, refund: Refund) -> Iterator[str]:
    """Yield what is wrong after a death."""
    (approval,) = world.store.approvals_of(refund.id)
    signed = world.store.transactions(refund.id)
    stored = world.stored(refund)
    if approval.state is not ApprovalState.DONE:
        if stored.status is not Status.AWAITING_APPROVAL:
            yield f"the refund is {stored.status}, the approval {approval.state}"
        if signed:
            yield f"signed, and the approval is {approval.state}"
    if len(approval.approvers) < 2 and approval.state is not ApprovalState.WAITING:
        yield f"approved by {approval.approvers} alone"
    if len(signed) > 1:
        yield "signed twice"


@pytest.mark.parametrize("stride", [23, pytest.param(1, marks=pytest.mark.soak)])
def test_a_worker_dies_between_approval_and_payment(
    database_url: str, stride: int
) -> None:
    process, line = start_process(partial(kill_workers, stride), database_url)
    deaths, problems, signed = line.recv()
    process.join(30)

    assert problems == []
    assert deaths > 40 // stride
    assert signed == 1
