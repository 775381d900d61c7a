"""What is left at a former key's address is moved, once, by the way of refunds."""

import coincurve
import pytest

from signer.audit.record import Operation
from signer.errors import ConflictError, KeyUnusableError, PolicyViolationError
from signer.keys import KeyState
from signer.ports import Call
from signer.refunds.payment import purpose_of
from signer.refunds.policy import check_coin
from signer.refunds.refund import COIN, Refund, Status
from signer.refunds.sweep import Sweeper
from signer.transactions import LegacyTransaction, SignedBytes
from tests.fixtures.scripted_chain import DECIMALS
from tests.support.devices import honest, recording, signer_over
from tests.support.keys import key_at, made_active
from tests.support.refunds import ACTOR, World, altered


NEW = signer_over(honest(coincurve.PrivateKey.from_int(99)))
COINS = 10**18
TOKENS = 7 * 10**DECIMALS


class Left:
    """What the former address still holds, which a sweep takes away."""

    def __init__(self) -> None:
        self.tokens = TOKENS
        self.coins = COINS


@pytest.fixture
def left(world: World) -> Left:
    """A wallet that was rotated away from, and what it left behind."""
    holding = Left()
    world.others = (NEW,)

    def call(call: Call) -> bytes:
        tokens: int = holding.tokens
        return tokens.to_bytes(32, "big")

    world.client = altered(
        world.chain, call=call, balance=lambda address: holding.coins
    )
    world.step(world.accepted(), times=3)
    world.mine_deep()
    world.tracker.track()
    world.tracker.track()
    made_active(world.store, key_at(NEW.address))
    return holding


def _sweeper(world: World) -> Sweeper:
    return Sweeper(
        world.store,
        world.store,
        world.ring,
        world.chains,
        audit=recording()[0],
        clock=world.clock,
    )


def _swept(world: World) -> list[Refund]:
    return list(_sweeper(world).sweep(world.signer.address, ACTOR))


def test_tokens_go_first(world: World, left: Left) -> None:
    """The coin waits for them, since they need it for gas."""
    tokens, coin = _sweeper(world).plan(world.signer.address)

    assert (tokens.symbol, tokens.whole, tokens.waits_for) == ("TUSD", "7.000000", None)
    assert coin.symbol == COIN
    assert coin.waits_for is not None
    assert 0 < coin.amount < COINS


def test_a_plan_moves_nothing(world: World, left: Left) -> None:
    """To look is free."""
    _sweeper(world).plan(world.signer.address)

    assert not world.chain.pool
    assert world.store.claim(world.clock(), world.clock(), 10) == ()


def test_tokens_are_moved_by_the_former_key(world: World, left: Left) -> None:
    """To the active one's address, and confirmed like a refund."""
    (swept,) = _swept(world)

    sent = world.step(swept, times=3)
    world.mine_deep()
    world.tracker.track()
    done = world.tracked(sent)

    assert (sent.sender, sent.recipient) == (world.signer.address, NEW.address)
    assert (done.status, done.amount) == (Status.CONFIRMED, TOKENS)


def test_the_coin_goes_last(world: World, left: Left) -> None:
    """Its transaction calls nothing, and carries all but what fees may take."""
    left.tokens = 0
    (swept,) = _swept(world)

    sent = world.step(swept, times=3)
    transaction = SignedBytes.decode(world.sent(sent).raw).transaction
    world.mine_deep()
    world.tracker.track()

    assert (transaction.to, transaction.data) == (NEW.address, b"")
    assert transaction.value == swept.amount
    assert transaction.value + transaction.gas * transaction.max_fee_per_gas <= COINS
    assert world.tracked(sent).status is Status.CONFIRMED


def test_two_who_sweep_move_it_once(world: World, left: Left) -> None:
    """The second finds what the first has accepted, before it has a nonce and after."""
    (first,) = _swept(world)
    (again,) = _swept(world)
    world.step(first)

    assert again == first
    with pytest.raises(ConflictError, match="open"):
        _swept(world)


def test_nothing_is_left_of_dust(world: World, left: Left) -> None:
    """What is not worth its own fee stays where it is."""
    left.tokens, left.coins = 0, 21_000

    assert _sweeper(world).plan(world.signer.address) == []
    assert _swept(world) == []


def test_a_retired_key_may_be_swept(world: World, left: Left) -> None:
    """It signs nothing else, and its last nonce was final."""
    world.worker.work()
    ring = world.store.keys()
    (swept,) = _swept(world)

    assert ring[1].state is KeyState.RETIRED
    assert world.step(swept, times=3).status is Status.BROADCAST


def test_the_active_key_is_not_swept(world: World, left: Left) -> None:
    """Nor is an address that the ring does not know."""
    for address in (NEW.address, "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"):
        with pytest.raises(KeyUnusableError):
            _sweeper(world).plan(address)


def test_a_sweep_counts_against_no_limit(world: World, left: Left) -> None:
    """It pays nobody."""
    left.tokens = 2000 * 10**DECIMALS  # A refund may pay 1000.
    (swept,) = _swept(world)

    assert world.step(swept).status is Status.RESERVED


def test_a_sweep_needs_no_excuse(world: World, left: Left) -> None:
    """Whoever asks why it stands where it stands is told so, and of no rule."""
    (swept,) = _swept(world)

    assert world.explainer.explain(swept).policy is None
    assert purpose_of(swept, ACTOR).operation is Operation.KEY_SWEEP


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"value": 1}, "value"),
        ({"to": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"}, "recipient"),
        ({"data": b"\0"}, "calldata"),
        ({"gas": 21_001}, "gas"),
        ({"nonce": 9}, "nonce"),
        ({"chain_id": 1}, "chain-id"),
    ],
)
def test_other_bytes_than_the_sweeps_are_not_signed(
    world: World, left: Left, changes: dict[str, object], rule: str
) -> None:
    """Each field of a coin's transaction is the row's, or the device is not asked."""
    left.tokens = 0
    (swept,) = _swept(world)
    reserved = world.step(swept)
    fields = {
        "chain_id": reserved.chain_id,
        "nonce": reserved.nonce,
        "gas_price": 1,
        "gas": reserved.gas_limit,
        "to": reserved.recipient,
        "value": reserved.amount,
        "data": b"",
    }
    transaction = LegacyTransaction(**{**fields, **changes})  # type: ignore[arg-type]

    with pytest.raises(PolicyViolationError) as refused:
        check_coin(transaction, reserved, world.network)

    assert refused.value.rule == rule
