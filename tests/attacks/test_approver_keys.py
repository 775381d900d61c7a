"""
Thieves of everything but the keys of people: 0 approvals forged, 0 texts exchanged.

They hold the issuer's key, so they are every administrator; a host of the API or of the
console with the MAC key; and every row of the ledger.  People sign what their own page
shows (``tests/browser/test_approval_page.py``).
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from signer.audit.actions import AuditAction
from signer.audit.signed_approvals import verify_approvals
from signer.errors import HotWalletError
from signer.model.approval import Approval, ApprovalState
from signer.model.approvers import Consent, Statement
from signer.model.audit_record import Actor
from signer.model.refund import Refund, Status
from tests.attacks.theft import let_work
from tests.support.approvals import (
    BOB,
    CAROL,
    WHY,
    administrators,
    approve_signed,
    requested,
    rule,
    ruled,
    waiting,
)
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
from tests.support.refunds import AMOUNT, CUSTOMER, World


KEYS: dict[str, AnyKey] = {
    "alice": Authenticator(),
    "bob": SSHKey(),
    "carol": security_key(),
}


@pytest.fixture
def world(world: World) -> World:
    """A service in which two people must sign each refund."""
    world.approvers = approvers_of(**KEYS)
    return ruled(world, rule("two", 2))


@pytest.fixture
def writable_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def refund(world: World) -> Refund:
    """A refund that alice has signed; another one has both signatures and is paid."""
    paid, stolen = requested(world), requested(world)
    for name in ("alice", "bob"):
        approve_signed(world, paid, name, KEYS[name])
    let_work(world, world.worker)
    approve_signed(world, stolen, "alice", KEYS["alice"])
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]
    return stolen


def _paid(world: World) -> Approval:
    (found,) = world.store.signed_approvals("token:bob", 9)
    return found


def _text(world: World, row: Approval, name: str = "bob", **changes: str) -> str:
    """Return what *name* signs, with *changes* of the proposal or the file."""
    assert world.approvers is not None
    file = replace(world.approvers, **changes)  # type: ignore[arg-type]
    return text_of(file, row, name)


Forge = Callable[[World, Approval], str]
"""Returns the signatures that the thief writes into the row."""


def _unsigned(world: World, row: Approval) -> str:
    return ""


def _one_person_twice(world: World, row: Approval) -> str:
    return f"{row.signatures}\n{row.signatures}"


def _of_another_refund(world: World, row: Approval) -> str:
    return str(_paid(world).signatures)


def _of_the_thief(world: World, row: Approval) -> str:
    signed = SSHKey().sign(_text(world, row)).replace("\n", "")
    return f"{row.signatures}\napprove {signed}"


def _of_the_thief_under_an_id(world: World, row: Approval) -> str:
    """The credential id is bob's; or the public key in the blob is."""
    alice = KEYS["alice"]
    assert isinstance(alice, Authenticator)
    thief = Authenticator(credential=alice.credential)
    signed = thief.sign(_text(world, row, "alice"))
    return f"approve {signed}\nbreak-glass {signed}"


def _of_another_deployment(world: World, row: Approval) -> str:
    text = _text(world, row, deployment="staging")
    signed = KEYS["bob"].sign(text).replace("\n", "")
    return f"{row.signatures}\napprove {signed}"


def _as_break_glass(world: World, row: Approval) -> str:
    return str(row.signatures).replace("approve ", "break-glass ")


FORGERIES: dict[str, Forge] = {
    "unsigned": _unsigned,
    "one person twice": _one_person_twice,
    "of another refund": _of_another_refund,
    "of a key of the thief": _of_the_thief,
    "of a key of the thief, under an id": _of_the_thief_under_an_id,
    "of another deployment": _of_another_deployment,
    "as an emergency": _as_break_glass,
}


@pytest.mark.parametrize("state", [ApprovalState.APPROVED, ApprovalState.DONE])
@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
@pytest.mark.parametrize("later", [timedelta(0), timedelta(hours=25)])
def test_a_thief_of_all_hosts_but_the_workers_pays_nothing(
    world: World, refund: Refund, state: ApprovalState, forge: Forge, later: timedelta
) -> None:
    """The rows have valid MACs, and say that both have approved; also after its time.

    The audit log proves that they were not signed.
    """
    row = waiting(world, refund)
    forged = replace(
        row,
        state=state,
        signatures=forge(world, row),
        decided_by="token:alice token:bob",
        decided_at=world.clock(),
        expires_at=row.expires_at + later,
        requested_by="token:eve",
    )
    changes, worker = administrators(world)._changes, Actor("worker")
    used = changes.draft(AuditAction.APPROVAL_USE, forged, worker)
    world.store.put_approval(row, forged, used)
    moved = world.stored(refund)
    assert moved.status is Status.AWAITING_APPROVAL
    let_work(world, world.worker)
    while seal(world.store):
        pass
    records = [each.record for each in world.store.sealed(0, 1000)]
    assert world.approvers is not None
    verdict = verify_approvals(records, [world.approvers])

    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]
    assert waiting(world, refund).signatures is None
    assert verdict.signed == 1
    (problem,) = verdict.problems
    assert row.digest in problem


def test_tokens_of_every_administrator_approve_nothing(
    world: World, refund: Refund
) -> None:
    """The issuer's key makes them, in all groups; an API of the thief takes them."""
    digest = waiting(world, refund).digest
    for actor in (BOB, CAROL, Actor("token:alice", groups=frozenset({"finance"}))):
        for signature in (None, "ssh:AAAA", "webauthn:AAAA:AAAA:AAAA:AAAA"):
            for decide in ("approve", "break_glass"):
                with pytest.raises(HotWalletError):
                    getattr(administrators(world), decide)(
                        digest, actor, WHY, signature
                    )
    thief = World(world.store, chain=world.chain, clock=world.clock)
    row = waiting(world, refund)
    world.store.put_approval(row, replace(row, signatures=None), record())
    approved = administrators(thief).approve(digest, BOB, WHY)  # It has no file.
    assert approved.state is ApprovalState.APPROVED
    let_work(world, world.worker)

    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_what_a_person_signs_says_what_is_paid(world: World, refund: Refund) -> None:
    """The thief shows one payment and lets people sign another: the text has both."""
    row = waiting(world, refund)
    harmless = re.sub(r'"amount":"[^"]*"', '"amount":"0.010000"', row.proposal)
    shown = replace(row, proposal=harmless)
    signed = KEYS["bob"].sign(_text(world, shown))
    with pytest.raises(HotWalletError):
        administrators(world).approve(row.digest, BOB, WHY, signed)
    statement = Statement.of(row)
    assert world.approvers is not None
    text = world.approvers.text("bob", Consent.APPROVE, statement)

    amount = json.loads(row.proposal)["amount"]
    for fact in (refund.recipient, amount, refund.id, row.digest):
        assert fact in text
    assert row.signatures == waiting(world, refund).signatures
