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
    "unsigned": lambda world, row: "",
    "one person twice": lambda world, row: f"{row.signatures}\n{row.signatures}",
    "of another refund": lambda world, row: str(_paid(world).signatures),
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


Steal = Callable[..., None]


def _mint_tokens(world: World, refund: Refund, _: Steal) -> None:
    """The issuer's key makes tokens of all groups; the API is honest."""
    digest = waiting(world, refund).digest
    for actor in (BOB, CAROL, Actor("token:alice", groups=frozenset({"finance"}))):
        for signature in (None, "ssh:AAAA", "webauthn:AAAA:AAAA:AAAA:AAAA"):
            for decide in ("approve", "break_glass"):
                with pytest.raises(HotWalletError):
                    getattr(administrators(world), decide)(
                        digest, actor.because(WHY), signature
                    )


def _own_the_api(world: World, refund: Refund, _: Steal) -> None:
    """The host has the MAC key and no file of approvers: it takes any token."""
    thief = World(world.store, chain=world.chain, clock=world.clock)
    row = waiting(world, refund)
    world.store.put_approval(row, replace(row, signatures=None), record())
    approved = administrators(thief).approve(row.digest, BOB.because(WHY))
    assert approved.state is ApprovalState.APPROVED


def _show_another_text(world: World, refund: Refund, _: Steal) -> None:
    """The console shows a small payment, and sends the signature for the real one."""
    row = waiting(world, refund)
    harmless = re.sub(r'"amount":"[^"]*"', '"amount":"0.010000"', row.proposal)
    signed = KEYS["bob"].sign(_text(world, replace(row, proposal=harmless)))
    with pytest.raises(HotWalletError):
        administrators(world).approve(row.digest, BOB.because(WHY), signed)
    assert world.approvers is not None
    text = world.approvers.text("bob", Consent.APPROVE, Statement.of(row))
    amount = json.loads(row.proposal)["amount"]
    for fact in (refund.recipient, amount, refund.id, row.digest):
        assert fact in text


def _write_rows(world: World, refund: Refund, steal: Steal) -> None:
    """The role writes without the MAC key, and without triggers that would hinder."""
    steal(
        "UPDATE approvals SET state = 'approved', decided_by = 'token:alice token:bob',"
        f" version = version + 1 WHERE refund_id = '{refund.id}'",
        f"UPDATE refunds SET state = 'queued' WHERE id = '{refund.id}'",
    )


THEFTS: dict[str, Callable[[World, Refund, Steal], None]] = {
    "issuer's key": _mint_tokens,
    "console host": _show_another_text,
    "API host": _own_the_api,
    "database role": _write_rows,
}


@pytest.mark.parametrize(
    "stolen", [*((each,) for each in THEFTS), tuple(THEFTS)], ids=" + ".join
)
def test_what_is_stolen_alone_or_together_pays_nothing(
    world: World, refund: Refund, steal: Steal, stolen: tuple[str, ...]
) -> None:
    """0 approvals are forged, and 0 texts exchanged."""
    for each in stolen:
        THEFTS[each](world, refund, steal)
    let_work(world, world.worker)
    while seal(world.store):
        pass
    records = [each.record for each in world.store.sealed(0, 1000)]
    assert world.approvers is not None

    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]
    assert verify_approvals(records, [world.approvers]).signed == 1
    assert not world.stored(refund).status.is_final
