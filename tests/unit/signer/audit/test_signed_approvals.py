"""An auditor verifies who approved what, with an export and the approvers' file."""

import json
from dataclasses import replace
from typing import Any

import pytest
import rfc8785

from backends.sql import SQLStore
from signer.approvals import VALID_FOR
from signer.audit.signed_approvals import ApprovalsVerdict, verify_approvals
from signer.model.approvers import Consent
from signer.model.audit_record import Actor, Record
from tests.support.approvers import SSHKey, approvers_of
from tests.support.ledgers import seal
from tests.unit.signer.test_signed_approvals import Signing


SIGNER = Actor("token:bob")


@pytest.fixture
def system(sqlite_store: SQLStore) -> Signing:
    return Signing(sqlite_store)


def _records(system: Signing) -> list[Record]:
    while seal(system.store):
        pass
    return [each.record for each in system.store.sealed(0, 1000)]


def _verdict(system: Signing, *files: Any) -> ApprovalsVerdict:
    return verify_approvals(_records(system), files or [system.file])


def _changed(record: Record, **details: Any) -> Record:
    fields = record.fields
    fields["details"] |= details
    return replace(record, body=rfc8785.dumps(fields).decode())


def test_what_enough_people_signed_is_verified(system: Signing) -> None:
    """Also after the request was repeated; one of two signatures is not enough."""
    system.ask()
    system.give("alice")
    system.clock.advance(VALID_FOR.total_seconds())
    system.ask()
    system.give("alice")
    system.give("bob")
    system.make()

    assert _verdict(system) == ApprovalsVerdict(1, [])
    assert _verdict(system).is_good


def test_an_emergency_is_verified(system: Signing) -> None:
    system.ask()
    system.give("carol", Consent.BREAK_GLASS)
    system.make()

    assert _verdict(system) == ApprovalsVerdict(1, [])


def test_a_removed_key_is_verified_with_the_file_of_its_time(system: Signing) -> None:
    system.ask()
    system.give("alice")
    system.give("bob")
    system.make()
    now = approvers_of(alice=system.keys["alice"], dave=SSHKey())

    assert _verdict(system, now, system.file).is_good
    (without, unused) = _verdict(system, now).problems
    assert "a key that APPROVERS_FILE does not have" in without
    assert "was used 1 times, and enough people have signed it 0 times" in unused


def test_tokens_approved_until_the_first_signature(system: Signing) -> None:
    """After it, a use without signatures is one of a host that made it up."""
    system.approvers = None
    system.ask()
    system.approvals().approve(system.proposal.digest, SIGNER.because("checked"))
    system.make()
    assert _verdict(system) == ApprovalsVerdict(0, [])
    system.approvers = system.file
    system.clock.advance(VALID_FOR.total_seconds())
    system.ask()
    system.give("alice")
    system.approvers = None
    system.approvals().approve(system.proposal.digest, SIGNER.because("checked"))
    system.make()

    (problem,) = _verdict(system).problems
    assert "was used 1 times" in problem


@pytest.mark.parametrize(
    ("details", "problem"),
    [
        ({"proposal": '{"action":"keys-revoke"}'}, "the digest is not that"),
        ({"signed": "yes"}, "must be a signature"),
        ({"expires_at": "2026-12-24T12:00:00+00:00"}, "is not one of what alice"),
        ({"expires_at": "soon"}, "none of a signed approval"),
        ({"proposal": "{}"}, "none of a signed approval"),
    ],
)
def test_a_changed_record_proves_nothing(
    system: Signing, details: dict[str, str], problem: str
) -> None:
    """By a program that can compute the hashes again."""
    system.ask()
    system.give("alice")
    *others, last = _records(system)
    verdict = verify_approvals([*others, _changed(last, **details)], [system.file])

    assert json.loads(last.body)["details"]["approver"] == "alice"
    assert verdict.signed == 0
    assert problem in verdict.problems[0]
    without = verify_approvals([*others, last], [])
    assert "there is no file of approvers" in without.problems[0]
