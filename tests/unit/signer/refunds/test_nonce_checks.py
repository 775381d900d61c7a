"""Assignment of nonces; wallets with transactions that the ledger lacks."""

from dataclasses import replace

import pytest

from signer.chain.chain import Chain
from signer.errors import (
    NotFoundError,
    RowNotAuthenticError,
    SigningStoppedError,
    StaleStateError,
    WalletPausedError,
    require,
)
from signer.keys.admin_audit import AdminAudit
from signer.model.audit_record import Operation, Record
from signer.model.refund import Refund, Status
from signer.model.transaction import Transaction
from signer.model.wallet import Pause, UnrecordedTransaction, Wallet
from signer.ports.chain import MinedTransaction
from signer.ports.refund_store import Reservation
from signer.refunds.nonce_admin import NonceAdmin, RepairResult, repair_wallets
from signer.refunds.nonce_checks import NonceManager
from signer.refunds.payload import transfer_of
from signer.refunds.transaction_signer import build_purpose, expect
from signer.refunds.wallet_reconciliation import (
    HISTORY,
    MOST_OPEN,
    WalletNonces,
    WalletStatus,
    read_nonces,
)
from tests.fixtures.ledger import forge, stopped, unrecorded
from tests.support.devices import recording
from tests.support.refunds import ACTOR, SECOND, World, altered, altered_chain


def _reserve(world: World, refund: Refund | None = None) -> Refund:
    return _reserved(world.nonces, world, refund or world.accepted())


def _reserved(nonces: NonceManager, world: World, refund: Refund) -> Refund:
    chain, active = world.chains["local"], nonces.select_key(refund)
    counted = chain.client.pending_count(active.key.address)
    nonces.check_against_chain(chain, active.key.address, counted)

    def draft_intent(reserved: Transaction) -> Record:
        return active.signer.intent(build_purpose(refund, nonce=reserved.nonce))

    limits = nonces.limits(refund, chain)
    reservation = Reservation(refund, 60_000, limits, draft_intent)
    (outcome,) = nonces.assign_nonces(
        [reservation], counted=counted, active=active, network=chain.network
    )
    return require(outcome).payment


def _mined(world: World) -> MinedTransaction:
    found = world.chain.find_transaction(world.signer.address, 0)
    assert found is not None
    return found


def _foreign(
    world: World, number: int, data: bytes = b"\xf0\x0d", *, final: bool = False
) -> list[str]:
    """Mine foreign transactions, with *final* at their depth; return the hashes."""
    address = world.signer.address
    hashes = [world.chain.mine_foreign(address, data) for _ in range(number)]
    world.chain.mine_empty(2 if final else 0)
    return hashes


def test_a_new_wallet_starts_at_nonce_zero(world: World) -> None:
    """It has no history to check; the reservation has key, nonce and gas limit."""
    reserved = _reserve(world)

    assert reserved == world.stored(reserved)
    assert (reserved.status, reserved.nonce) == (Status.RESERVED, 0)
    assert (reserved.sender, reserved.key_id, reserved.gas_limit) == (
        world.signer.address,
        world.signer.key_id,
        60_000,
    )
    assert world.wallet == Wallet(world.network.chain_id, world.signer.address, 0, 1)


def test_a_wallet_in_use_waits_for_its_history(world: World) -> None:
    """A new ledger with a used wallet pays nothing before it checked (R24)."""
    _foreign(world, 2)
    refund = world.accepted()

    with pytest.raises(WalletPausedError):
        _reserve(world, refund)

    assert world.wallet == Wallet(
        world.network.chain_id,
        world.signer.address,
        0,
        0,
        Pause.UNKNOWN_HISTORY,
        world.clock(),
    )
    assert world.stored(refund) == refund


@pytest.mark.parametrize(("count", "first"), [(1, 0), (HISTORY + 5, 5)])
def test_pending_transactions_are_history(world: World, count: int, first: int) -> None:
    """Of the used nonces, mined or pending, the last thousand are checked (R24)."""
    world.client = altered_chain(world.chain, pending_count=lambda address: count)

    with pytest.raises(WalletPausedError):
        _reserve(world)

    assert world.wallet.paused_by is Pause.UNKNOWN_HISTORY
    assert (world.wallet.first_nonce, world.wallet.next_nonce) == (first, first)


def test_a_foreign_nonce_is_not_assigned(world: World) -> None:
    """The reservation sees that the chain is ahead, and pauses the wallet (R23)."""
    _reserve(world)
    _foreign(world, 2)

    with pytest.raises(WalletPausedError, match="chain-ahead"):
        _reserve(world)

    assert world.wallet.paused_by is Pause.CHAIN_AHEAD
    assert world.wallet.paused_at == world.clock()


def test_a_paused_wallet_assigns_no_nonce(world: World) -> None:
    """It stays paused until it is reconciled (R23)."""
    _reserve(world)
    world.store.pause(world.wallet, Pause.FOREIGN_TRANSACTION, world.clock())

    with pytest.raises(WalletPausedError, match="foreign-transaction"):
        _reserve(world)


def test_the_store_checks_the_pause_at_reservation(world: World) -> None:
    """A check from before the pause is not enough (R23)."""
    _reserve(world)

    def paused(chain_id: int, sender: str) -> Wallet:
        before = world.wallet
        world.store.pause(before, Pause.CHAIN_AHEAD, world.clock())
        return before

    store = altered(world.store, wallet=paused)
    late = NonceManager(store, world.ring, world.clock, world.tenants)
    refund = world.accepted()

    with pytest.raises(StaleStateError):
        _reserved(late, world, refund)
    assert world.stored(refund) == refund


def test_the_chain_is_counted_before_the_ledger_is_read(world: World) -> None:
    """A nonce that another worker uses meanwhile is not foreign."""
    reserved = _reserve(world)

    def counted(address: str) -> int:
        other = replace(world, client=None)
        other.step(reserved, times=2)
        other.broadcast()
        return world.chain.pending_count(address)

    world.client = altered_chain(world.chain, pending_count=counted)

    status = world.reconcile()

    assert status.chain_nonce == 2
    assert status.unknown_count == 0
    assert status.wallet.paused_by is None


def test_reconciling_needs_a_wallet(world: World) -> None:
    """Without a payment there is nothing to compare."""
    with pytest.raises(NotFoundError):
        world.reconcile()


def test_reconciling_a_known_wallet_changes_nothing(world: World) -> None:
    """Two requests and no write, if the ledger knows everything."""
    _reserve(world)
    before = world.wallet

    assert world.reconcile() == WalletStatus(before, 0, ())
    assert world.wallet == before


def test_a_foreign_transaction_pauses_the_wallet_at_once(world: World) -> None:
    """It is recorded when it is final, and waits for an operator (R23)."""
    _reserve(world)
    foreign = _foreign(world, 2)[1]

    first = world.reconcile()
    world.chain.mine_empty(2)
    second, third = world.reconcile(), world.reconcile()

    assert third == second
    assert (first.wallet.paused_by, first.unknown_count) == (Pause.CHAIN_AHEAD, 1)
    assert first.foreign == ()
    assert (second.wallet.paused_by, second.unknown_count) == (Pause.CHAIN_AHEAD, 0)
    (transaction,) = second.foreign
    assert transaction == UnrecordedTransaction(
        chain_id=world.network.chain_id,
        sender=world.signer.address,
        nonce=1,
        tx_hash=foreign,
        memo=None,
        gas_limit=21_000,
        block_number=2,
        block_hash=world.chain._blocks[2].hash,
        seen_at=world.clock(),
    )


def test_a_resumed_wallet_skips_foreign_nonces(world: World) -> None:
    """No refund is paid twice (R23); a second one needs a second decision."""
    paid = world.paid()
    _foreign(world, 1, final=True)
    world.wallets.resume(world.reconcile(), world.chains["local"])
    refund = world.broadcast()
    world.mine_deep()

    assert (paid.nonce, refund.nonce) == (0, 2)
    assert world.wallet.paused_by is None
    assert len(world.chain.payouts()) == 2
    assert world.reconcile().foreign == ()
    (second,) = _foreign(world, 1, final=True)
    status = world.reconcile()
    assert status.wallet.paused_by is Pause.CHAIN_AHEAD
    assert [transaction.tx_hash for transaction in status.foreign] == [second]


def test_resume_needs_the_current_status(world: World) -> None:
    """A foreign transaction that was recorded meanwhile is not accepted unseen."""
    world.paid()
    _foreign(world, 1, final=True)
    status = world.reconcile()
    world.store.add_unrecorded(world.wallet, [])

    with pytest.raises(StaleStateError):
        world.wallets.resume(status, world.chains["local"])
    assert world.wallet.paused_by is Pause.CHAIN_AHEAD


def test_a_dropped_pending_transaction_lets_the_wallet_resume(world: World) -> None:
    """A transaction that was never mined has used no nonce (R23)."""
    _reserve(world)
    world.client = altered_chain(world.chain, pending_count=lambda address: 5)
    paused = world.reconcile()
    world.client = None

    resumed = world.reconcile()

    assert (paused.wallet.paused_by, paused.unknown_count) == (Pause.CHAIN_AHEAD, 4)
    assert resumed.wallet.paused_by is None
    assert _reserve(world).nonce == 1


def test_our_own_lost_transactions_wait_for_a_restore(world: World) -> None:
    """One with a memo shows that others may be lost; the wallet resumes then (R24)."""
    world.paid()
    refund = world.accepted()
    lost = replace(refund, reference="forgotten")
    world.chain.mine_foreign(world.signer.address, transfer_of(lost).data)
    world.chain.mine_empty(2)

    waiting = [world.reconcile() for _ in range(2)]
    with pytest.raises(WalletPausedError, match="`hotwallet restore`"):
        world.wallets.resume(waiting[-1], world.chains["local"])
    world.state_marks()
    status = world.reconcile()

    assert [(each.wallet.paused_by, each.unknown_count) for each in waiting] == [
        (Pause.RESTORED, 0)
    ] * 2
    assert status.wallet.paused_by is None
    assert status.wallet.next_nonce == 2
    transaction = world.store.find_unrecorded(world.network.chain_id, [lost.memo]).get(
        lost.memo
    )
    assert transaction is not None
    assert (transaction.nonce, transaction.memo) == (1, lost.memo)


def test_a_pass_records_a_limited_number(world: World) -> None:
    """At most twenty, in order, up to the first that is not final; the rest later."""
    _reserve(world)
    _foreign(world, 25, final=True)
    _foreign(world, 1)

    looks = [world.reconcile() for _ in range(3)]

    assert [look.unknown_count for look in looks] == [5, 1, 1]
    assert [len(look.foreign) for look in looks] == [20, 24, 24]
    assert [transaction.nonce for transaction in looks[-1].foreign] == list(
        range(1, 25)
    )


def test_a_nonce_that_no_node_finds_is_waited_for(world: World) -> None:
    """It was used too long ago, or a node lags: no later nonce is recorded (R10)."""
    _reserve(world)
    _foreign(world, 3, final=True)
    world.client = altered(
        world.chain,
        find_transaction=lambda sender, nonce: (
            None if nonce == 1 else world.chain.find_transaction(sender, nonce)
        ),
    )

    status = world.reconcile()

    assert status.unknown_count == 2
    assert status.foreign == ()
    assert status.wallet.paused_by is Pause.CHAIN_AHEAD


def test_a_foreign_transaction_with_a_refunds_nonce_pauses_the_wallet(
    world: World,
) -> None:
    """The refund has lost its nonce, and another party has the key (R23)."""
    refund = world.broadcast()
    (foreign,) = _foreign(world, 1)
    found = _mined(world)

    since = world.clock()

    for _ in range(2):
        # A process that dies in between finds the work half done.
        world.wallets.record_nonce_taken(
            refund.reserved(), found, world.chains["local"]
        )
        world.clock.advance(seconds=10)

    (transaction,) = world.store.foreign_transactions(
        world.network.chain_id, world.signer.address
    )
    assert (transaction.tx_hash, transaction.is_held) == (foreign, True)
    assert world.wallet.paused_by is Pause.FOREIGN_TRANSACTION
    assert world.wallet.paused_at == since


def test_a_lost_transaction_with_a_refunds_nonce_pauses_the_wallet(
    world: World,
) -> None:
    """A lost payment of another refund has it: the ledger was restored (R24)."""
    refund, other = world.broadcast(), world.accepted()
    _foreign(world, 1, transfer_of(other).data)
    found = _mined(world)

    world.wallets.record_nonce_taken(refund.reserved(), found, world.chains["local"])

    assert world.wallet.paused_by is Pause.RESTORED
    assert (
        world.store.foreign_transactions(world.network.chain_id, world.signer.address)
        == ()
    )


def test_a_taken_nonce_of_an_unknown_wallet_is_an_error(world: World) -> None:
    """The refund waits for an operator."""
    paying = expect(world.accepted(), world.signer.address, 1)
    _foreign(world, 1)
    found = _mined(world)

    with pytest.raises(StaleStateError):
        world.wallets.record_nonce_taken(paying, found, world.chains["local"])


def test_a_lost_payment_is_adopted(world: World) -> None:
    """The refund takes over transaction and nonce, and is mined (R24)."""
    _reserve(world)
    refund = world.accepted()
    _foreign(world, 1)
    (hash_,) = _foreign(world, 1, transfer_of(refund).data, final=True)
    world.reconcile()

    adopted = world.nonces.adopt_earlier_payment(refund, world.chains["local"])

    assert adopted == world.stored(refund)
    assert adopted.status is Status.MINED
    assert (adopted.nonce, adopted.tx_hash) == (1, hash_)
    assert (adopted.sender, adopted.key_id, adopted.gas_limit) == (
        world.signer.address,
        world.signer.key_id,
        21_000,
    )
    assert (adopted.block_number, adopted.reserved().block_hash) == (
        2,
        world.chain._blocks[2].hash,
    )


def test_a_refund_that_is_paid_meanwhile_gets_no_nonce(world: World) -> None:
    """A payment recorded between check and reservation prevents it (R24)."""
    world.paid()
    refund = world.accepted()
    _foreign(world, 1, transfer_of(refund).data, final=True)
    world.state_marks()
    assert not world.reconcile().wallet.is_paused

    with pytest.raises(StaleStateError):
        _reserve(world, refund)
    assert world.stored(refund) == refund


def test_a_wallet_does_not_resume_over_a_contested_nonce(world: World) -> None:
    """
    While an unknown transaction uses an open refund's nonce, no refund is paid. It may
    be a lost payment, which must be recorded before the client requests it again.
    """
    lost = _reserve(world)
    _foreign(world, 2, final=True)
    status = world.reconcile()

    with pytest.raises(WalletPausedError, match=f"nonce 0 of refund {lost.id} is used"):
        world.wallets.resume(status, world.chains["local"])
    world.clock.advance(seconds=60)
    world.worker.work()
    world.wallets.resume(
        world.wallets.status(world.chains["local"], world.signer.address),
        world.chains["local"],
    )

    assert world.stored(lost).failure_code == "nonce-taken"
    assert world.wallet.paused_by is None


def test_our_own_mined_transactions_are_not_contested(world: World) -> None:
    """Neither an untracked nor an unconfirmed refund keeps the wallet paused."""
    tracked = world.broadcast()
    world.chain.mine()
    world.confirmation_tracker.track()
    world.broadcast()
    world.chain.mine()
    world.broadcast()  # It is pending.
    world.store.pause(world.wallet, Pause.CHAIN_AHEAD, world.clock())

    status = world.reconcile()

    assert world.stored(tracked).status is Status.MINED
    assert status.wallet.paused_by is None


def test_an_adopted_refund_is_not_contested(world: World) -> None:
    """Its transaction is mined, and the ledger has no bytes of it (R24)."""
    world.paid()
    refund = world.accepted()
    _foreign(world, 1, transfer_of(refund).data, final=True)
    world.state_marks()
    world.reconcile()
    assert world.step(refund).status is Status.MINED
    world.store.pause(world.wallet, Pause.CHAIN_AHEAD, world.clock())

    assert world.reconcile().wallet.paused_by is None


def test_a_stop_is_checked_last(world: World) -> None:
    """A stop that comes just before the reservation still prevents it (R27)."""
    refund = world.accepted()
    nonces = world.nonces

    def check(chain: Chain, address: str, counted: int) -> None:
        nonces.check_against_chain(chain, address, counted)
        stopped(world.store, at=world.clock())

    with pytest.raises(SigningStoppedError, match="`hotwallet resume`"):
        _reserved(altered(nonces, check_against_chain=check), world, refund)
    assert world.stored(refund) == refund


def test_a_payment_of_a_removed_key_is_not_adopted(world: World) -> None:
    """The refund waits until the key is in the ring again (O4)."""
    world.paid()
    refund = world.accepted()
    sender = SECOND.address  # Its key is not in the ring.
    foreign = UnrecordedTransaction(
        chain_id=refund.chain_id,
        sender=sender,
        nonce=0,
        tx_hash="0x1",
        memo=refund.memo,
        gas_limit=1,
        block_number=1,
        block_hash="0x2",
        seen_at=world.clock(),
    )
    world.store.open_wallet(Wallet(refund.chain_id, sender, 0, 0))
    wallet = world.store.wallet(refund.chain_id, sender)
    assert wallet is not None
    world.store.add_unrecorded(wallet, [foreign])

    with pytest.raises(StaleStateError, match="ring"):
        world.nonces.adopt_earlier_payment(refund, world.chains["local"])


def _wallet(world: World) -> Wallet:
    found = world.store.wallet(world.network.chain_id, world.signer.address)
    assert found is not None
    return found


def test_nonces_of_refunds_are_open_until_they_are_final(world: World) -> None:
    for _ in range(3):
        world.broadcast()

    for chain_nonce in (None, 0, 1, 3):
        found = read_nonces(world.store, _wallet(world), chain_nonce)
        assert found == WalletNonces([0, 1, 2], ())


def test_missing_nonces_are_found(world: World) -> None:
    """Below a nonce that the chain has, and was not made here."""
    world.broadcast()
    other = unrecorded(nonce=3, sender=world.signer.address)
    world.store.add_unrecorded(_wallet(world), [other])
    wallet = _wallet(world)

    assert read_nonces(world.store, wallet, None) == WalletNonces([0], (1, 2))
    assert read_nonces(world.store, wallet, 1) == WalletNonces([0], (1, 2))
    assert read_nonces(world.store, wallet, 4) == WalletNonces([0], ())


def test_a_long_queue_is_no_gap(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first open nonces are read, and no others."""
    monkeypatch.setattr("signer.refunds.wallet_reconciliation.MOST_OPEN", 2)
    for _ in range(4):
        world.broadcast()
    monkeypatch.setattr(world.store, "unknown_nonces", None)

    assert read_nonces(world.store, _wallet(world), 0) == WalletNonces([0, 1], ())
    assert MOST_OPEN > 100


CHANGE = "UPDATE wallets SET first_nonce = 9, version = version + 1"

FORGED = "UPDATE unrecorded_transactions SET mac = 'tests:00'"


def _repair_one(world: World, *, apply: bool = True) -> RepairResult:
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
    found, previewed = _repair_one(world), _repair_one(world, apply=False)
    world.chain.mine_foreign(world.signer.address)
    world.chain.mine_empty(3)
    ahead = _repair_one(world)

    assert (found.is_open, found.code) == (True, "row-not-authentic")
    assert previewed == found
    assert ahead.code == "row-not-authentic"
    assert found.wallet_status.wallet.pause_reason == "row-not-authentic"
    world.state_marks()
    assert (_repair_one(world).resumed, world.wallet.pause_reason) == (True, None)


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
