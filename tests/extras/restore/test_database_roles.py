"""A restore with the database role of administrators, and workers with theirs."""

from collections.abc import Callable
from dataclasses import replace

from signer.model.refund import Status
from signer.ports.ledger import Ledger
from tests.fixtures.roles import Processes
from tests.support.refunds import ACTOR, AMOUNT, CUSTOMER, World
from tests.support.restores import keep_log, requested


def test_the_roles_may_restore_and_fill(
    processes: Processes, empty: Callable[[], Ledger]
) -> None:
    """
    Administrators open wallets, create refunds and hold nonces; workers hold and sign
    those of fillers (R24).
    """
    lost = World(empty())
    log = keep_log(lost)
    refunds = [requested(lost, name) for name in ("paid", "cancelled", "refused")]
    unknown = requested(lost, "unknown")
    lost.step(refunds[0], times=3)
    lost.service.request_cancellation("gateway", refunds[1].id, ACTOR)
    lost.chain.revert = "blocked"
    lost.step(refunds[2])
    lost.chain.revert = None
    lost.step(unknown, times=2)
    records = [each for each in log if unknown.reference not in each.body]
    admin, worker = (
        replace(each, chain=lost.chain) for each in (processes.admin, processes.worker)
    )

    plan = admin.restore(records)
    ended = worker.finish(*refunds)
    worker.work()

    assert [each.fillers for each in plan.wallets] == [[1]]
    assert [each.status for each in ended] == [
        Status.CONFIRMED,
        Status.CANCELLED,
        Status.CANCELLED,
    ]
    assert worker.store.paused_wallets() == set()
    assert lost.chain.payouts() == [(CUSTOMER, AMOUNT)]
