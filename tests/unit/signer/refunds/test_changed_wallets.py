"""Wallets, and transactions of them, whose rows another program changed."""

from dataclasses import replace

import pytest

from signer.errors import RowNotAuthenticError
from signer.keys.admin_audit import AdminAudit
from signer.model.audit_record import Operation
from signer.model.refund import Refund, Status
from signer.model.wallet import Pause
from signer.refunds.nonce_admin import NonceAdmin, RepairResult, repair_wallets
from signer.refunds.transaction_signer import expect
from tests.fixtures.ledger import forge, unrecorded
from tests.support.devices import recording
from tests.support.refunds import ACTOR, World


CHANGE = "UPDATE wallets SET first_nonce = 9, version = version + 1"

FORGED = "UPDATE unrecorded_transactions SET mac = 'tests:00'"


def _repair(world: World, *, apply: bool = True) -> RepairResult:
    (found,) = repair_wallets(world.store, world.chains, world.clock, apply=apply)
    return found


def _paid_elsewhere(world: World) -> Refund:
    """Return a queued refund, whose payment another program has changed."""
    world.paid()
    refund = world.accepted()
    seen = unrecorded(sender=world.signer.address, nonce=1, memo=refund.memo)
    world.store.add_unrecorded(world.wallet, [seen])
    forge(world.store, FORGED)
    return refund


def test_a_changed_wallet_is_restored(world: World) -> None:
    """It stays paused until an operator states what it has sent."""
    world.paid()
    forge(world.store, CHANGE)
    refund = world.accepted()

    for _ in range(2):
        with pytest.raises(RowNotAuthenticError, match="`hotwallet restore` opens"):
            world.step(refund)
        with pytest.raises(RowNotAuthenticError):
            world.reconcile()
    world.state_marks()
    restored = world.wallet
    assert (restored.pause_reason, restored.high_water) == (Pause.RESTORED, 1)
    assert world.reconcile().is_reconciled
    assert world.step(refund).nonce == 1


def test_nothing_of_a_changed_row_counts(world: World) -> None:
    """Another program could state a mark that needs thousands of no-ops."""
    world.paid()
    forge(world.store, f"{CHANGE}, high_water = 5000")

    (wallet,) = world.state_marks().wallets

    assert (wallet.high_water, list(wallet.fillers)) == (1, [])
    assert world.wallet.high_water == 1


def test_a_changed_former_wallet_keeps_the_others_from_paying(world: World) -> None:
    """It may have been paused because its ledger was restored."""
    world.paid()
    world.rotate()
    wallet = world.wallet
    world.store.pause(wallet, Pause.RESTORED, world.clock())
    forge(world.store, f"{CHANGE}, paused_by = NULL, paused_at = NULL")

    with pytest.raises(RowNotAuthenticError):
        world.step(world.accepted())


def test_a_changed_wallet_is_not_abandoned(world: World) -> None:
    """No approval is asked for."""
    world.paid()
    world.rotate(block=True)
    forge(world.store, f"{CHANGE}, paused_by = NULL, paused_at = NULL")
    audit, _ = recording(clock=world.clock, journal=world.store)
    admin = NonceAdmin(
        world.store,
        world.chains,
        AdminAudit(audit, Operation.ADMINISTRATION),
        world.clock,
    )

    with pytest.raises(RowNotAuthenticError):
        admin.abandon(world.signer.address, "local", ACTOR)


def test_a_repair_does_not_resume_a_changed_wallet(world: World) -> None:
    """It names the problem; one wallet's is no error of the command."""
    world.paid()
    world.store.pause(world.wallet, Pause.CHAIN_AHEAD, world.clock())
    forge(world.store, CHANGE.replace("first_nonce = 9", "first_nonce = 0"))
    found, previewed = _repair(world), _repair(world, apply=False)
    world.chain.mine_foreign(world.signer.address)
    world.chain.mine_empty(3)
    ahead = _repair(world)

    assert (found.is_open, found.code) == (True, "row-not-authentic")
    assert previewed == found
    assert ahead.code == "row-not-authentic"
    assert found.wallet_status.wallet.pause_reason == "row-not-authentic"
    world.state_marks()
    assert (_repair(world).resumed, world.wallet.pause_reason) == (True, None)


def test_a_changed_wallet_is_explained(world: World) -> None:
    """The refund gets no nonce meanwhile."""
    world.paid()
    forge(world.store, CHANGE)

    explanation = world.explainer.explain(world.accepted())

    assert "the wallet is paused (row-not-authentic)" in explanation.summary


def test_a_changed_payment_pays_no_refund(world: World) -> None:
    """The refund waits."""
    refund = _paid_elsewhere(world)

    with pytest.raises(RowNotAuthenticError, match="row of nonce 1"):
        world.nonces.adopt_earlier_payment(refund, world.chains["local"])
    assert world.stored(refund).status is Status.QUEUED


def test_a_changed_payment_ends_no_refund(world: World) -> None:
    """A refund with another nonce waits as well."""
    refund = _paid_elsewhere(world)
    reserved = expect(replace(refund, nonce=7), world.signer.address, 1)

    with pytest.raises(RowNotAuthenticError, match="row of nonce 1"):
        world.nonces.find_other_payment(reserved, world.chains["local"])
