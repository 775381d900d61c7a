"""
A thief of the database role of administrators: of the admin process or an operator.

The role writes the ring, stops and blocks, inserts sweeps, and takes nonces back when a
key is revoked.  It can stop payments; it cannot make one that no process accepted.
"""

import psycopg
import pytest

from signer.alerts import Alert, Alerts
from signer.approvals import SHOWN_DIGITS, Approvals
from signer.audit.log import AuditLog
from signer.errors import ApprovalRequiredError, RowNotAuthenticError
from signer.model.approval import Proposal
from signer.model.audit_record import Actor
from signer.model.hold import Hold, name_of_tenant
from signer.model.refund import Status
from tests.attacks.database_attacks import Attacks
from tests.attacks.theft import END_OF_BLOCKS, QUEUED_AGAIN, REFUSED, Thief, let_work
from tests.fixtures.ledger import FORGED_APPROVAL
from tests.fixtures.roles import Processes, Roles
from tests.support.audit import overruled
from tests.support.ring import SILENCE


@pytest.fixture
def role() -> str:
    return "admin"


FORGET = ("DELETE FROM transaction_payments", "DELETE FROM transactions")


@pytest.mark.parametrize(
    "statement", [QUEUED_AGAIN, "UPDATE refunds SET state = 'assigned'", *FORGET]
)
def test_a_confirmed_refund_is_not_repeated(
    processes: Processes, attacks: Attacks, statement: str
) -> None:
    """A final refund never changes, and it keeps its transaction."""
    refund = processes.worker.finish(processes.refunds.accepted())[0]

    assert attacks.repeat(refund, statement) == REFUSED


@pytest.mark.parametrize("statement", FORGET)
def test_a_sent_refund_is_not_repeated(
    processes: Processes, attacks: Attacks, statement: str
) -> None:
    """The refund had a transaction, which stays, and gets no other."""
    refund = processes.worker.step(processes.refunds.accepted(), times=3)
    processes.worker.chain.mine()

    assert attacks.repeat(refund, QUEUED_AGAIN, statement) == REFUSED
    assert processes.worker.stored(refund).status is Status.CONFIRMED


@pytest.mark.parametrize("state", ["confirmed", "failed", "refused", "cancelled"])
def test_an_invented_end(processes: Processes, attacks: Attacks, state: str) -> None:
    """A refund does not end before its transaction, and is paid."""
    refund = processes.worker.step(processes.refunds.accepted())
    place = "" if state in {"confirmed", "failed"} else ", nonce = NULL, sender = NULL"
    place += ", position = NULL" if place else ""
    statement = f"UPDATE refunds SET state = '{state}'{place}"

    assert attacks.repeat(refund, statement) == REFUSED
    assert processes.worker.stored(refund).status is Status.CONFIRMED


def test_a_nonce_that_the_thief_takes_back(processes: Processes, thief: Thief) -> None:
    """As after a revocation, the refund gets a nonce again, and is paid once."""
    refund = processes.worker.step(processes.refunds.accepted())
    first, *rest = FORGET

    assert thief.steal(first, QUEUED_AGAIN, *rest) is None
    let_work(processes.worker, processes.worker.worker)

    assert processes.worker.chain.payouts() == [(refund.recipient, refund.amount)]


def test_a_payment_that_is_removed_before_the_signature(
    processes: Processes, attacks: Attacks, thief: Thief, shipped: Roles
) -> None:
    """The transaction was signed meanwhile: the refund gets no other."""
    refund = processes.worker.step(processes.refunds.accepted())
    assert thief.steal(FORGET[0]) is None
    processes.worker.step(refund, times=2)
    processes.worker.chain.mine()
    overruled(shipped.superuser, QUEUED_AGAIN)

    attacks.repeat(refund)
    assert processes.worker.stored(refund).nonce is None


def test_a_payment_that_is_removed_during_the_signature(
    processes: Processes, attacks: Attacks, shipped: Roles
) -> None:
    """A removal that commits after the signature lets the refund get no other."""
    refund = processes.worker.step(processes.refunds.accepted())
    with psycopg.connect(shipped.admin) as connection:
        connection.execute(FORGET[0].encode())
        processes.worker.step(refund, times=2)
    processes.worker.chain.mine()
    overruled(shipped.superuser, QUEUED_AGAIN)

    attacks.repeat(refund)
    assert processes.worker.stored(refund).nonce is None


CHANGE_OF = Proposal("signing-resume", {"chain_id": "31337", "version": 0})


def test_a_lifted_block(processes: Processes, thief: Thief) -> None:
    """The tenant stays blocked until an operator blocks and unblocks it."""
    refund, worker = processes.refunds.accepted(), processes.worker.worker
    store, at = processes.stores["admin"], processes.admin.clock()
    store.begin_hold(Hold.of_tenant("gateway", at, "", "cli:tests"))

    assert thief.steal(END_OF_BLOCKS) is None
    let_work(processes.worker, worker)

    assert processes.worker.chain.payouts() == []
    with pytest.raises(RowNotAuthenticError):
        store.end_hold(name_of_tenant("gateway"), at)
    store.begin_hold(Hold.of_tenant("gateway", at, "", "cli:tests"))
    store.end_hold(name_of_tenant("gateway"), at)
    let_work(processes.worker, worker)
    assert processes.worker.stored(refund).status is Status.CONFIRMED


def test_approvals_that_the_thief_inserts(processes: Processes, thief: Thief) -> None:
    """Thousands of rows with an early time hide no proposal, and approve nothing."""
    store, clock = processes.stores["admin"], processes.admin.clock
    audit = AuditLog(SILENCE, journal=store)
    approvals = Approvals(store, audit, Alerts(store), clock, required=True)
    insert = FORGED_APPROVAL.format(digest="DIGEST").replace("VALUES (", "SELECT ")
    insert = insert.replace("'DIGEST'", "lpad(to_hex(n), 64, '0')")[:-1]
    assert thief.steal(f"{insert} FROM generate_series(1, 3000) AS n") is None
    alice, bob = Actor("token:alice"), Actor("token:bob")
    with pytest.raises(ApprovalRequiredError), approvals.authorize(CHANGE_OF, alice):
        pass
    listed = approvals.list()

    assert [each.digest for each in listed.approvals] == [CHANGE_OF.digest]
    assert (listed.changed, listed.is_complete) == (3000, True)
    approvals.approve(CHANGE_OF.digest[:SHOWN_DIGITS], bob.because("checked"))
    with approvals.authorize(CHANGE_OF, alice):
        assert store.alert_counts()[str(Alert.ROW_CHANGED)] == 1
