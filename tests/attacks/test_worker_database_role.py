"""
A thief of the database role of the workers.

The role moves refunds, and writes the ring, stops and seals.  It can stop payments and
show false statuses; it cannot make a payment that no process accepted, or a second one.
"""

from contextlib import closing

import pytest

from signer.model.hold import Hold
from signer.model.refund import Status
from tests.attacks.database_attacks import Attacks
from tests.attacks.theft import (
    DELETIONS_OF_EVENTS,
    END_OF_BLOCKS,
    QUEUED_AGAIN,
    REFUSED,
    RESERVED_AGAIN,
    THIEF,
    Thief,
    let_work,
)
from tests.fixtures.ledger import later, now
from tests.fixtures.roles import Processes, Roles
from tests.support.ledgers import open_ledger


@pytest.fixture
def role() -> str:
    return "worker"


@pytest.mark.parametrize(
    "statement",
    [
        QUEUED_AGAIN,
        "UPDATE refunds SET state = 'assigned', nonce = 9",
        "UPDATE refunds SET state = 'assigned'",
        RESERVED_AGAIN,
    ],
    ids=["queued", "another nonce", "the same nonce", "its transaction"],
)
def test_a_confirmed_refund_is_not_repeated(
    processes: Processes, attacks: Attacks, statement: str
) -> None:
    """A final refund never changes, and neither does its transaction."""
    refund = processes.worker.finish(processes.refunds.accepted())[0]

    assert attacks.repeat(refund, statement) == REFUSED


def test_a_sent_refund_is_not_repeated(processes: Processes, attacks: Attacks) -> None:
    """The refund had a transaction, and gets no other."""
    refund = processes.worker.step(processes.refunds.accepted(), times=3)
    processes.worker.chain.mine()

    assert attacks.repeat(refund, RESERVED_AGAIN, QUEUED_AGAIN) is None
    assert processes.worker.stored(refund).nonce is None


def test_bytes_of_another_refund(processes: Processes, thief: Thief) -> None:
    """They are not sent for this refund, which gets its own: both are paid once."""
    worker = processes.worker
    refund = worker.step(processes.refunds.accepted())
    other = worker.step(processes.refunds.accepted(amount="7.00"), times=2)
    costs = "max_fee_per_gas, max_priority_fee_per_gas, gas_limit, raw, signed_at"
    stolen = thief.steal(
        "INSERT INTO attempts (tx_hash, attempt, kind, chain_id, sender, nonce,"
        f" {costs}) SELECT 'thief', 0, kind, chain_id, sender, 0, {costs}"
        " FROM attempts",
        "UPDATE transactions SET status = 'signed', tx_hash = 'thief' WHERE nonce = 0",
    )
    let_work(worker, worker.worker)

    assert stolen is None
    paid = [amount for _, amount in worker.chain.payouts()]
    assert paid == [refund.amount, other.amount]
    assert worker.stored(refund).tx_hash != worker.stored(other).tx_hash


@pytest.mark.parametrize("statement", DELETIONS_OF_EVENTS)
def test_new_events_stay(processes: Processes, thief: Thief, statement: str) -> None:
    """The role deletes old events, and cannot hide what happened this week."""
    processes.refunds.accepted()
    processes.stores["worker"].sequence_events(9, later(0), lambda _: True)

    assert thief.steal(statement) == REFUSED


def test_an_invented_event(processes: Processes, thief: Thief) -> None:
    """An event that no process wrote is neither listed nor delivered."""
    refund = processes.refunds.accepted()
    store, at = processes.stores["worker"], later(0)
    store.sequence_events(9, at, lambda _: True)
    columns = "tenant, refund_id, status, at, mac"
    lie = f"INSERT INTO events (id, version, {columns}) SELECT"
    assert (
        thief.steal(
            f"{lie} 'evt_lie', 1, tenant, refund_id, 'confirmed', at, mac FROM events",
            "UPDATE events SET sequence = 7 WHERE id = 'evt_lie'",
            "INSERT INTO webhook_deliveries SELECT 'evt_lie', tenant, refund_id, 7,"
            " 'pending', 0, due_at, NULL, updated_at, 0 FROM webhook_deliveries",
        )
        is None
    )

    found = store.events(refund.tenant, 0, 9, at).events
    assert [event.status for event, _ in found] == [Status.QUEUED]
    claimed = store.claim_deliveries({refund.tenant: 9}, 9, later(1), later(60))
    assert [(each.delivery.event_id, each.event) for each in claimed] == [
        ("evt_lie", None)
    ]


def test_a_nonce_that_the_thief_chose(processes: Processes, thief: Thief) -> None:
    """A queued refund with an invented reservation is not paid from another wallet."""
    refund, worker = processes.refunds.accepted(), processes.worker.worker

    thief.steal(
        f"INSERT INTO transactions SELECT chain_id, '{THIEF}', 7, network, 'transfer',"
        " '', 'thief', 21000, now(), 'reserved', now(), NULL, 0, now() FROM refunds",
        f"UPDATE refunds SET state = 'assigned', nonce = 7, sender = '{THIEF}',"
        " position = 0",
    )
    let_work(processes.worker, worker)

    assert processes.worker.chain.broadcasts == []
    assert processes.worker.stored(refund).status is Status.RESERVED


def test_a_lifted_block(attacks: Attacks, thief: Thief, shipped: Roles) -> None:
    """A worker blocks tenants by its rules; its role cannot unblock one."""
    with closing(open_ledger(shipped.admin)) as admin:
        admin.begin_hold(Hold.of_tenant("shop", now(), "", "cli:alice"))
        assert thief.steal(END_OF_BLOCKS) is None
        assert admin.find_block("shop") is not None


def test_a_stop_that_no_command_could_replace(thief: Thief) -> None:
    """The version of its replacement would be too large for the column."""
    insert = (
        "INSERT INTO holds (name, at, reason, requested_by, version)"
        " VALUES ('network 9', {}, 'forged', 'thief', {})"
    )

    assert thief.steal(insert.format("now()", 2**31 - 1)) == REFUSED
    assert thief.steal(insert.format("'infinity'", 0)) == REFUSED
