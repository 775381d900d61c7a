"""Sweeps of former keys' addresses: plan, order, audit and numbering."""

from collections.abc import Sequence
from typing import Any

import pytest
import structlog

from signer.audit.log import AuditLog
from signer.crypto.transactions import LegacyTransaction, SignedBytes
from signer.errors import (
    ConflictError,
    HotWalletError,
    InvalidInputError,
    PolicyViolationError,
    StoreUnavailableError,
)
from signer.model.acceptance import Acceptance
from signer.model.audit_record import Operation
from signer.model.key import KeyState
from signer.model.refund import COIN, OPERATOR, Refund, Status
from signer.ports.chain import Fees
from signer.refunds.payment_checks import check_coin
from signer.refunds.transaction_signer import build_purpose
from tests.fixtures.ledger import save, step_to
from tests.fixtures.scripted_chain import DECIMALS
from tests.support.devices import recording
from tests.support.other_payments import (
    COINS,
    TOKENS,
    Left,
    rolled_back,
    sweeper,
    swept,
)
from tests.support.refunds import ACTOR, SECOND, THIRD, World, altered


def test_tokens_are_moved_first(world: World, left: Left) -> None:
    """The coin waits, since the tokens need it for gas."""
    tokens, coin = sweeper(world).plan(world.signer.address)

    assert (tokens.symbol, tokens.display_amount, tokens.waits_for) == (
        "TUSD",
        "7.000000",
        None,
    )
    assert coin.symbol == COIN
    assert coin.waits_for is not None
    assert 0 < coin.amount < COINS


def test_a_plan_changes_nothing(world: World, left: Left) -> None:
    sweeper(world).plan(world.signer.address)

    assert not world.chain.pool
    assert world.store.claim(world.clock(), world.clock(), 10) == ()


def test_earlier_sweeps_of_an_address_are_found_on_every_page(
    world: World, left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of another address are not among them."""
    monkeypatch.setattr("signer.refunds.sweep._PAGE", 1)
    (tokens,) = swept(world)
    world.step(tokens, times=3)
    world.settle()
    left.tokens = 0
    (coin,) = swept(world)
    planner = sweeper(world)._planner

    found = {each.id for each in planner._past_sweeps(world.signer.address)}
    assert found == {tokens.id, coin.id}
    assert [*planner._past_sweeps(SECOND.address)] == []


def test_tokens_are_moved_by_the_former_key(world: World, left: Left) -> None:
    """They go to the active key's address, and are confirmed like a refund."""
    (row,) = swept(world)

    sent = world.step(row, times=3)
    world.settle()
    done = world.stored(sent)

    assert (sent.sender, sent.recipient) == (world.signer.address, SECOND.address)
    assert (done.status, done.amount) == (Status.CONFIRMED, TOKENS)


def test_the_coin_is_moved_last(world: World, left: Left) -> None:
    """Its transaction has no calldata, and leaves only the fee margin."""
    left.tokens = 0
    (row,) = swept(world)

    sent = world.step(row, times=3)
    transaction = SignedBytes.decode(world.sent(sent).raw).transaction
    world.settle()

    assert (transaction.to, transaction.data) == (SECOND.address, b"")
    assert transaction.value == row.amount
    assert transaction.value + transaction.gas * transaction.max_fee_per_gas <= COINS
    assert world.stored(sent).status is Status.CONFIRMED


def test_where_a_vault_holds_the_tokens_only_the_coin_moves(
    world: World, left: Left
) -> None:
    """The coin waits for no token, except for one that was on its way before."""
    (moving,) = swept(world)
    world.network = world.network.model_copy(update={"vault": THIRD.address})
    tokens, waiting = sweeper(world).plan(world.signer.address)
    world.step(moving, times=3)
    world.settle()
    (coin,) = sweeper(world).plan(world.signer.address)

    assert (tokens.refund and tokens.refund.id) == moving.id
    assert waiting.waits_for is not None
    assert left.tokens > 0
    assert (coin.symbol, coin.waits_for) == (COIN, None)


def test_a_token_that_is_the_coin_moves_with_it(world: World, left: Left) -> None:
    """A transfer of all of it would leave no gas, and revert each time."""
    world.network = world.network.model_copy(update={"coin_is": "TUSD"})

    (coin,) = sweeper(world).plan(world.signer.address)

    assert left.tokens > 0
    assert (coin.symbol, coin.waits_for) == (COIN, None)


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_repeated_sweep_moves_assets_once(
    world: World, left: Left, steps: int
) -> None:
    """The second returns what the first accepted, also hours later at other fees."""
    left.tokens = 0
    (first,) = swept(world)
    world.step(first, times=steps)
    world.clock.advance(hours=5)
    left.coins += 1
    world.chain.answers = Fees(2 * 10**9, 10**8)
    (again,) = swept(world)

    assert (again.id, again.amount) == (first.id, first.amount)
    assert len(world.store.list(OPERATOR).refunds) == 1


def test_concurrent_sweeps_move_assets_once(world: World, left: Left) -> None:
    """They read different balances and rings; the first one decides."""
    left.tokens = 0
    rows: list[Refund] = []

    def accept_all(new: Sequence[Acceptance]) -> Sequence[Any]:
        world.store = store
        left.coins += 1
        world.rotate(THIRD)
        rows.extend(swept(world))
        return store.accept_all(new)

    store = world.store
    world.store = altered(store, accept_all=accept_all)
    rows.extend(swept(world))

    assert rows[0] == rows[1]
    assert rows[0].recipient == THIRD.address
    assert len(store.list(OPERATOR).refunds) == 1


def test_later_deposits_get_a_second_sweep(world: World, left: Left) -> None:
    """What comes in later is moved by a sweep of its own."""
    (first,) = swept(world)
    world.step(first, times=3)
    world.settle()
    left.tokens = 5
    (second,) = swept(world)

    assert world.stored(first).status is Status.CONFIRMED
    assert (second.status, second.amount) == (Status.QUEUED, 5)


def test_sweeps_are_numbered(world: World, left: Left) -> None:
    """After a hundred sweeps, the next one has its own reference."""
    left.tokens = 0
    for _ in range(101):
        (row,) = swept(world)
        save(world.store, row, step_to(row, Status.REFUSED, world.clock()))
        world.clock.advance(seconds=1)
    (row,) = swept(world)

    assert row.status is Status.QUEUED


def test_the_coin_waits_for_open_token_sweeps(world: World, left: Left) -> None:
    """They need gas until they are confirmed, though the token balance is zero."""
    (row,) = swept(world)
    world.step(row, times=3)
    left.tokens = 0
    tokens, coin = sweeper(world).plan(world.signer.address)

    assert tokens.refund == world.stored(row)
    assert coin.waits_for is not None


def test_tokens_wait_for_an_open_coin_sweep(world: World, left: Left) -> None:
    """What it leaves for gas is not for them."""
    left.tokens = 0
    (row,) = swept(world)
    left.tokens = 5
    tokens, coin = sweeper(world).plan(world.signer.address)

    assert coin.refund == row
    assert (tokens.refund, tokens.waits_for) == (None, "the sweep of the coin")


def test_open_refunds_prevent_a_sweep(world: World, left: Left) -> None:
    """They need the coin; the error names one of them."""
    rolled_back(world)
    refund = world.step(world.accepted())
    world.rotate()

    with pytest.raises(ConflictError, match=refund.id):
        sweeper(world).plan(world.signer.address)


def test_a_sweep_is_audited(world: World, left: Left) -> None:
    """The intent first; then each accepted sweep, also when repeated."""
    audit, events = recording()
    for _ in range(2):
        sweeper(world, audit).sweep(world.signer.address.lower(), ACTOR)
    (row,) = world.store.list(OPERATOR).refunds

    assert [event["event"] for event in events] == [
        "key-sweep-requested",
        "key-sweep-succeeded",
    ] * 2
    for event in events[1::2]:
        assert (event["outcome"], event["actor"]) == ("success", ACTOR.name)
        assert event["details"]["refund_id"] == row.id
        assert event["details"]["address"] == world.signer.address


@pytest.mark.parametrize(
    ("address", "code"),
    [(SECOND.address, "conflict"), ("1234abcd-12ab-34cd", "invalid-input")],
)
def test_a_refused_sweep_is_audited(
    world: World, left: Left, address: str, code: str
) -> None:
    """The record has no full key id."""
    audit, events = recording()
    with pytest.raises(HotWalletError):
        sweeper(world, audit).sweep(address, ACTOR)

    assert (events[-1]["event"], events[-1]["outcome"]) == ("key-sweep-refused", code)
    assert events[-1]["details"]["address"] in (SECOND.address, "1234abcd...")


def test_nothing_is_accepted_without_an_audit_record(world: World, left: Left) -> None:
    """While the journal cannot be written, nothing is swept."""
    audit = AuditLog(
        structlog.get_logger("audit"),
        journal=altered(world.store, append=StoreUnavailableError("no")),
    )
    with pytest.raises(StoreUnavailableError):
        sweeper(world, audit).sweep(world.signer.address, ACTOR)

    assert world.store.list(OPERATOR).refunds == ()


@pytest.mark.parametrize(
    "address", ["", "0x", "5fbdb2315678afecb367f032d93f642f64180aa3", "alias/x"]
)
def test_a_malformed_address_is_not_swept(
    world: World, left: Left, address: str
) -> None:
    """Nor one with a wrong checksum; lower case has none."""
    whole = world.signer.address
    wrong = "0x" + whole[2:].swapcase()
    for each in (address, wrong):
        with pytest.raises(InvalidInputError):
            sweeper(world).plan(each)
    assert len(sweeper(world).plan(whole.lower())) == 2


def test_dust_is_not_swept(world: World, left: Left) -> None:
    """Coin that is not worth its fee stays where it is."""
    left.tokens, left.coins = 0, 21_000

    assert sweeper(world).plan(world.signer.address) == []
    assert swept(world) == []


def test_a_retired_key_may_be_swept(world: World, left: Left) -> None:
    """It signs nothing else, and its last nonce is final."""
    world.worker.work()
    state = world.key.state
    (row,) = swept(world)

    assert state is KeyState.RETIRED
    assert world.step(row, times=3).status is Status.BROADCAST


def test_the_active_key_is_not_swept(world: World, left: Left) -> None:
    """Nor is an address that is not in the ring."""
    for address in (SECOND.address, "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"):
        with pytest.raises(ConflictError):
            sweeper(world).plan(address)


def test_a_sweep_counts_against_no_limit(world: World, left: Left) -> None:
    """It pays no customer."""
    left.tokens = 2000 * 10**DECIMALS  # A refund may pay 1000.
    (row,) = swept(world)

    assert world.step(row).status is Status.RESERVED


def test_a_sweep_is_explained_without_the_refund_policy(
    world: World, left: Left
) -> None:
    """The rules for refunds do not apply to it."""
    (row,) = swept(world)

    assert world.explainer.explain(row).policy is None
    assert build_purpose(row).operation is Operation.KEY_SWEEP


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"value": 1}, "value"),
        ({"to": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"}, "recipient"),
        ({"data": b"\0"}, "calldata"),
        ({"gas": 21_001}, "gas"),
        ({"gas": 2**24 + 1}, "max-gas"),
        ({"to": None}, "recipient"),
        ({"nonce": 9}, "nonce"),
        ({"chain_id": 1}, "chain-id"),
    ],
)
def test_a_transaction_that_differs_from_the_sweep_is_not_signed(
    world: World, left: Left, changes: dict[str, object], rule: str
) -> None:
    """Each field of a coin transfer is checked before the device is used."""
    left.tokens = 0
    (row,) = swept(world)
    reserved = world.step(row)
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
