"""What former keys have paid, though the ledger has forgotten it: nobody pays twice."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import coincurve
import pytest

from signer.chain.chain import Chain
from signer.errors import KeyUnusableError, StaleStateError, WalletPausedError
from signer.model.audit_record import Record
from signer.model.key import Key, KeyState
from signer.model.refund import Kind, Refund, Status
from signer.model.wallet import Pause
from signer.ports import Ledger
from signer.refunds.former_wallets import LOOK_AGAIN, FormerWallets
from tests.support.devices import honest, signer_over
from tests.support.keys import key_at, made_active
from tests.support.refunds import ACTOR, CUSTOMER, KEY, World, altered


AMOUNT = 12_500_000
OTHER = signer_over(honest(coincurve.PrivateKey.from_int(99)))
THIRD = signer_over(honest(coincurve.PrivateKey.from_int(100)))


@pytest.fixture(autouse=True)
def other(world: World) -> None:
    """The world has more keys, which are not in the ring yet."""
    world.others = (OTHER, THIRD)


def _rotated(world: World, *, block: bool = False) -> Key:
    """Make the second key the active one; return what the first one is then."""
    made_active(world.store, key_at(OTHER.address), block=block)
    return _first(world)


def _first(world: World) -> Key:
    return _key(world, world.signer.address)


def _key(world: World, address: str) -> Key:
    ring = world.store.keys()
    return next(key for key in ring if key.address == address)


def _paid(world: World, *refunds: Refund) -> list[Refund]:
    """Let workers work and blocks come until all *refunds* are final."""
    for _ in range(20):
        world.work(after=timedelta(seconds=31))
        world.mine_deep()
        found = [world.stored(refund) for refund in refunds]
        if all(refund.status.is_final for refund in found):
            break
    return found


def _chain(world: World) -> Chain:
    return world.chains["local"]


def _former(world: World) -> FormerWallets:
    return FormerWallets(world.store, world.wallets, world.clock)


def _pause(world: World, address: str) -> Pause | None:
    wallet = world.store.wallet(_chain(world).network.chain_id, address)
    assert wallet is not None
    return wallet.paused_by


@pytest.mark.parametrize("block", [False, True], ids=["rotated", "given up"])
@pytest.mark.parametrize("steps", [0, 1], ids=["queued", "reserved"])
def test_a_rotation_that_the_backup_forgot(
    world: World, backup: Callable[[], Ledger], steps: int, block: bool
) -> None:
    """Repeated after a restore, it lets nobody pay what the old key has paid (R24)."""
    _paid(world, world.accepted())
    refund = world.accepted()
    if steps:
        world.step(refund)
    restored = backup()
    _paid(world, refund)
    world.store = restored
    _rotated(world, block=block)

    (found,) = _paid(world, refund)

    assert (found.status, found.sender) == (Status.CONFIRMED, world.signer.address)
    assert _pause(world, world.signer.address) is None
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 2


def test_a_payment_between_others(world: World, backup: Callable[[], Ledger]) -> None:
    """One nonce among others that the ledger knows is looked at as well (R24, O8)."""
    forgotten = world.step(world.accepted())
    sent = world.broadcast()
    restored = backup()
    _paid(world, forgotten, sent)
    world.store = restored
    _rotated(world, block=True)

    found = _paid(world, forgotten, sent)

    assert [refund.status for refund in found] == [Status.CONFIRMED] * 2
    assert [refund.nonce for refund in found] == [0, 1]
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 2


def test_a_rollback_that_the_backup_forgot(
    world: World, backup: Callable[[], Ledger]
) -> None:
    """What a retired key has paid since somebody rolled back to it is found (R24)."""
    _paid(world, world.accepted())
    _rotated(world)
    _paid(world, world.accepted())
    assert _first(world).state is KeyState.RETIRED
    refund = world.accepted()
    restored = backup()
    made_active(world.store, _first(world))
    _paid(world, refund)
    world.store = restored

    (found,) = _paid(world, refund)

    assert (found.status, found.sender) == (Status.CONFIRMED, world.signer.address)
    assert len(world.chain.payouts()) == 3


def test_a_ledger_that_is_lost_behind_a_rotation(
    world: World, empty: Callable[[], Ledger]
) -> None:
    """A new one that begins with the first key, and repeats the rotation, finds what
    that key has paid (R24)."""
    _paid(world, world.accepted(reference="forgotten"))
    world.store = empty()
    made_active(world.store, key_at(world.signer.address))
    _rotated(world)

    (found,) = _paid(world, world.accepted(reference="forgotten"))

    assert (found.status, found.sender) == (Status.CONFIRMED, world.signer.address)
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


@pytest.mark.parametrize("is_mined", [False, True], ids=["in the pool", "mined"])
def test_a_key_given_up_that_the_backup_forgot(
    world: World, backup: Callable[[], Ledger], is_mined: bool
) -> None:
    """A refund that got another nonce then is not paid with its first one (R24, O8)."""
    refund = world.step(world.accepted())
    first = _rotated(world)
    restored = backup()
    at = world.clock()
    world.store.block(first, at, Record.of({"event": "key-revoke-succeeded"}, at))
    for _ in range(2):
        world.work(after=timedelta(seconds=31))
    paid = world.stored(refund)
    if is_mined:
        world.mine_deep()
    world.store = restored
    for _ in range(3):
        world.work(after=timedelta(seconds=31))
    asked = [sent.kind for sent in world.store.transactions(refund.id)]

    (found,) = _paid(world, refund)

    assert (paid.status, paid.sender) == (Status.BROADCAST, OTHER.address)
    assert asked == ([Kind.NOOP] if is_mined else [])
    assert (found.status, found.failure_code) == (Status.FAILED, "already-paid")
    assert str(paid.tx_hash) in str(found.failure_detail)
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_a_payment_by_another_key_that_reverted(
    world: World, backup: Callable[[], Ledger]
) -> None:
    """Nobody is told that a refund is paid whose forgotten transaction reverted."""
    refund = world.step(world.accepted())
    first = _rotated(world)
    restored = backup()
    at = world.clock()
    world.store.block(first, at, Record.of({"event": "key-revoke-succeeded"}, at))
    for _ in range(2):
        world.work(after=timedelta(seconds=31))
    sent = world.stored(refund)
    world.chain.mine(lambda receipt: replace(receipt, succeeded=False))
    world.chain.mine_empty(2)
    world.store = restored

    (found,) = _paid(world, refund)

    assert (sent.status, sent.sender) == (Status.BROADCAST, OTHER.address)
    assert (found.status, found.failure_code) == (Status.FAILED, "reverted")
    assert str(sent.tx_hash) in str(found.failure_detail)
    assert world.sent(found).kind is Kind.NOOP


def test_a_process_that_slept_asks_no_key_that_was_given_up(world: World) -> None:
    """Behind its sleep the intent of its reservation does not count any more (O8)."""
    device = honest(KEY)
    world.signer = signer_over(device)
    lifecycle = world.lifecycle
    refund = lifecycle.step(world.accepted(), ACTOR)
    _rotated(world, block=True)
    world.clock.advance(seconds=60)

    with pytest.raises(KeyUnusableError, match="blocked"):
        lifecycle.step(refund, ACTOR)

    assert refund.intended
    assert device.calls == 0


def test_whoever_pays_first_looks(world: World) -> None:
    """Where chain and ledger agree, giving a key up keeps nobody waiting (O8)."""
    _paid(world, world.accepted())
    _rotated(world, block=True)
    before = _pause(world, world.signer.address)

    world.step(world.accepted(), times=3)

    assert before is Pause.CHAIN_AHEAD
    assert _pause(world, world.signer.address) is None


def test_an_intruder_stops_nobody(world: World) -> None:
    """He goes on sending with the key that was given up; refunds go on, too (O8)."""
    _paid(world, world.accepted())
    world.chain.mine_foreign(world.signer.address)
    _rotated(world, block=True)
    refund, worker = world.accepted(), world.worker
    for _ in range(10):
        world.chain.mine_foreign(world.signer.address)
        world.clock.now += timedelta(seconds=31)
        worker.work()
        world.chain.mine()
    found = world.stored(refund)

    assert found.sender == OTHER.address
    assert found.tx_hash is not None
    assert _pause(world, world.signer.address) is None
    assert world.store.foreign(found.chain_id, world.signer.address) == ()


def test_an_intruder_with_a_retired_key(world: World) -> None:
    """What he sent is sighted first; then it waits for a person, and refunds do not."""
    _paid(world, world.accepted())
    _rotated(world)
    _paid(world, world.accepted())
    world.chain.mine_foreign(world.signer.address)
    world.clock.now += LOOK_AGAIN
    refund = world.accepted()
    world.work()
    waits = world.stored(refund)
    world.mine_deep()

    (found,) = _paid(world, refund)

    assert _first(world).state is KeyState.RETIRED
    assert waits.blocked_by == WalletPausedError.code
    assert (found.status, found.sender) == (Status.CONFIRMED, OTHER.address)
    assert _pause(world, world.signer.address) is Pause.CHAIN_AHEAD
    assert len(world.store.foreign(found.chain_id, world.signer.address)) == 1


def test_each_key_is_looked_at(world: World) -> None:
    """That chain and ledger agree about one key says nothing of another."""
    _paid(world, world.accepted())
    given_up = _rotated(world, block=True)
    _paid(world, world.accepted())
    world.chain.mine_foreign(OTHER.address)
    made_active(world.store, key_at(THIRD.address), block=True)
    former, chain = _former(world), _chain(world)
    former.require_known(chain, given_up)

    with pytest.raises(WalletPausedError):
        former.require_known(chain, _key(world, OTHER.address))


def test_an_intruder_who_takes_a_refunds_nonce(world: World) -> None:
    """The wallet is paused again by that, and known again at the worker's next look,
    however lately it had agreed (O8)."""
    _paid(world, world.accepted())
    stranded = world.broadcast()
    world.chain.forget()
    _rotated(world, block=True)
    worker = world.worker
    for _ in range(2):
        world.clock.now += timedelta(seconds=31)
        worker.work()
        world.chain.forget()
    before = _pause(world, world.signer.address)
    for _ in range(3):
        world.chain.mine_foreign(world.signer.address)
    world.chain.mine_empty(world.network.confirmations)
    for _ in range(6):
        world.clock.now += timedelta(seconds=31)
        worker.work()

    paid = world.broadcast()

    assert before is None
    assert world.stored(stranded).failure_code == "nonce-taken"
    assert paid.sender == OTHER.address
    assert _pause(world, world.signer.address) is None


def test_an_intruder_where_nobody_paid(world: World) -> None:
    """A wallet that the ledger never opened is looked at, and is his alone."""
    made_active(world.store, key_at(world.signer.address))
    world.chain.mine_foreign(world.signer.address)
    world.chain.mine_empty(world.network.confirmations)
    _rotated(world, block=True)

    (found,) = _paid(world, world.accepted())

    assert (found.status, found.sender) == (Status.CONFIRMED, OTHER.address)
    assert _pause(world, world.signer.address) is None


def test_what_is_not_final_is_waited_for(world: World) -> None:
    """Until blocks have buried what nobody knows, it may be a payment."""
    _paid(world, world.accepted())
    _rotated(world, block=True)
    world.chain.mine_foreign(world.signer.address)
    refund = world.accepted()
    world.work()

    assert world.stored(refund).blocked_by == WalletPausedError.code


@pytest.mark.parametrize("block", [False, True], ids=["retired", "given up"])
def test_looks_seldom(world: World, block: bool) -> None:
    """A key that agrees with its chain is asked about again ten minutes later."""
    _paid(world, world.accepted())
    _rotated(world, block=block)
    _paid(world, world.accepted())
    key, former, chain = _first(world), _former(world), _chain(world)
    for look in (former.look, former.require_known):
        look(chain, key)
    world.chain.mine_foreign(key.address)
    asked = world.chain.calls["pending_count"]
    for look in (former.look, former.require_known):
        look(chain, key)
    unasked = world.chain.calls["pending_count"]
    world.clock.now += LOOK_AGAIN
    former.look(chain, key)

    assert key.state is (KeyState.BLOCKED if block else KeyState.RETIRED)
    assert unasked == asked
    if not block:
        assert _pause(world, key.address) is Pause.CHAIN_AHEAD


def test_a_draining_key_is_looked_at_each_time(world: World) -> None:
    """What a node had hidden of it stops what is not paid yet, the moment it shows."""
    world.broadcast()
    world.chain.mine()
    key, former, chain = _rotated(world), _former(world), _chain(world)
    former.require_known(chain, key)
    world.chain.mine_foreign(key.address)

    assert key.state is KeyState.DRAINING
    with pytest.raises(WalletPausedError):
        former.require_known(chain, key)


@pytest.mark.parametrize("block", [False, True], ids=["draining", "given up"])
def test_a_key_that_paid_nothing(world: World, block: bool) -> None:
    """Where an address has sent nothing there is nothing to know."""
    made_active(world.store, key_at(world.signer.address))
    key = _rotated(world, block=block)

    _former(world).require_known(_chain(world), key)
    _former(world).look(_chain(world), key)


def test_two_who_look_at_once(world: World) -> None:
    """Who finds the wallet changed under his hands has not seen it, and says so."""
    _paid(world, world.accepted())
    key = _rotated(world, block=True)

    def late(*_: object) -> None:
        raise StaleStateError("the wallet has changed")

    store = altered(world.store, resume=late)
    wallets = type(world.wallets)(store, world.clock)
    former = FormerWallets(store, wallets, world.clock)

    with pytest.raises(WalletPausedError):
        former.require_known(_chain(world), key)
