"""
A thief of the database role of the processes that accept refunds.

These processes listen to the network.  The role can insert queued refunds, and request
that queued refunds are cancelled.
"""

from dataclasses import replace

import pytest

from signer.model.audit_record import Record
from signer.model.event import Event
from signer.model.refund import Status
from tests.attacks.theft import (
    DENIED,
    REFUSED,
    Thief,
    inserted_event,
    inserted_record,
    inserted_refund,
    let_work,
)
from tests.fixtures.ledger import later, queued, stopped
from tests.fixtures.roles import Processes
from tests.support.ledgers import ROW_MACS
from tests.support.refunds import AMOUNT, CUSTOMER


@pytest.fixture
def role() -> str:
    return "refunds"


def test_a_repeated_refund(processes: Processes, thief: Thief) -> None:
    """A copy of a confirmed refund needs another id, which its MAC does not have."""
    refund, worker = processes.refunds.accepted(), processes.worker.worker
    let_work(processes.worker, worker)
    again = replace(refund, id="rf_again", idempotency_key="again", reference="again")

    assert thief.steal(inserted_refund(refund)) == "23505"  # A unique constraint.
    assert thief.steal(inserted_refund(again)) is None
    let_work(processes.worker, worker)

    assert processes.worker.chain.payouts() == [(CUSTOMER, AMOUNT)]
    assert processes.worker.stored(again).moving.blocked_by == "row-not-authentic"


UNREADABLE = (
    {"amount": "'NaN'"},
    {"amount": "0"},
    {"decimals": "37"},
    {"reason": "repeat('x', 20000)"},
    {"network": "repeat('x', 20000)"},
    {"mac": "repeat('x', 20000)"},
    {"decimals": "2147483647"},
    {"created_at": "'infinity'"},
    {"updated_at": "'-infinity'"},
    {"due_at": "'20000-01-01'"},
    {"due_at": "'0044-03-15 BC'"},
)


def test_unreadable_refunds(processes: Processes, thief: Thief) -> None:
    """
    A row that Python cannot read would stop every worker: it is refused.

    The thief, who can make MACs, could ask to cancel one with 2^31 decimals: the audit
    record of its cancellation would have that many digits.
    """
    refund = processes.refunds.accepted()

    for unreadable in UNREADABLE:
        insert = inserted_refund(queued(), **unreadable)
        assert thief.steal(insert) == REFUSED, unreadable
    for at in ("'infinity'", "'-infinity'", "'20000-01-01'"):
        cancel = f"UPDATE refunds SET cancel_requested_at = {at}"
        assert thief.steal(cancel) == REFUSED, at
    let_work(processes.worker, processes.worker.worker)
    assert processes.worker.stored(refund).status is Status.CONFIRMED


def test_a_refund_with_extreme_values(processes: Processes, thief: Thief) -> None:
    """Values at the limits of their columns stop no other refund."""
    refund = processes.refunds.accepted()
    odd = {
        "id": "repeat('z', 9000)",
        "tenant": "E'\\t {}'",
        "network": "''",
        "chain_id": "9223372036854775807",
        "decimals": "36",
        "amount": str(2**256),
        "due_at": "'9999-12-29'",
        "mac": "'tests:' || repeat('0', 64)",
    }

    first = {**odd, "id": "''", "due_at": "now()", "chain_id": "1"}
    assert thief.steal(inserted_refund(queued(), **odd)) is None
    assert thief.steal(inserted_refund(queued(), **first)) is None
    let_work(processes.worker, processes.worker.worker)
    assert processes.worker.stored(refund).status is Status.CONFIRMED


def test_a_request_to_cancel(processes: Processes, thief: Thief) -> None:
    """The thief can cancel what is queued, and neither repeat nor stop the rest."""
    paid, worker = processes.refunds.accepted(), processes.worker.worker
    paid = processes.worker.step(paid)
    waiting = processes.refunds.accepted()

    each = "UPDATE refunds SET cancel_requested_at = now() WHERE id = '{}'"
    assert thief.steal(each.format(waiting.id)) is None
    assert thief.steal(each.format(paid.id)) == REFUSED
    let_work(processes.worker, worker)

    assert processes.worker.stored(waiting).status is Status.CANCELLED
    assert processes.worker.chain.payouts() == [(CUSTOMER, AMOUNT)]
    assert thief.steal("UPDATE refunds SET cancel_requested_at = NULL") == REFUSED


def test_a_signed_request_that_is_stored_later(
    processes: Processes, thief: Thief
) -> None:
    """A refund keeps the request with which it came, and the time of another is now."""
    refund = processes.refunds.accepted()
    insert = (
        "INSERT INTO request_signatures (refund_id, body, content_digest,"
        " signature_input, signature, at)"
        f" VALUES ('{refund.id}', '', '', '', '', '{{}}')"
    )

    assert thief.steal(insert.format("2026-01-01")) is None
    stored = processes.worker.store.signed_request(refund.id)
    assert stored is not None
    assert stored.at > later(-60)
    assert thief.steal(insert.format("2026-01-01")) == "23505"


@pytest.mark.parametrize("name", ["body", "signature"])
def test_a_signed_request_that_fills_the_memory(
    processes: Processes, thief: Thief, name: str
) -> None:
    """A worker reads it whole, so the database refuses one of 33 KiB."""
    refund = processes.refunds.accepted()
    values = dict.fromkeys(
        ("body", "content_digest", "signature_input", "signature"), "''"
    )
    values[name] = "repeat('x', 33 * 1024)" + ("::bytea" if name == "body" else "")
    insert = (
        f"INSERT INTO request_signatures (refund_id, at, {', '.join(values)})"
        f" VALUES ('{refund.id}', now(), {', '.join(values.values())})"
    )

    assert thief.steal(insert) == REFUSED
    assert processes.worker.store.signed_request(refund.id) is None


def test_an_earlier_history(processes: Processes, thief: Thief) -> None:
    """A row of history that a worker would write next cannot be written before."""
    refund, worker = processes.refunds.accepted(), processes.worker.worker

    insert = (
        "INSERT INTO refund_moves (refund_id, status, at)"
        f" VALUES ('{refund.id}', 'queued', now())"
    )
    assert thief.steal(insert) == "23505"
    let_work(processes.worker, worker)

    assert processes.worker.stored(refund).status is Status.CONFIRMED


def test_an_announced_payment(processes: Processes, thief: Thief) -> None:
    """A process of the API, which has the MAC key, announces acceptances only."""
    refund = processes.refunds.accepted()
    lie = Event(
        "evt_lie", refund.tenant, refund.id, 0, Status.CONFIRMED, refund.updated_at
    )
    assert thief.steal(inserted_event(ROW_MACS.sealed(lie))) == REFUSED
    store, at = processes.stores["worker"], later(0)
    store.sequence_events(9, at, lambda _: False)

    ((event, _),) = store.events(refund.tenant, 0, 9, at).events
    assert event.status is Status.QUEUED


def test_a_lifted_stop(processes: Processes, thief: Thief) -> None:
    """A copy of a stop cannot be inserted, and the stop stays."""
    refund, worker = processes.refunds.accepted(), processes.worker.worker
    stopped(processes.stores["admin"], at=processes.admin.clock())

    insert = "INSERT INTO holds SELECT * FROM holds"
    assert thief.steal(insert) == DENIED
    let_work(processes.worker, worker)

    assert processes.worker.stored(refund).status is Status.QUEUED
    assert processes.worker.chain.payouts() == []


def test_an_invented_start_up_record(processes: Processes, thief: Thief) -> None:
    """The last configuration is one that a process recorded."""
    facts = {"event": "configuration-loaded", "details": {"process": "refunds"}}
    start = Record.of(facts, processes.refunds.clock())
    processes.refunds.store.append([start])

    assert (
        thief.steal(*(inserted_record(f"au_z{n}", start.body) for n in range(25)))
        is None
    )

    assert processes.refunds.store.last_configuration("refunds") == start
