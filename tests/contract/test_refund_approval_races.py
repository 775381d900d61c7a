"""Processes that approve, reject, expire, cancel and work on a refund at once."""

from collections import Counter
from contextlib import closing, suppress
from itertools import pairwise

import pytest

from backends.sql import SQLStore
from signer.approvals import VALID_FOR
from signer.errors import HotWalletError
from signer.model.approval import ApprovalState
from signer.model.refund import Refund, Status
from tests.fixtures.ledger import status_moves
from tests.fixtures.races import race
from tests.support.approvals import (
    ASKING,
    administrators,
    approval_of,
    approve,
    limited,
    reject,
    requested,
)
from tests.support.ledgers import open_ledger, seal
from tests.support.refunds import AMOUNT, CUSTOMER, World


PROCESSES = 10

# How a refund ends after each decision, unless its tenant cancels it.
_ENDS = {
    ApprovalState.DONE: Status.CONFIRMED,
    ApprovalState.REJECTED: Status.REFUSED,
    ApprovalState.EXPIRED: Status.REFUSED,
}


def _act(store: SQLStore, index: int) -> None:
    """Do one of five things to the only refund that waits."""
    world = limited(World(store))
    (refund,) = store.list("gateway").refunds
    with suppress(HotWalletError):
        match index % 5:
            case 0:
                approve(world, refund)
            case 1:
                reject(world, refund)
            case 2:
                world.clock.now += VALID_FOR
                administrators(world).list()
            case 3:
                world.service.request_cancellation("gateway", refund.id, ASKING)
            case _:
                world.worker.work()


def _act_without_cancelling(store: SQLStore, index: int) -> None:
    if index % 5 != 3:
        _act(store, index)


@pytest.mark.parametrize("act", [_act, _act_without_cancelling])
def test_a_race_has_one_outcome(database_url: str, act: object) -> None:
    """One decision, one end that follows from it, and one audit record of each."""
    with closing(open_ledger(database_url)) as store:
        world = limited(World(store))
        assert world.ring.active()
        refund = requested(world)
        race(act, database_url, PROCESSES)  # type: ignore[arg-type]
        if approval_of(world, refund).state is ApprovalState.WAITING:
            world.clock.now += VALID_FOR
        (ended,) = world.finish(refund)
        approval = approval_of(world, refund)

        is_cancelled = ended.status is Status.CANCELLED
        assert is_cancelled or ended.status is _ENDS[approval.state]
        assert not is_cancelled or act is _act
        is_paid = ended.status is Status.CONFIRMED
        assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * is_paid
        _require_legal(world, refund)
        assert _decisions(store) == {str(approval.state): 1}


def _require_legal(world: World, refund: Refund) -> None:
    statuses = [move.status for move in world.store.history(refund.id)]
    assert all(after in status_moves()[before] for before, after in pairwise(statuses))


def _decisions(store: SQLStore) -> Counter[str]:
    """Count the records of final states of approvals."""
    while seal(store):
        pass
    fields = [each.record.fields for each in store.sealed(0, 1000)]
    states = (each["details"].get("state") for each in fields)
    return Counter(state for state in states if state in {str(s) for s in _ENDS})
