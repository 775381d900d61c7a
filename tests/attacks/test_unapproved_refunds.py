"""
Refunds above the amount that one person may pay: every way around the second person.

The intruder may write rows, have the role of a process, be the host of the API, or be
one administrator.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest

from signer.approvals import VALID_FOR
from signer.errors import ApprovalRequiredError, NotFoundError, SamePersonError
from signer.model.approval import ApprovalState, Proposal
from signer.model.audit_record import Actor
from signer.model.refund import Refund, Status
from signer.model.transaction import compose
from signer.refunds.payment_approvals import PaymentApprovals
from tests.attacks.theft import DENIED, REFUSED, Thief, let_work
from tests.fixtures.ledger import accept
from tests.fixtures.roles import Processes, Roles
from tests.support.approvals import (
    APPROVE_ABOVE,
    BOB,
    administrators,
    approval_of,
    approve,
    limited,
    proposal_of,
    requested,
)
from tests.support.audit import record
from tests.support.refunds import AMOUNT, CUSTOMER, World


Steal = Callable[..., None]

RESERVED = (
    (
        "INSERT INTO transactions (chain_id, sender, nonce, network, kind,"
        " composition, key_id, gas_limit, created_at, status, updated_at, version,"
        " due_at, attempts)"
        " SELECT chain_id, '{sender}', 0, network, 'transfer', '{composition}',"
        " '{key_id}', 65000, created_at, 'reserved', updated_at, 0, updated_at, 0"
        " FROM refunds"
    ),
    (
        "UPDATE refunds SET state = 'assigned', nonce = 0, sender = '{sender}',"
        " position = 0, version = version + 1"
    ),
)

# What a program does that can write every row.
FORGERIES = {
    "queued": ["UPDATE refunds SET state = 'queued', due_at = updated_at"],
    "reserved": [*RESERVED],
    "broadcast": [
        *RESERVED,
        "UPDATE transactions SET status = 'broadcast', tx_hash = '0x00'",
    ],
    "approved": [
        (
            "UPDATE approvals SET state = 'approved', decided_by = 'token:bob',"
            " decided_at = requested_at, version = version + 1"
        )
    ],
    "done": [
        "UPDATE approvals SET state = 'done', version = version + 1",
        "UPDATE refunds SET state = 'queued', due_at = updated_at",
    ],
    "done and reserved": [
        "UPDATE approvals SET state = 'done', version = version + 1",
        *RESERVED,
    ],
    "deleted": [
        "DELETE FROM approvals",
        "UPDATE refunds SET state = 'queued', due_at = updated_at",
    ],
    "a smaller amount": [
        "UPDATE refunds SET amount = {small}, state = 'queued', due_at = updated_at"
    ],
    "of another tenant": ["UPDATE refunds SET tenant = 'shop', state = 'queued'"],
}


def known_of(world: World, refund: Refund) -> dict[str, str]:
    """Return what the intruder can read, or compute."""
    is_sqlite = world.store._database.dialect == "sqlite"  # type: ignore[attr-defined]
    return {
        "sender": world.signer.address,
        "key_id": world.ring.active().key.key_id,
        "composition": compose([refund.id]),
        "small": f"'{1:078d}'" if is_sqlite else "1",
    }


@pytest.fixture
def world(world: World) -> World:
    """A process of the service, in which large refunds need an approval."""
    return limited(world)


@pytest.mark.parametrize("statements", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_row_pays_nothing(
    world: World, steal: Steal, statements: list[str]
) -> None:
    refund, worker = requested(world), world.worker

    steal(*(each.format(**known_of(world, refund)) for each in statements))
    let_work(world, worker)

    assert world.chain.payouts() == []
    assert not world.stored(refund).status.is_final


def test_a_copied_approval_pays_nothing(world: World, steal: Steal) -> None:
    """The row of a refund that was approved, with its valid MAC, for another one."""
    approved, other = requested(world), requested(world)
    approve(world, approved)
    let_work(world, world.worker)
    columns = "state, decided_by, decided_at, version, mac"

    steal(
        f"UPDATE approvals SET ({columns}) = (SELECT {columns} FROM approvals WHERE"
        f" refund_id = '{approved.id}') WHERE refund_id = '{other.id}'"
    )
    let_work(world, world.worker)

    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]
    assert world.stored(other).moving.blocked_by == "row-not-authentic"


def test_an_approval_is_not_repeated(world: World, steal: Steal) -> None:
    """A paid refund and its approval, put back as they were, pay nothing again."""
    refund = requested(world)
    approve(world, refund)
    let_work(world, world.worker)

    steal(
        "UPDATE refunds SET state = 'awaiting-approval', nonce = NULL, sender = NULL,"
        " position = NULL"
    )
    let_work(world, world.worker)

    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


@pytest.mark.parametrize("name", ["token:gateway", "token:GATEWAY"])
def test_one_person_is_not_two(world: World, name: str) -> None:
    """The subject that requested the refund has an administrator's token as well."""
    refund = requested(world)

    with pytest.raises(SamePersonError):
        approve(world, refund, Actor(name, token_id="another"))
    let_work(world, world.worker)
    assert world.chain.payouts() == []


def test_one_administrator_is_not_two(world: World) -> None:
    """Of a refund that no person is known to have requested."""
    limited(world, "100")
    refund = requested(world)
    limited(world)
    let_work(world, world.worker)
    approve(world, refund)

    with pytest.raises(SamePersonError):
        approve(world, refund)
    let_work(world, world.worker)
    assert world.chain.payouts() == []


class Host:
    """A host of the API: it has the MAC key, and its role or the SQLite file."""

    def __init__(self, world: World, store: World) -> None:
        self.world, self.store = world, store.store

    def accept(self, refund: Refund, actor: Actor | None) -> None:
        """Store *refund*, with a proposal that *actor* seems to have requested."""
        proposed = None
        if actor is not None:
            approvals: PaymentApprovals = self.world.lifecycle.parts.approvals
            proposed = approvals.propose(
                refund, actor, self.world.clock(), APPROVE_ABOVE
            )
        accept(self.store, refund, record=record(), proposed=proposed)


@pytest.fixture
def host(processes: Processes) -> Host:
    """The host of the API, with its database role."""
    return Host(limited(processes.worker), processes.refunds)


def _invented(world: World, status: Status) -> Refund:
    refund = limited(world, "100").accepted(amount="50")
    limited(world)
    return replace(
        refund,
        id="rf_" + "1" * 32,
        idempotency_key="invented",
        reference="invented",
        state=status.state,
        mac=None,
    )


def test_a_host_of_the_api_cannot_skip_the_proposal(
    processes: Processes, host: Host
) -> None:
    """A worker makes it, and two administrators must agree."""
    refund = _invented(processes.refunds, Status.QUEUED)
    host.accept(refund, None)
    let_work(host.world, host.world.worker)

    assert host.world.chain.payouts() == []
    assert host.world.stored(refund).status is Status.AWAITING_APPROVAL
    assert approval_of(host.world, refund).requested_by == "worker"


def test_a_host_of_the_api_cannot_approve(
    processes: Processes, host: Host, shipped: Roles
) -> None:
    """Its role inserts proposals that wait, and changes none."""
    refund = _invented(processes.refunds, Status.AWAITING_APPROVAL)
    host.accept(refund, BOB)
    approval = approval_of(host.world, refund)
    insert = (
        "INSERT INTO approvals (digest, proposal, requested_by, requested_at,"
        " expires_at, {}) VALUES ('00', '', '', now(), now(), {})"
    )
    thief = Thief(shipped.refunds)

    assert approval.state is ApprovalState.WAITING
    assert thief.steal("UPDATE approvals SET state = 'done'") == DENIED
    assert thief.steal("UPDATE approvals SET requested_by = 'token:eve'") == DENIED
    assert thief.steal("DELETE FROM approvals") == DENIED
    for column, value in (
        ("action", "'signing-resume'"),
        ("reason", "'forged'"),
        ("state", "'done'"),
        ("version", "1"),
        ("decided_by", "'token:bob'"),
    ):
        assert thief.steal(insert.format(column, value)) == DENIED
    let_work(host.world, host.world.worker)
    assert host.world.chain.payouts() == []


def test_a_host_of_the_api_cannot_show_another_payment(
    processes: Processes, host: Host
) -> None:
    """What administrators see is what its digest, and so the worker, stands for."""
    refund = _invented(processes.refunds, Status.AWAITING_APPROVAL)
    seen = proposal_of(replace(refund, amount=1)).text
    approvals = host.world.lifecycle.parts.approvals
    proposed = approvals.propose(
        refund, Actor("token:eve"), host.world.clock(), APPROVE_ABOVE
    )
    lie = replace(proposed, approval=replace(proposed.approval, proposal=seen))
    accept(host.store, refund, record=record(), proposed=lie)
    listed = administrators(processes.admin).list()

    assert (listed.approvals, listed.changed) == ([], 1)
    with pytest.raises(NotFoundError):
        approve(processes.admin, refund)
    let_work(host.world, host.world.worker)
    assert host.world.chain.payouts() == []


def test_a_host_of_the_api_cannot_ask_for_another_change(
    processes: Processes, host: Host
) -> None:
    """It inserts the proposal of a change, so that one administrator is enough."""
    change = Proposal("signing-resume", {"chain_id": "0"})
    refund = _invented(processes.refunds, Status.AWAITING_APPROVAL)
    approvals = host.world.lifecycle.parts.approvals
    proposed = approvals.propose(
        refund, Actor("token:eve"), host.world.clock(), APPROVE_ABOVE
    )
    forged = replace(
        proposed.approval,
        digest=change.digest,
        proposal=change.text,
        action="refund-pay",
    )
    lie = replace(proposed, approval=forged)
    accept(host.store, refund, record=record(), proposed=lie)
    admins = administrators(processes.admin)

    with pytest.raises(NotFoundError):
        admins.approve(change.digest, BOB.because("looks right"))
    with pytest.raises(ApprovalRequiredError), admins.authorize(change, BOB):
        pass
    with pytest.raises(SamePersonError):
        admins.approve(change.digest, BOB.because("looks right"))


@pytest.mark.parametrize("role", ["worker", "admin"])
def test_a_thief_of_another_role(
    processes: Processes, shipped: Roles, role: str
) -> None:
    """Without the MAC key, nothing that the role writes approves a refund."""
    world = limited(processes.worker)
    refund = requested(limited(processes.refunds))
    thief = Thief(shipped.of(role))

    done = "UPDATE approvals SET state = 'done', version = version + 1"
    queued = "UPDATE refunds SET state = 'queued', version = version + 1"
    assert thief.steal(done, queued) is None
    let_work(world, world.worker)
    again = "UPDATE approvals SET version = version, state = 'waiting'"

    assert world.chain.payouts() == []
    assert thief.steal(again) == REFUSED
    assert thief.steal("DELETE FROM approvals") == DENIED
    with pytest.raises(NotFoundError):
        administrators(processes.admin).approve(
            proposal_of(refund).digest, BOB.because("looks right")
        )


@pytest.mark.parametrize("state", ["confirmed", "assigned", "refused"])
def test_a_new_refund_has_a_first_state(shipped: Roles, state: str) -> None:
    """The role that accepts refunds may choose between two."""
    insert = f"INSERT INTO refunds (id, state) VALUES ('rf', '{state}')"

    assert Thief(shipped.refunds).steal(insert) == REFUSED


def test_the_time_is_not_extended(world: World, steal: Steal) -> None:
    refund = requested(world)
    steal("UPDATE approvals SET expires_at = '2999-01-01T00:00:00.000000+00:00'")
    world.clock.now += VALID_FOR
    let_work(world, world.worker)

    assert world.stored(refund).failure_code == "approval-expired"
