"""Approvals that people sign with keys of their own: what counts, and what does not."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from backends.sql import SQLStore
from signer.approvals import VALID_FOR
from signer.errors import (
    ApprovalRequiredError,
    ConflictError,
    InvalidInputError,
    PermissionDeniedError,
    SamePersonError,
)
from signer.model.approval import Approval, ApprovalState
from signer.model.approvers import Consent, Statement
from signer.model.audit_record import Actor
from tests.fixtures.ledger import forge
from tests.support.approvers import (
    AnyKey,
    Authenticator,
    SSHKey,
    approvers_of,
    security_key,
    text_of,
)
from tests.support.audit import record
from tests.support.ledgers import seal
from tests.unit.signer.test_approvals import LATER, RESUME, WHY, System


COURIER = Actor("cli:courier")
"""Hands in what others signed."""

CONSENTS = pytest.mark.parametrize("consent", Consent)


class Signing(System):
    """A ledger whose administrators have keys."""

    def __init__(self, store: SQLStore) -> None:
        super().__init__(store)
        self.keys: dict[str, AnyKey] = {
            "alice": SSHKey(),
            "bob": Authenticator(),
            "carol": security_key(),
        }
        self.file = approvers_of(**self.keys)
        self.approvers = self.file
        self.proposal = RESUME

    @property
    def row(self) -> Approval:
        found = self.store.find_approval(self.proposal.digest)
        assert found is not None
        return found

    def sign(self, name: str, consent: Consent = Consent.APPROVE) -> str:
        return self.keys[name].sign(text_of(self.file, self.row, name, consent))

    def give(
        self, name: str, consent: Consent = Consent.APPROVE, signature: str = ""
    ) -> Approval:
        """Hand in the signature of *name*, or another one."""
        signature = signature or self.sign(name, consent)
        approvals = self.approvals()
        is_alone = consent is Consent.BREAK_GLASS
        decide = approvals.break_glass if is_alone else approvals.approve
        return decide(self.proposal.digest, COURIER.because(WHY), signature)


@pytest.fixture
def system(sqlite_store: SQLStore) -> Signing:
    return Signing(sqlite_store)


def test_two_people_sign_and_one_of_them_may_have_asked(system: Signing) -> None:
    """No token proves anything, so a command without one may ask and hand in."""
    system.ask(actor=COURIER)
    first = system.give("alice")
    assert system.approvals().is_approved(RESUME) is False
    with pytest.raises(ApprovalRequiredError):
        system.make(actor=COURIER)
    second = system.give("bob")
    assert system.approvals().is_approved(RESUME)
    system.make(actor=COURIER)

    assert (first.state, first.approvers) == (ApprovalState.WAITING, ("token:alice",))
    assert second.state is ApprovalState.APPROVED
    assert second.approvers == ("token:alice", "token:bob")
    assert not second.is_alone
    assert system.done == ["cli:courier"]


def test_the_audit_record_is_verified_without_the_ledger(system: Signing) -> None:
    system.ask()
    system.give("alice")
    seal(system.store)
    *_, last = (each.record.fields["details"] for each in system.store.sealed(0, 9))
    statement = Statement(last["proposal"], system.row.expires_at)
    found = system.file.verify(last["signed"], Consent.APPROVE, statement)

    assert last["expires_at"] == system.row.expires_at.isoformat()
    assert (last["approver"], last["reason"]) == ("alice", WHY)
    assert (found.approver, found.key) == ("alice", "first")


@CONSENTS
def test_a_token_alone_approves_nothing(system: Signing, consent: Consent) -> None:
    """Neither does one whose subject is an approver."""
    digest = system.ask()
    approvals = system.approvals()
    decide = {
        Consent.APPROVE: approvals.approve,
        Consent.BREAK_GLASS: approvals.break_glass,
    }[consent]
    with pytest.raises(InvalidInputError, match="is required: people approve with"):
        decide(digest, Actor("token:bob").because(WHY))


@CONSENTS
def test_without_the_file_a_signature_proves_nothing(
    system: Signing, consent: Consent
) -> None:
    system.ask()
    system.approvers = None
    with pytest.raises(InvalidInputError, match="APPROVERS_FILE is not set"):
        system.give("alice", consent)


def test_one_person_counts_once(system: Signing) -> None:
    """Also with a second key."""
    other = SSHKey()
    keys = {"old": system.keys["alice"].line, "new": other.line}
    bob, carol = system.keys["bob"], system.keys["carol"]
    system.file = approvers_of(alice={"keys": keys}, bob=bob, carol=carol)
    system.approvers = system.file
    system.ask()
    system.give("alice")
    system.keys["alice"] = other
    with pytest.raises(SamePersonError, match="alice did already"):
        system.give("alice")

    assert system.state is ApprovalState.WAITING


def test_an_emergency_needs_one_signature_and_is_loud(system: Signing) -> None:
    """Also after a signature of the ordinary kind."""
    system.ask()
    system.give("alice")
    with capture_logs() as logs:
        approved = system.give("alice", Consent.BREAK_GLASS)
    system.make()

    alerts = [
        (each["alert"], each["actor"]) for each in logs if each["event"] == "alert"
    ]
    assert alerts == [("break-glass", "token:alice")]
    assert approved.is_alone
    assert system.done == ["token:alice"]


def test_what_is_approved_is_not_signed_again(system: Signing) -> None:
    system.ask()
    system.give("alice")
    system.give("bob")
    with pytest.raises(ConflictError, match="is approved"):
        system.give("carol")


def _another_deployment(system: Signing) -> str:
    other = replace(system.file, deployment="another")
    return system.keys["bob"].sign(text_of(other, system.row, "bob"))


def _another_proposal(system: Signing) -> str:
    row = replace(system.row, proposal=LATER.text)
    return system.keys["bob"].sign(text_of(system.file, row, "bob"))


def _another_time(system: Signing) -> str:
    row = replace(system.row, expires_at=system.row.expires_at + timedelta(seconds=1))
    return system.keys["bob"].sign(text_of(system.file, row, "bob"))


def _another_person(system: Signing) -> str:
    return system.keys["bob"].sign(text_of(system.file, system.row, "alice"))


def _another_decision(system: Signing) -> str:
    return system.sign("bob", Consent.BREAK_GLASS)


def _another_key(system: Signing) -> str:
    return SSHKey().sign(text_of(system.file, system.row, "bob"))


@pytest.mark.parametrize(
    "forge",
    [
        _another_deployment,
        _another_proposal,
        _another_time,
        _another_person,
        _another_decision,
        _another_key,
    ],
)
def test_a_signature_fits_one_decision(system: Signing, forge: Any) -> None:
    """Of one proposal, by one person, until one time, in one deployment."""
    system.ask()
    with pytest.raises(PermissionDeniedError):
        system.give("bob", signature=forge(system))

    assert system.row.signatures is None


def test_a_signature_ends_with_the_time_of_the_request(system: Signing) -> None:
    """The same signature is none of the repeated request."""
    system.ask()
    old = system.sign("bob")
    system.give("alice")
    system.clock.advance(VALID_FOR.total_seconds())
    with pytest.raises(ConflictError, match="is over"):
        system.give("bob", signature=old)
    system.ask()
    with pytest.raises(PermissionDeniedError):
        system.give("bob", signature=old)

    assert system.row.signatures is None


def test_a_removed_key_counts_for_nothing_at_once(system: Signing) -> None:
    """What it had approved is asked for again; the other signatures are given again."""
    system.ask()
    system.give("alice")
    system.give("bob")
    alice, carol = system.keys["alice"], system.keys["carol"]
    system.file = approvers_of(alice=alice, carol=carol)
    system.approvers = system.file
    assert not system.approvals().is_approved(RESUME)
    with pytest.raises(PermissionDeniedError, match="APPROVERS_FILE does not have"):
        system.give("bob", signature=system.keys["bob"].sign("text"))
    with pytest.raises(ApprovalRequiredError):
        system.make()
    assert system.row.signatures is None
    system.give("alice")
    system.give("carol")
    system.make()

    assert system.done == ["token:alice"]


def test_a_row_of_a_holder_of_the_mac_key_approves_nothing(system: Signing) -> None:
    """It says that both have approved, with a signature of one, or with rubbish."""
    system.ask()
    names = "token:alice token:bob"
    for signatures in (None, "", "approve", "yes ssh:AAAA", "approve ssh:AAAA"):
        forged = replace(
            system.row,
            state=ApprovalState.APPROVED,
            decided_by=names,
            signatures=signatures,
        )
        system.store.put_approval(system.row, forged, record())
        assert not system.approvals().is_approved(RESUME)
    with pytest.raises(ApprovalRequiredError):
        system.make()

    assert system.done == []


@pytest.mark.parametrize("proposal", ["{}", "[1]", "no JSON"])
def test_a_row_of_another_program_is_not_read(system: Signing, proposal: str) -> None:
    """Its form would end the request that it stands for."""
    system.ask()
    signatures = f"approve {system.sign('alice')}"
    values = f"proposal = '{proposal}', signatures = '{signatures}'"
    forge(
        system.store,
        f"UPDATE approvals SET {values}, state = 'approved', version = version + 1",
    )

    assert not system.approvals().is_approved(RESUME)
    assert not system.file.accepts(system.row)
    with pytest.raises(ApprovalRequiredError):
        system.make()


def test_a_copy_of_an_authenticator_is_found(system: Signing) -> None:
    """Its counter did not rise since another proposal."""
    bob, carol = Authenticator(counter=7), security_key(counter=7)
    system.keys |= {"bob": bob, "carol": carol}
    system.file = approvers_of(**system.keys)
    system.approvers = system.file
    system.ask()
    system.give("bob")
    system.give("carol")
    system.proposal = LATER
    system.ask(LATER)
    for key, name in ((bob, "bob"), (carol, "carol")):
        for key.counter in (0, 6, 7):
            with (
                capture_logs() as logs,
                pytest.raises(PermissionDeniedError, match=name),
            ):
                system.give(name)
            assert [each["alert"] for each in logs] == ["approver-key-copied"]
    bob.counter = 8
    system.give("bob")
    system.give("alice")

    assert system.row.state is ApprovalState.APPROVED
