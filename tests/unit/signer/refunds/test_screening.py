"""Refunds to addresses of the deny list: refused, and not signed."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from signer.audit.actions import NOT_AUDITED
from signer.audit.log import AuditLog
from signer.config.deny_list import DenyList
from signer.errors import (
    InvalidInputError,
    PolicyViolationError,
    ScreeningUnavailableError,
)
from signer.model.refund import Refund, Status
from signer.model.transaction import Kind
from signer.ports.outside_services import Question
from signer.refunds.acceptance import (
    DENIALS,
    AcceptedRefund,
    SubmissionResult,
    SubmittedRequest,
)
from signer.refunds.payment_policy import PaymentPolicy
from tests.support.approvals import ASKING, BOB, approve_waiting, requested, rule, ruled
from tests.support.ledgers import seal
from tests.support.policy import SERVICE_POLICY
from tests.support.refunds import AMOUNT, CUSTOMER, REQUEST, World, refused
from tests.support.ring import SILENCE


OTHER = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"


@pytest.fixture
def path(world: World, tmp_path: Path) -> Path:
    """A list without the customer, which the processes of *world* read."""
    path = tmp_path / "denied.txt"
    path.write_text(OTHER)
    world.deny_list = DenyList(path)
    world.audit = AuditLog(SILENCE, world.clock, journal=world.store)
    return path


def _refused(world: World) -> list[dict[str, object]]:
    while seal(world.store):
        pass
    fields = [each.record.fields for each in world.store.sealed(0, 1000)]
    return [each for each in fields if each["event"] == "refund-accept-refused"]


def test_a_denied_recipient_is_refused(world: World, path: Path) -> None:
    """In any case of letters; nothing is stored but the record of the refusal."""
    with refused("recipient-denied") as caught:
        requested(world, recipient=OTHER)

    assert OTHER not in str(caught.value)
    (record,) = _refused(world)
    assert record["outcome"] == "recipient-denied"
    assert record["actor"] == ASKING.name
    details = record["details"]
    assert isinstance(details, dict)
    assert (details["recipient"], details["tenant"]) == (OTHER, "gateway")


def test_denied_recipients_write_few_records(world: World, path: Path) -> None:
    """One tenant leaves the records of another, also in the same minute."""
    for tenant, count in (("mallory", DENIALS + 5), ("shop", 1), ("mallory", 1)):
        for _ in range(count):
            with pytest.raises(PolicyViolationError):
                requested(world, tenant=tenant, recipient=OTHER)
    outcomes = Counter(
        (record["details"]["tenant"], record["outcome"])  # type: ignore[index]
        for record in _refused(world)
    )
    world.clock.advance(minutes=1)
    with pytest.raises(PolicyViolationError):
        requested(world, tenant="mallory", recipient=OTHER)

    assert outcomes == {
        ("mallory", "recipient-denied"): DENIALS - 1,
        ("mallory", NOT_AUDITED): 1,
        ("shop", "recipient-denied"): 1,
    }
    assert len(_refused(world)) == DENIALS + 2


def test_an_accepted_refund_gets_its_answer(world: World, path: Path) -> None:
    """A repeated request is no new one; the refund itself is not paid."""
    first = world.submit(REQUEST, key="one")
    path.write_text(CUSTOMER)
    world.clock.advance(seconds=60)
    again = world.submit(REQUEST, key="one")

    assert again.refund.id == first.refund.id
    assert not again.created
    assert _refused(world) == []


def test_a_queued_refund_waits(world: World, path: Path) -> None:
    """It gets no nonce, so that later ones are paid."""
    refund = world.accepted()
    path.write_text(CUSTOMER)
    other = requested(world, recipient=OTHER)
    world.work()
    blocked = world.blocked(refund)
    (paid,) = world.finish(other)

    assert blocked == (Status.QUEUED, "policy-violation")
    assert world.chain.payouts() == [(OTHER, AMOUNT)]
    assert paid.status is Status.CONFIRMED
    assert world.cancel(refund).status is Status.CANCELLED


def test_an_approval_does_not_permit_it(world: World, path: Path) -> None:
    refund = requested(ruled(world, rule("one", 1)))
    approve_waiting(world, refund, BOB)
    path.write_text(CUSTOMER)
    for _ in range(3):
        world.work()

    assert world.chain.payouts() == []
    assert world.stored(refund).status is Status.QUEUED


def test_fees_are_not_raised(world: World, path: Path) -> None:
    """The bytes that were sent may be mined; no others are signed."""
    refund = world.broadcast()
    path.write_text(CUSTOMER)
    world.clock.advance(seconds=world.network.stuck_after_seconds)

    assert world.step(world.stored(refund)).status is Status.BROADCAST
    path.write_text("no address")
    assert world.step(world.stored(refund)).status is Status.BROADCAST
    (sent,) = world.store.transactions(refund.id)
    assert sent.kind is Kind.TRANSFER


@pytest.mark.parametrize("status", [Status.QUEUED, Status.RESERVED])
def test_an_unreadable_list_pays_nothing(
    world: World, path: Path, status: Status
) -> None:
    refund: Refund = world.accepted()
    if status is Status.RESERVED:
        refund = world.step(refund)
    path.write_text("no address")
    with pytest.raises(ScreeningUnavailableError):
        requested(world)
    world._known.clear()
    with pytest.raises(ScreeningUnavailableError):
        world.step(refund)
    path.write_text(OTHER)
    (paid,) = world.finish(refund)

    assert paid.status is Status.CONFIRMED


class Screening:
    """A service that allows everything but *denied*, and keeps what it was asked."""

    def __init__(self, *denied: str) -> None:
        self.denied = denied
        self.asked: list[tuple[str, int]] = []
        self.lists: list[list[Question]] = []
        self.is_down = False

    def allows(self, address: str, chain_id: int, tenant: str) -> bool:
        """Return whether *address* is not denied."""
        self.asked.append((address, chain_id))
        if self.is_down:
            raise ScreeningUnavailableError("down")
        return address not in self.denied

    def answers(
        self, questions: Collection[Question], tenant: str
    ) -> Mapping[Question, bool | None]:
        """Answer all, or none of them."""
        self.lists.append(list(questions))
        return {
            each: None if self.is_down else each[0] not in self.denied
            for each in questions
        }


@pytest.fixture
def service(world: World) -> Screening:
    """The service that the processes of *world* ask; it denies OTHER."""
    world.screening = service = Screening(OTHER)
    world.audit = AuditLog(SILENCE, world.clock, journal=world.store)
    return service


def _accepted_records(world: World) -> list[dict[str, object]]:
    while seal(world.store):
        pass
    fields = [each.record.fields for each in world.store.sealed(0, 1000)]
    details = [f["details"] for f in fields if f["event"] == "refund-accept-succeeded"]
    return [each for each in details if isinstance(each, dict)]


def test_a_service_is_asked_before_the_first_payment(
    world: World, service: Screening
) -> None:
    """At the acceptance only; the audit record has it."""
    (paid,) = world.finish(requested(world))
    requested(world)

    assert paid.status is Status.CONFIRMED
    assert service.asked == [(CUSTOMER, paid.chain_id)]
    screened = [each.get("screening") for each in _accepted_records(world)]
    assert screened == ["allowed", None]


def test_the_list_is_asked_first(world: World, service: Screening, path: Path) -> None:
    with pytest.raises(PolicyViolationError):
        requested(world, recipient=OTHER)

    assert service.asked == []


def test_without_the_service_nothing_new_is_accepted(
    world: World, service: Screening
) -> None:
    """What was accepted is paid, and so is a recipient that was paid before."""
    refund = requested(world)
    service.is_down = True
    with pytest.raises(ScreeningUnavailableError):
        requested(world)
    (paid,) = world.finish(refund)
    (known,) = world.finish(requested(world))

    assert {paid.status, known.status} == {Status.CONFIRMED}


def test_without_totals_every_refund_is_screened(
    world: World, service: Screening
) -> None:
    """The safe side, if a first payment is not known as one."""
    refund = world.paid()
    policy = PaymentPolicy(
        SERVICE_POLICY, world.ring, world.clock, world.tenants, screening=service
    )

    assert policy.screen(refund)
    assert service.asked == [(CUSTOMER, refund.chain_id)]


def _batch(world: World, *recipients: str) -> list[SubmissionResult]:
    requests = [
        SubmittedRequest(
            f"key {n}", replace(REQUEST, reference=f"order {n}", recipient=recipient)
        )
        for n, recipient in enumerate(recipients)
    ]
    return list(
        world.service.submit_all(tenant="gateway", requests=requests, actor=ASKING)
    )


def test_a_batch_is_screened_at_once(world: World, service: Screening) -> None:
    """Each new recipient once; each request has its own answer."""
    paid, denied, malformed, again = _batch(world, CUSTOMER, OTHER, "x", CUSTOMER)
    chain_id = world.network.chain_id

    assert service.asked == []
    assert service.lists == [[(CUSTOMER, chain_id), (OTHER, chain_id)]]
    assert isinstance(paid, AcceptedRefund)
    assert isinstance(again, AcceptedRefund)
    assert isinstance(denied, PolicyViolationError)
    assert isinstance(malformed, InvalidInputError)
    world.finish(paid.refund)
    _batch(world, CUSTOMER, CUSTOMER)
    assert len(service.lists) == 1


def test_a_batch_without_answers_stores_nothing(
    world: World, service: Screening
) -> None:
    service.is_down = True

    assert {type(each) for each in _batch(world, CUSTOMER, OTHER)} == {
        ScreeningUnavailableError
    }


def test_a_batch_beside_an_unreadable_list(
    world: World, service: Screening, path: Path
) -> None:
    path.write_text("no address")

    assert {type(each) for each in _batch(world, CUSTOMER, OTHER)} == {
        ScreeningUnavailableError
    }
    assert service.lists == []
