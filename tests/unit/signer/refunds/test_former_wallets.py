"""Former keys: what a restored ledger has lost, revocations and reinstatements."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from backends.sql import SQLStore
from signer.chain.chain import Chain
from signer.errors import KeyUnusableError, StaleStateError, WalletPausedError
from signer.model.key import Key, KeyState, find_key
from signer.model.refund import Refund, Status
from signer.model.transaction import Kind, TransactionStatus
from signer.model.wallet import Pause, Wallet
from signer.ports.ledger import Ledger
from signer.refunds.former_wallets import KNOWN_FOR, FormerWallets
from signer.refunds.worker import _PASSES_PER_WALLET_CHECK
from tests.fixtures.scripted_chain import CHAIN_ID, Sent
from tests.support.devices import honest, signer_over
from tests.support.keys import key_at, made_active
from tests.support.ledgers import collected_statements
from tests.support.refunds import AMOUNT, CUSTOMER, KEY, SECOND, THIRD, World, altered


def _rotated(world: World, *, block: bool = False) -> Key:
    """Make the second key active; return the first one afterwards."""
    world.rotate(block=block)
    return world.key


def _chain(world: World) -> Chain:
    return world.chains["local"]


def _former(world: World) -> FormerWallets:
    return FormerWallets(world.store, world.wallets, world.clock)


@pytest.mark.parametrize("block", [False, True], ids=["rotated", "revoked"])
@pytest.mark.parametrize("steps", [0, 1], ids=["queued", "reserved"])
def test_a_restore_from_before_a_rotation_pays_once(
    world: World, backup: Callable[[], Ledger], steps: int, block: bool
) -> None:
    """The repeated rotation does not pay again what the old key paid (R24)."""
    world.finish(world.accepted())
    refund = world.accepted()
    if steps:
        world.step(refund)
    restored = backup()
    world.finish(refund)
    world.store = restored
    _rotated(world, block=block)
    world.state_marks()

    (found,) = world.finish(refund)

    assert (found.status, found.sender) == (Status.CONFIRMED, world.signer.address)
    assert world.wallet.paused_by is None
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 2


def test_a_lost_payment_between_known_nonces_is_found(
    world: World, backup: Callable[[], Ledger]
) -> None:
    """A missing nonce below known ones is checked as well (R24, O8)."""
    forgotten = world.step(world.accepted())
    sent = world.broadcast()
    restored = backup()
    world.finish(forgotten, sent)
    world.store = restored
    _rotated(world, block=True)
    world.state_marks()

    found = world.finish(forgotten, sent)

    assert [refund.status for refund in found] == [Status.CONFIRMED] * 2
    assert [refund.nonce for refund in found] == [0, 1]
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 2


def test_a_restore_from_before_a_rollback_pays_once(
    world: World, backup: Callable[[], Ledger]
) -> None:
    """What a retired key paid after the rollback to it is found (R24)."""
    world.finish(world.accepted())
    _rotated(world)
    world.finish(world.accepted())
    assert world.key.state is KeyState.RETIRED
    refund = world.accepted()
    restored = backup()
    made_active(world.store, world.key)
    world.finish(refund)
    world.store = restored
    world.state_marks()

    (found,) = world.finish(refund)

    assert (found.status, found.sender) == (Status.CONFIRMED, world.signer.address)
    assert len(world.chain.payouts()) == 3


@pytest.mark.parametrize(
    ("outcome", "code"),
    [("pending", "already-paid"), ("paid", "already-paid"), ("reverted", "reverted")],
)
def test_a_restore_from_before_a_revocation_pays_once(
    world: World, backup: Callable[[], Ledger], outcome: str, code: str
) -> None:
    """A refund that got another nonce then is not paid with its first one (R24, O8)."""
    refund = world.step(world.accepted())
    _rotated(world)
    restored = backup()
    world.revoke()
    for _ in range(2):
        world.work(after=timedelta(seconds=31))
    sent = world.stored(refund)
    if outcome != "pending":
        world.chain.mine(lambda it: replace(it, succeeded=outcome == "paid"))
        world.chain.mine_empty(2)
    world.store = restored
    if outcome != "pending":
        world.state_marks()
    for _ in range(3):
        world.work(after=timedelta(seconds=31))
    kinds = [sent.kind for sent in world.store.transactions(refund.id)]
    if outcome == "pending":
        world.mine_deep()
        world.state_marks()

    (found,) = world.finish(refund)

    assert (sent.status, sent.sender) == (Status.BROADCAST, SECOND.address)
    assert kinds == ([] if outcome == "pending" else [Kind.NOOP])
    assert (found.status, found.failure_code) == (Status.FAILED, code)
    assert str(sent.tx_hash) in str(found.failure_detail)
    paid = 0 if outcome == "reverted" else 1
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * paid


def test_a_filler_that_replaces_a_payment_after_a_revocation(
    world: World, backup: Callable[[], Ledger]
) -> None:
    """Until it is final, the payment may still be mined: the refund waits (R24, O8)."""
    refund = world.step(world.accepted())
    _rotated(world)
    restored = backup()
    world.revoke()
    for _ in range(2):
        world.work(after=timedelta(seconds=31))
    lost = world.sent(refund)
    world.store = restored
    world.state_marks()
    for _ in range(5):
        world.work(after=timedelta(seconds=31))
    world.chain.mine()
    world.work(after=timedelta(seconds=31))
    blocked = world.blocked(refund)

    (paid,) = world.finish(refund)

    filler = Sent.read(world.chain.broadcasts[-2])
    assert (lost.sender, lost.nonce) == (filler.sender, filler.nonce)
    assert blocked == (Status.RESERVED, "wallet-paused")
    assert (paid.status, paid.sender) == (Status.CONFIRMED, world.signer.address)
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_a_process_that_slept_does_not_sign_with_a_revoked_key(world: World) -> None:
    """After the sleep, the intent of its reservation does not count any more (O8)."""
    device = honest(KEY)
    world.signer = signer_over(device)
    lifecycle = world.lifecycle
    refund = lifecycle.step(world.accepted())
    _rotated(world, block=True)
    world.clock.advance(seconds=60)

    with pytest.raises(KeyUnusableError, match="blocked"):
        lifecycle.step(refund)

    assert world._known[refund.id].intent
    assert device.calls == 0


def test_an_intruder_with_a_revoked_key_stops_no_refund(world: World) -> None:
    """The intruder goes on sending with it, and refunds go on, too (O8)."""
    world.finish(world.accepted())
    world.chain.mine_foreign(world.signer.address)
    _rotated(world, block=True)
    refund, worker = world.accepted(), world.worker
    for _ in range(10):
        world.chain.mine_foreign(world.signer.address)
        world.clock.now += timedelta(seconds=31)
        worker.work()
        world.chain.mine()
    found = world.stored(refund)

    assert found.sender == SECOND.address
    assert found.tx_hash is not None
    assert world.wallet.paused_by is None
    assert world.store.foreign_transactions(found.chain_id, world.signer.address) == ()


def test_an_intruder_with_a_retired_key_stops_refunds(world: World) -> None:
    """The transaction is recorded, and refunds wait for an operator."""
    world.finish(world.accepted())
    _rotated(world)
    world.finish(world.accepted())
    world.chain.mine_foreign(world.signer.address)
    world.clock.now += KNOWN_FOR
    refund = world.accepted()
    world.work()
    blocked = world.blocked(refund)
    world.mine_deep()

    (found,) = world.finish(refund)

    assert world.key.state is KeyState.RETIRED
    assert blocked == (Status.QUEUED, "wallet-paused")
    assert (found.status, found.sender) == (Status.CONFIRMED, SECOND.address)
    assert world.wallet.paused_by is Pause.CHAIN_AHEAD
    assert (
        len(world.store.foreign_transactions(found.chain_id, world.signer.address)) == 1
    )


def test_each_key_is_checked(world: World) -> None:
    """That chain and ledger agree about one key says nothing about another."""
    world.finish(world.accepted())
    revoked = _rotated(world, block=True)
    world.finish(world.accepted())
    world.chain.mine_foreign(SECOND.address)
    world.rotate(THIRD, block=True)
    second = find_key(world.store.keys(), SECOND.address)
    assert second is not None
    former, chain = _former(world), _chain(world)
    former.require_known(chain, revoked)

    with pytest.raises(WalletPausedError):
        former.require_known(chain, second)


def test_an_intruder_who_takes_a_refunds_nonce(world: World) -> None:
    """
    The wallet is paused again, and known again after the worker's next check, however
    recent the last one was (O8).
    """
    world.finish(world.accepted())
    stranded = world.broadcast()
    world.chain.forget()
    _rotated(world, block=True)
    worker = world.worker
    for _ in range(2):
        world.clock.now += timedelta(seconds=31)
        worker.work()
        world.chain.forget()
    before = world.wallet.paused_by
    for _ in range(3):
        world.chain.mine_foreign(world.signer.address)
    world.chain.mine_empty(world.network.confirmations)
    for _ in range(6):
        world.clock.now += timedelta(seconds=31)
        worker.work()

    paid = world.broadcast()

    assert before is None
    assert world.stored(stranded).failure_code == "nonce-taken"
    assert paid.sender == SECOND.address
    assert world.wallet.paused_by is None


def test_an_intruder_on_a_network_without_payments(world: World) -> None:
    """A wallet that the ledger never opened is checked, too."""
    made_active(world.store, key_at(world.signer.address))
    world.chain.mine_foreign(world.signer.address)
    world.chain.mine_empty(world.network.confirmations)
    _rotated(world, block=True)

    (found,) = world.finish(world.accepted())

    assert (found.status, found.sender) == (Status.CONFIRMED, SECOND.address)
    assert world.wallet.paused_by is None


@pytest.mark.parametrize("block", [False, True], ids=["retired", "revoked"])
def test_a_retired_wallet_is_checked_every_ten_minutes(
    world: World, block: bool
) -> None:
    """A wallet that agrees with the chain counts as known until then."""
    world.finish(world.accepted())
    _rotated(world, block=block)
    world.finish(world.accepted())
    key, former, chain = world.key, _former(world), _chain(world)
    for look in (former.refresh, former.require_known):
        look(chain, key)
    world.chain.mine_foreign(key.address)
    before = world.chain.calls["pending_count"]
    for look in (former.refresh, former.require_known):
        look(chain, key)
    after = world.chain.calls["pending_count"]
    world.clock.now += KNOWN_FOR
    former.refresh(chain, key)

    assert key.state is (KeyState.BLOCKED if block else KeyState.RETIRED)
    assert after == before
    if not block:
        assert world.wallet.paused_by is Pause.CHAIN_AHEAD


def test_a_paused_wallet_is_checked_at_once(world: World) -> None:
    """However recently it was known: the chain may have changed since."""
    world.finish(world.accepted())
    _rotated(world)
    world.finish(world.accepted())
    key, former, chain = world.key, _former(world), _chain(world)
    former.refresh(chain, key)
    world.store.pause(world.wallet, Pause.CHAIN_AHEAD, world.clock())
    former.forget_paused()
    former.refresh(chain, key)

    assert not world.wallet.is_paused


def test_known_wallets_cost_no_statements(world: World) -> None:
    """The cost of a pass does not grow with the keys that were ever active."""
    world.finish(world.accepted())
    few = _statements_of_a_pass(world)
    for number in range(1, 6):
        former = key_at(f"0x{number:040d}")
        world.store.open_wallet(Wallet(CHAIN_ID, former.address, 0, 0))
        made_active(world.store, former)
    made_active(world.store, world.key)

    assert _statements_of_a_pass(world) == few


def _statements_of_a_pass(world: World) -> int:
    """Return how many statements a pass sends that checks the wallets once more."""
    worker = world.worker
    # The first check retires draining keys, and after the second they are known.
    for _ in range(2 * _PASSES_PER_WALLET_CHECK):
        worker.work()
    assert isinstance(world.store, SQLStore)
    with collected_statements(world.store) as statements:
        worker.work()
    return len(statements)


def test_a_draining_wallet_is_checked_each_time(world: World) -> None:
    """A transaction that a node hid stops new payments as soon as it shows."""
    world.broadcast()
    world.chain.mine()
    key, former, chain = _rotated(world), _former(world), _chain(world)
    former.require_known(chain, key)
    world.chain.mine_foreign(key.address)

    assert key.state is KeyState.DRAINING
    with pytest.raises(WalletPausedError):
        former.require_known(chain, key)


@pytest.mark.parametrize("block", [False, True], ids=["draining", "revoked"])
def test_an_address_without_transactions_is_known(world: World, block: bool) -> None:
    """Nothing needs to be recorded."""
    made_active(world.store, key_at(world.signer.address))
    key = _rotated(world, block=block)

    _former(world).require_known(_chain(world), key)
    _former(world).refresh(_chain(world), key)


def test_a_concurrent_change_of_the_wallet_is_an_error(world: World) -> None:
    """The wallet does not count as known, and the error says so."""
    world.finish(world.accepted())
    key = _rotated(world, block=True)
    store = altered(world.store, resume=StaleStateError("changed"))
    wallets = type(world.wallets)(store, world.clock)
    former = FormerWallets(store, wallets, world.clock)

    with pytest.raises(WalletPausedError):
        former.require_known(_chain(world), key)


def test_a_revocation_keeps_the_mark_of_a_restored_wallet(world: World) -> None:
    """The wallet still waits for every nonce below its mark (R24)."""
    world.finish(world.accepted())
    world.rotate()
    world.store.pause(world.wallet, Pause.RESTORED, world.clock(), 3)
    world.revoke()

    assert (world.wallet.paused_by, world.wallet.high_water) == (Pause.RESTORED, 3)


def test_a_revoked_wallet_records_what_is_mined_below_its_mark(world: World) -> None:
    """Even if no node counted it when the wallet was paused (R24, O8)."""
    world.finish(world.accepted())
    _rotated(world, block=True)
    world.store.pause(world.wallet, Pause.RESTORED, world.clock(), 2)
    former, key = _former(world), world.key
    former.refresh(_chain(world), key)
    world.chain.mine_foreign(world.signer.address)
    world.mine_deep()
    former.refresh(_chain(world), key)
    former.refresh(_chain(world), key)

    assert world.wallet.paused_by is None
    assert world.wallet.next_nonce == 2


def test_a_revoked_wallet_waits_for_its_fillers(world: World) -> None:
    """A payment that the ledger has forgotten may be mined instead (R24, O8)."""
    world.paid()
    world.restore(stated={("local", world.signer.address): 3}, has_log=False)
    for _ in range(2):
        world.work(after=timedelta(seconds=31))
    fillers = [world.found(nonce) for nonce in (1, 2)]
    key, former = _rotated(world, block=True), _former(world)
    with pytest.raises(WalletPausedError):
        former.require_known(_chain(world), key)
    former.require_known(_chain(world), key, if_restored=True)
    waiting = world.wallet
    world.settle()
    former.require_known(_chain(world), key)

    assert [each.status for each in fillers] == [TransactionStatus.BROADCAST] * 2
    assert waiting.paused_by is Pause.RESTORED
    assert not world.wallet.is_paused


def test_a_revoked_wallet_without_a_mark_waits_for_a_restore(world: World) -> None:
    world.finish(world.accepted())
    _rotated(world, block=True)
    world.store.pause(world.wallet, Pause.RESTORED, world.clock())
    _former(world).refresh(_chain(world), world.key)

    assert world.wallet.paused_by is Pause.RESTORED


def _work(world: World, passes: int = 8) -> None:
    worker = world.worker
    for _ in range(passes):
        world.clock.now += timedelta(seconds=100)
        worker.work()
        world.mine_deep()


def _revoked(world: World) -> None:
    """Revoke the active key, and let workers notice."""
    world.rotate(SECOND, block=True)
    _work(world, 3)


def test_a_stranded_refund_is_finished(world: World) -> None:
    """Its bytes are replaced and mined; before, nothing could be sent for it."""
    stranded = world.broadcast()
    world.chain.forget()
    _revoked(world)
    before = world.stored(stranded)
    world.reinstate()
    _work(world)
    after = world.stored(stranded)

    assert (before.status, before.moving.blocked_by) == (
        Status.BROADCAST,
        "key-unusable",
    )
    assert (after.status, after.nonce) == (Status.CONFIRMED, stranded.nonce)
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]
    assert world.key.state is KeyState.RETIRED


def test_a_refund_that_lost_its_nonce_is_paid_once(world: World) -> None:
    """The active key pays it, whether before the reinstatement or after."""
    lost = world.step(world.accepted())
    _revoked(world)
    world.reinstate()
    late = world.accepted()
    _work(world)

    paid = [world.stored(each) for each in (lost, late)]
    assert [each.status for each in paid] == [Status.CONFIRMED] * 2
    assert {each.sender for each in paid} == {SECOND.address}
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 2


def _stranded_above_a_gap(world: World) -> Refund:
    """Return a refund that is sent, above a nonce that a revocation took back."""
    lost = world.step(world.accepted())
    stranded = world.broadcast()
    assert lost.nonce is not None
    assert stranded.nonce == lost.nonce + 1
    return stranded


def test_a_gap_below_a_stranded_refund_delays_no_other(world: World) -> None:
    """It waits for the gap, and keeps its key from being retired."""
    stranded = _stranded_above_a_gap(world)
    _revoked(world)
    world.reinstate()
    other = world.accepted()
    _work(world)

    assert world.stored(stranded).status is Status.BROADCAST
    assert world.stored(other).status is Status.CONFIRMED
    assert world.key.state is KeyState.DRAINING
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 2


def test_foreign_transactions_of_the_time_between(world: World) -> None:
    """
    They were of no interest while the key was revoked; now an operator looks at them.

    Refunds of the active key wait only until they are recorded.
    """
    world.finish(world.accepted())
    _revoked(world)
    world.chain.mine_foreign(world.signer.address)
    world.mine_deep()
    _work(world)
    world.reinstate()
    refund = world.accepted()
    _work(world)

    chain_id = world.network.chain_id
    found = world.store.foreign_transactions(chain_id, world.signer.address)
    assert len(found) == 1
    assert world.wallet.paused_by is Pause.CHAIN_AHEAD
    assert world.key.state is KeyState.DRAINING
    assert world.stored(refund).status is Status.CONFIRMED
