"""Who has which nonce, and what happens when a stranger has one."""

from dataclasses import replace

import coincurve
import pytest
from structlog.testing import capture_logs

from signer.errors import (
    ChainUnavailableError,
    NotFoundError,
    StaleStateError,
    WalletPausedError,
)
from signer.keys.signer import Signer
from signer.model.refund import Refund, Status
from signer.model.wallet import Pause, UnrecordedTransaction, Wallet
from signer.refunds.nonces import NonceManager
from signer.refunds.transaction_signer import calldata, purpose_of
from signer.refunds.wallet_reconciliation import HISTORY, WalletReconciler, WalletStatus
from tests.support.devices import honest, signer_over
from tests.support.keys import key_at, made_active
from tests.support.refunds import ACTOR, World, altered


def _reserve(world: World, refund: Refund | None = None) -> Refund:
    return _reserved(world.nonces, world, refund or world.accepted())


def _reserved(nonces: NonceManager, world: World, refund: Refund) -> Refund:
    chain, active = world.chains["local"], nonces.payer(refund)
    counted = nonces.agreed(chain, active.key.address)
    intent = active.signer.intent(purpose_of(refund, ACTOR))
    return nonces.reserve(
        refund, 60_000, chain, counted=counted, active=active, intent=intent
    )


def _resume(world: World, standing: WalletStatus) -> None:
    world.wallets.resume(standing, world.chains["local"])


def _paid(world: World) -> Refund:
    refund = world.broadcast()
    world.mine_deep()
    world.tracker.track()
    return world.tracked(refund)


def _wallet(world: World) -> Wallet:
    wallet = world.store.wallet(world.network.chain_id, world.signer.address)
    assert wallet is not None
    return wallet


def _watch(world: World) -> WalletStatus:
    return world.watched()


def _foreign(world: World, number: int, data: bytes = b"\xf0\x0d") -> list[str]:
    return [world.chain.mine_foreign(world.signer.address, data) for _ in range(number)]


def test_a_reservation_is_for_life(world: World) -> None:
    """It names payer, key, nonce and gas, and the store has it."""
    reserved = _reserve(world)

    assert reserved == world.stored(reserved)
    assert (reserved.status, reserved.nonce) == (Status.RESERVED, 0)
    assert (reserved.sender, reserved.key_id, reserved.gas_limit) == (
        world.signer.address,
        world.signer.key_id,
        60_000,
    )


def test_a_fresh_wallet_begins_at_nought(world: World) -> None:
    """A wallet that never sent anything has no history to look at."""
    _reserve(world)

    assert _wallet(world) == Wallet(world.network.chain_id, world.signer.address, 0, 1)


def test_a_ledger_ahead_of_the_chain_gives_out_the_next(world: World) -> None:
    """What is reserved and not mined yet, the chain need not know (R24)."""
    assert [_reserve(world).nonce for _ in range(3)] == [0, 1, 2]
    assert _wallet(world).paused_by is None


def test_a_wallet_in_use_waits_for_its_history(world: World) -> None:
    """A new ledger over an old wallet pays nobody before it has looked (R24)."""
    _foreign(world, 2)
    refund = world.accepted()

    with capture_logs() as logs, pytest.raises(WalletPausedError):
        _reserve(world, refund)

    assert _wallet(world) == Wallet(
        world.network.chain_id,
        world.signer.address,
        0,
        0,
        Pause.UNKNOWN_HISTORY,
        world.clock(),
    )
    assert world.stored(refund) == refund
    assert [
        (entry["event"], entry["log_level"], entry["reason"]) for entry in logs
    ] == [("wallet-paused", "error", "unknown-history")]


def test_history_is_looked_at_so_far_back(world: World) -> None:
    """A thousand nonces are looked at, and what was before them is nobody's."""
    world.client = altered(world.chain, pending_count=lambda address: HISTORY + 5)

    with pytest.raises(WalletPausedError):
        _reserve(world)

    assert (_wallet(world).first_nonce, _wallet(world).next_nonce) == (5, 5)


def test_a_transaction_in_the_pool_is_history(world: World) -> None:
    """A nonce that is waiting to be mined is as taken as one that was (R24)."""
    world.client = altered(world.chain, pending_count=lambda address: 1)

    with pytest.raises(WalletPausedError):
        _reserve(world)

    assert _wallet(world).paused_by is Pause.UNKNOWN_HISTORY


def test_a_strangers_nonce_is_not_given_out(world: World) -> None:
    """The next reservation sees that the chain is ahead, and pauses all (R23)."""
    _reserve(world)
    _foreign(world, 2)

    with capture_logs() as logs, pytest.raises(WalletPausedError, match="chain-ahead"):
        _reserve(world)

    assert _wallet(world).paused_by is Pause.CHAIN_AHEAD
    assert _wallet(world).paused_at == world.clock()
    assert [entry["event"] for entry in logs] == ["wallet-paused"]


def test_a_paused_wallet_gives_out_nothing(world: World) -> None:
    """Whatever the chain counts meanwhile (R23)."""
    _reserve(world)
    world.store.pause(_wallet(world), Pause.FOREIGN_TRANSACTION, world.clock())

    with pytest.raises(WalletPausedError, match="foreign-transaction"):
        _reserve(world)


def test_what_has_its_nonce_goes_on(world: World) -> None:
    """A pause stops reservations only (R23)."""
    reserved = _reserve(world)
    world.store.pause(_wallet(world), Pause.CHAIN_AHEAD, world.clock())

    refund = world.step(reserved, times=2)
    world.mine_deep()
    world.tracker.track()

    assert world.tracked(refund).status is Status.CONFIRMED


def test_a_stranger_who_is_faster_is_seen_by_the_store(world: World) -> None:
    """A look from before the pause is not enough where the nonce is taken (R23)."""
    _reserve(world)

    def paused(chain_id: int, sender: str) -> Wallet:
        before = _wallet(world)
        world.store.pause(before, Pause.CHAIN_AHEAD, world.clock())
        return before

    late = NonceManager(altered(world.store, wallet=paused), world.ring, world.clock)
    refund = world.accepted()

    with pytest.raises(StaleStateError):
        _reserved(late, world, refund)
    assert world.stored(refund) == refund


def test_two_who_pause_do_so_once(world: World) -> None:
    """The second one finds the wallet changed, and leaves it to the first."""
    _reserve(world)
    _foreign(world, 2)

    def late(wallet: Wallet, reason: Pause, at: object) -> None:
        world.store.pause(wallet, reason, world.clock())
        world.store.pause(wallet, reason, world.clock())

    wallets = WalletReconciler(altered(world.store, pause=late), world.clock)

    with pytest.raises(StaleStateError):
        wallets.watch(world.chains["local"], world.signer.address)
    assert _wallet(world).paused_by is Pause.CHAIN_AHEAD


def test_the_chain_is_counted_before_the_ledger_is_read(world: World) -> None:
    """What another worker sends at the same time is no stranger's."""
    reserved = _reserve(world)

    def counted(address: str) -> int:
        other = replace(world, client=None)
        other.step(reserved, times=2)
        other.broadcast()
        return world.chain.pending_count(address)

    world.client = altered(world.chain, pending_count=counted)

    standing = _watch(world)

    assert standing.counted == 2
    assert standing.unseen == 0
    assert standing.wallet.paused_by is None


def test_watching_needs_a_wallet(world: World) -> None:
    """Where nothing was paid yet there is nothing to compare."""
    with pytest.raises(NotFoundError):
        _watch(world)


def test_a_calm_watch_changes_nothing(world: World) -> None:
    """Two questions, and no write, while the ledger knows everything."""
    _reserve(world)
    before = _wallet(world)

    assert _watch(world) == WalletStatus(before, 0, ())
    assert _wallet(world) == before


def test_a_watch_sees_a_stranger_within_a_block(world: World) -> None:
    """The wallet pauses at once, and the stranger is sighted when final (R23)."""
    _reserve(world)
    foreign = _foreign(world, 2)[1]

    with capture_logs() as logs:
        first = _watch(world)
    world.chain.mine_empty(2)
    second = _watch(world)

    assert [entry["event"] for entry in logs] == ["wallet-paused"]
    assert (first.wallet.paused_by, first.unseen) == (Pause.CHAIN_AHEAD, 1)
    assert first.foreign == ()
    assert (second.wallet.paused_by, second.unseen) == (Pause.CHAIN_AHEAD, 0)
    (sighting,) = second.foreign
    assert sighting == UnrecordedTransaction(
        chain_id=world.network.chain_id,
        sender=world.signer.address,
        nonce=1,
        tx_hash=foreign,
        mark=None,
        gas_limit=21_000,
        block_number=2,
        block_hash=world.chain._blocks[2].hash,
        seen_at=world.clock(),
    )


def test_a_strangers_wallet_waits_for_a_person(world: World) -> None:
    """However often it is looked at, it does not resume by itself (R23)."""
    _reserve(world)
    _foreign(world, 2)
    world.chain.mine_empty(2)

    for _ in range(3):
        standing = _watch(world)

    assert standing.wallet.paused_by is Pause.CHAIN_AHEAD
    assert len(standing.foreign) == 1


def test_a_resumed_wallet_gives_out_what_nobody_has(world: World) -> None:
    """The stranger's nonce is passed over, and nobody is paid twice (R23)."""
    paid = world.broadcast()
    world.mine_deep()
    world.tracker.track()
    world.tracker.track()
    (foreign,) = _foreign(world, 1)
    world.chain.mine_empty(2)
    standing = _watch(world)

    with capture_logs() as logs:
        _resume(world, standing)
    refund = world.broadcast()
    world.mine_deep()

    assert [(entry["event"], entry["accepted"]) for entry in logs] == [
        ("wallet-resumed", [foreign])
    ]
    assert (paid.nonce, refund.nonce) == (0, 2)
    assert _wallet(world).paused_by is None
    assert len(world.chain.payouts()) == 2
    assert _watch(world).foreign == ()


def test_what_was_accepted_does_not_pause_again(world: World) -> None:
    """A second stranger is a second decision, about that one only."""
    _paid(world)
    first = _foreign(world, 1)[0]
    world.chain.mine_empty(2)
    _resume(world, _watch(world))
    second = _foreign(world, 1)[0]
    world.chain.mine_empty(2)

    standing = _watch(world)

    assert standing.wallet.paused_by is Pause.CHAIN_AHEAD
    assert [sighting.tx_hash for sighting in standing.foreign] == [second]
    assert first != second


def test_a_wallet_cannot_resume_before_everything_is_seen(world: World) -> None:
    """What is not final may still be replaced by something else."""
    _paid(world)
    _foreign(world, 1)
    standing = _watch(world)

    with pytest.raises(WalletPausedError, match="1 of the chain's transactions"):
        _resume(world, standing)
    assert _wallet(world).paused_by is Pause.CHAIN_AHEAD


def test_whoever_resumes_has_seen_the_wallet_as_it_is(world: World) -> None:
    """A stranger that was sighted meanwhile is not accepted unseen."""
    _paid(world)
    _foreign(world, 1)
    world.chain.mine_empty(2)
    standing = _watch(world)
    world.store.sight(_wallet(world), [])

    with pytest.raises(StaleStateError):
        _resume(world, standing)
    assert _wallet(world).paused_by is Pause.CHAIN_AHEAD


def test_the_pool_empties_and_the_wallet_goes_on(world: World) -> None:
    """A transaction that waited and never came has used no nonce (R23)."""
    _reserve(world)
    world.client = altered(world.chain, pending_count=lambda address: 5)
    paused = _watch(world)
    world.client = None

    resumed = _watch(world)

    assert (paused.wallet.paused_by, paused.unseen) == (Pause.CHAIN_AHEAD, 4)
    assert resumed.wallet.paused_by is None
    assert _reserve(world).nonce == 1


def test_our_own_forgotten_transactions_need_nobody(world: World) -> None:
    """A wallet that misses only what bears a mark resumes by itself (R24)."""
    _paid(world)
    asked = world.accepted()
    marked = replace(asked, reference="forgotten")
    world.chain.mine_foreign(world.signer.address, calldata(marked))
    world.chain.mine_empty(2)

    standing = _watch(world)

    assert standing.wallet.paused_by is None
    assert standing.wallet.next_nonce == 2
    sighting = world.store.sighting(world.network.chain_id, marked.mark)
    assert sighting is not None
    assert (sighting.nonce, sighting.mark) == (1, marked.mark)


def test_a_look_writes_down_what_it_saw_so_far(world: World) -> None:
    """Twenty at once, in order, up to the first that is not final; the rest later."""
    _reserve(world)
    _foreign(world, 25)
    world.chain.mine_empty(2)
    _foreign(world, 1)

    looks = [_watch(world) for _ in range(3)]

    assert [look.unseen for look in looks] == [5, 1, 1]
    assert [len(look.foreign) for look in looks] == [20, 24, 24]
    assert [sighting.nonce for sighting in looks[-1].foreign] == list(range(1, 25))


def test_a_nonce_that_no_node_finds_is_waited_for(world: World) -> None:
    """Too long ago, or a lagging node: nothing is guessed behind a gap (R10)."""
    _reserve(world)
    _foreign(world, 3)
    world.chain.mine_empty(2)
    world.client = altered(
        world.chain,
        find_transaction=lambda sender, nonce: (
            None if nonce == 1 else world.chain.find_transaction(sender, nonce)
        ),
    )

    standing = _watch(world)

    assert standing.unseen == 2
    assert standing.foreign == ()
    assert standing.wallet.paused_by is Pause.CHAIN_AHEAD


def test_a_sighting_is_told(world: World) -> None:
    """Each unknown transaction is an error in the log: ours, or a stranger's (R23)."""
    _reserve(world)
    (taken, ours) = world.accepted(), world.accepted()
    _foreign(world, 1, calldata(taken))
    world.chain.mine_foreign(world.signer.address, b"")
    world.chain.mine_foreign(world.signer.address, calldata(ours))
    world.chain.mine_empty(2)

    with capture_logs() as logs:
        _watch(world)

    assert [
        (entry["nonce"], entry["foreign"], entry["log_level"])
        for entry in logs
        if entry["event"] == "transaction-sighted"
    ] == [(1, True, "error"), (2, False, "error")]


def test_a_stranger_in_a_refunds_place_pauses_the_wallet(world: World) -> None:
    """The refund's nonce is lost; who else has the key must be found out (R23)."""
    refund = world.broadcast()
    (foreign,) = _foreign(world, 1)
    found = world.chain.find_transaction(world.signer.address, 0)
    assert found is not None

    since = world.clock()

    for _ in range(2):
        # A process that dies in between finds the work half done.
        world.wallets.lost(refund, found)
        world.clock.advance(seconds=10)

    (sighting,) = world.store.foreign(world.network.chain_id, world.signer.address)
    assert (sighting.tx_hash, sighting.held_by) == (foreign, refund.id)
    assert _wallet(world).paused_by is Pause.FOREIGN_TRANSACTION
    assert _wallet(world).paused_at == since


def test_our_own_in_a_refunds_place_pauses_nothing(world: World) -> None:
    """A forgotten payment of another refund has the nonce: nobody else has the key."""
    refund, other = world.broadcast(), world.accepted()
    _foreign(world, 1, calldata(other))
    found = world.chain.find_transaction(world.signer.address, 0)
    assert found is not None

    world.wallets.lost(refund, found)

    assert _wallet(world).paused_by is None
    assert world.store.foreign(world.network.chain_id, world.signer.address) == ()


def test_a_wallet_that_was_never_opened_has_lost_nothing(world: World) -> None:
    """A refund whose wallet the ledger does not know waits for somebody to see why."""
    refund = world.accepted()
    _foreign(world, 1)
    found = world.chain.find_transaction(world.signer.address, 0)
    assert found is not None

    with pytest.raises(StaleStateError):
        world.wallets.lost(refund, found)


def test_nothing_is_adopted_that_was_not_sighted(world: World) -> None:
    """A refund that nobody has paid is for the next step to reserve."""
    refund = world.accepted()

    assert world.nonces.adopt(refund, world.chains["local"]) is None
    assert world.stored(refund) == refund


def test_who_was_paid_by_a_forgotten_transaction_is_not_paid_again(
    world: World,
) -> None:
    """The refund adopts transaction and nonce, and is mined from then on (R24)."""
    _reserve(world)
    asked = world.accepted()
    _foreign(world, 1)
    (hash_,) = _foreign(world, 1, calldata(asked))
    world.chain.mine_empty(2)
    _watch(world)

    with capture_logs() as logs:
        adopted = world.nonces.adopt(asked, world.chains["local"])

    assert adopted == world.stored(asked)
    assert adopted.status is Status.MINED
    assert (adopted.nonce, adopted.tx_hash) == (1, hash_)
    assert (adopted.sender, adopted.key_id, adopted.gas_limit) == (
        world.signer.address,
        world.signer.key_id,
        21_000,
    )
    assert (adopted.block_number, adopted.block_hash) == (
        2,
        world.chain._blocks[2].hash,
    )
    assert [(entry["event"], entry["nonce"]) for entry in logs] == [
        ("refund-adopted", 1)
    ]


def test_a_payment_whose_nonce_another_refund_has_is_refused(world: World) -> None:
    """It cannot be adopted, and must not be paid: it was already (R24)."""
    holder, asked = world.broadcast(), world.accepted()
    (hash_,) = _foreign(world, 1, calldata(asked))
    world.chain.mine_empty(2)
    failed = world.step(holder)

    refused = world.step(asked)

    assert failed.failure_code == "nonce-taken"
    assert refused.status is Status.REFUSED
    assert refused.failure_code == "already-paid"
    assert hash_ in str(refused.failure_detail)
    assert refused.nonce is None


def test_who_is_paid_meanwhile_gets_no_nonce(world: World) -> None:
    """A sighting between the look for one and the reservation stops it (R24)."""
    _paid(world)
    asked = world.accepted()
    _foreign(world, 1, calldata(asked))
    world.chain.mine_empty(2)
    _watch(world)

    with pytest.raises(StaleStateError):
        _reserve(world, asked)
    assert world.stored(asked) == asked


def test_a_silent_chain_gives_out_nothing(world: World) -> None:
    """Without the chain's count no nonce is safe (R13)."""
    refund = world.accepted()
    world.chain.fail("pending_count", ChainUnavailableError("gone"))

    with pytest.raises(ChainUnavailableError):
        _reserve(world, refund)
    assert world.stored(refund) == refund


def test_a_wallet_does_not_resume_over_a_nonce_that_was_lost(world: World) -> None:
    """
    While an open refund's nonce is used by something unknown, nobody is paid.

    That may be a refund which the ledger forgot: it must be sighted before its
    client asks for it again.
    """
    lost = _reserve(world)
    _foreign(world, 2)
    world.chain.mine_empty(2)
    standing = _watch(world)

    with pytest.raises(WalletPausedError, match=f"nonce 0 of refund {lost.id} is used"):
        _resume(world, standing)
    world.clock.advance(seconds=60)
    world.worker.work()
    _resume(world, world.wallets.standing(world.chains["local"], world.signer.address))

    assert world.stored(lost).failure_code == "nonce-taken"
    assert _wallet(world).paused_by is None


def test_what_the_chain_has_of_ours_is_not_contested(world: World) -> None:
    """Mined and not tracked yet, tracked and not final: neither holds the wallet."""
    tracked = world.broadcast()
    world.chain.mine()
    world.tracker.track()
    world.broadcast()
    world.chain.mine()
    (wallet,) = world.store.wallets()
    world.store.pause(wallet, Pause.CHAIN_AHEAD, world.clock())

    standing = _watch(world)

    assert world.stored(tracked).status is Status.MINED
    assert standing.wallet.paused_by is None


def test_an_adopted_refund_is_not_contested(world: World) -> None:
    """It is mined by a transaction of which the ledger has no bytes (R24)."""
    _paid(world)
    asked = world.accepted()
    _foreign(world, 1, calldata(asked))
    world.chain.mine_empty(2)
    _watch(world)
    assert world.step(asked).status is Status.MINED
    (wallet,) = world.store.wallets()
    world.store.pause(wallet, Pause.CHAIN_AHEAD, world.clock())

    assert _watch(world).wallet.paused_by is None


def test_a_nonce_that_waits_in_the_pool_is_not_used(world: World) -> None:
    """Only what blocks hold is held against an open refund."""
    world.broadcast()
    (wallet,) = world.store.wallets()
    world.store.pause(wallet, Pause.CHAIN_AHEAD, world.clock())

    assert _watch(world).wallet.paused_by is None


def test_who_stops_a_network_is_asked_last(world: World) -> None:
    """A nonce that is about to be given out is not, once the switch is off (R27)."""
    refund = world.accepted()
    nonces = world.nonces
    active = nonces.payer(refund)
    counted = nonces.agreed(world.chains["local"], active.key.address)
    intent = active.signer.intent(purpose_of(refund, ACTOR))
    world.store.stop(world.network.chain_id, world.clock())

    with pytest.raises(WalletPausedError, match="operator"):
        nonces.reserve(
            refund,
            60_000,
            world.chains["local"],
            counted=counted,
            active=active,
            intent=intent,
        )
    assert world.stored(refund) == refund


def _rotated(world: World) -> Signer:
    other = signer_over(honest(coincurve.PrivateKey.from_int(99)))
    world.others = (other,)
    made_active(world.store, key_at(other.address))
    return other


def test_what_a_former_key_sent_must_be_known(world: World) -> None:
    """A restored ledger may have forgotten what its wallet paid (R24, O6)."""
    _paid(world)
    other = _rotated(world)
    first = world.step(world.accepted())
    _foreign(world, 1)

    with pytest.raises(WalletPausedError, match="former key"):
        world.step(world.accepted())
    assert first.sender == other.address


def test_a_former_key_that_never_paid_is_no_trouble(world: World) -> None:
    """It has no wallet on this network, and so nothing to be forgotten (O4)."""
    assert world.ring.active().key.address == world.signer.address
    other = _rotated(world)

    assert world.step(world.accepted()).sender == other.address


def test_a_key_that_left_the_ring_adopts_nothing(world: World) -> None:
    """What it paid is paid, and waits for whoever puts the key back (O4)."""
    _paid(world)
    refund = world.accepted()
    sender = signer_over(STRANGER).address
    foreign = replace(_sighted(world, refund), sender=sender)
    world.store.open_wallet(Wallet(refund.chain_id, sender, 0, 0))
    wallet = world.store.wallet(refund.chain_id, sender)
    assert wallet is not None
    world.store.sight(wallet, [foreign])

    with pytest.raises(StaleStateError, match="ring"):
        world.nonces.adopt(refund, world.chains["local"])


STRANGER = honest(coincurve.PrivateKey.from_int(77))


def _sighted(world: World, refund: Refund) -> UnrecordedTransaction:
    return UnrecordedTransaction(
        chain_id=refund.chain_id,
        sender=world.signer.address,
        nonce=0,
        tx_hash="0x1",
        mark=refund.mark,
        gas_limit=1,
        block_number=1,
        block_hash="0x2",
        seen_at=world.clock(),
    )
