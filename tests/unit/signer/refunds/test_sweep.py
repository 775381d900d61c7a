"""Sweeps of former keys' addresses: plan, order, audit, numbering and ends."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
import structlog

from signer.audit.log import AuditLog
from signer.crypto.transactions import LegacyTransaction, SignedBytes
from signer.errors import (
    ConflictError,
    HotWalletError,
    InsufficientFundsError,
    InvalidInputError,
    KeyRotatedError,
    KeyUnusableError,
    SigningStoppedError,
    StoreUnavailableError,
)
from signer.model.acceptance import Acceptance
from signer.model.audit_record import Operation
from signer.model.key import KeyState
from signer.model.refund import COIN, OPERATOR, Refund, Status
from signer.model.transaction import Kind, Transaction
from signer.ports.chain import Fees
from signer.ports.ledger import Ledger
from signer.refunds.payment_checks import check_coin
from signer.refunds.transaction_signer import build_purpose
from tests.fixtures.ledger import refund_page, save, step_to, stopped
from tests.fixtures.scripted_chain import DECIMALS
from tests.support.devices import honest, recording, signer_over
from tests.support.other_payments import (
    COINS,
    TOKENS,
    Left,
    rolled_back,
    sweeper,
    swept,
)
from tests.support.refunds import ACTOR, KEY, SECOND, THIRD, World, altered, refused


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
    left.tokens = 5
    (later,) = swept(world)  # What comes in later has a sweep of its own.
    planner = sweeper(world)

    found = {each.id for each in planner._past_sweeps(world.signer.address)}
    assert found == {tokens.id, later.id}
    assert (later.status, later.amount) == (Status.QUEUED, 5)
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
    assert len(refund_page(world.store, OPERATOR).refunds) == 1


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
    assert len(refund_page(store, OPERATOR).refunds) == 1


def test_sweeps_are_numbered(world: World, left: Left) -> None:
    """After those that have ended, the next one has its own reference."""
    left.tokens = 0
    for _ in range(11):
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
    (row,) = refund_page(world.store, OPERATOR).refunds

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

    assert refund_page(world.store, OPERATOR).refunds == ()


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


def test_what_a_sweep_leaves_is_not_swept_at_lower_fees(
    world: World, left: Left
) -> None:
    """At a quarter of the fees; at a fifth it is worth ten times its own fee."""
    left.tokens = 0
    (row,) = swept(world)
    world.step(row, times=3)
    world.settle()
    left.coins -= row.amount  # Before its own fee.
    plans = []
    for part in (1, 4, 5):
        world.chain.answers = Fees(10**9 // part, 10**8 // part)
        plans.append(sweeper(world).plan(world.signer.address))

    assert plans[:2] == [[], []]
    assert [each.symbol for each in plans[2]] == [COIN]


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

    with refused(rule):
        check_coin(transaction, reserved, world.network)


def _paid_to_second(world: World) -> int:
    return sum(amount for to, amount in world.chain.payouts() if to == SECOND.address)


def _revoke_second(world: World) -> None:
    world.rotate(THIRD, block=True)


def _rotate(world: World) -> None:
    world.rotate(THIRD)


def _roll_back_and_rotate(world: World) -> None:
    rolled_back(world)
    world.rotate(THIRD)


@pytest.mark.parametrize(
    ("change", "steps", "status", "kinds"),
    [
        (_revoke_second, 0, Status.REFUSED, []),
        (_rotate, 1, Status.FAILED, [Kind.NOOP]),
        (_revoke_second, 2, Status.FAILED, [Kind.TRANSFER, Kind.NOOP]),
        (_rotate, 3, Status.FAILED, [Kind.TRANSFER, Kind.NOOP]),
        (rolled_back, 0, Status.REFUSED, []),
        (rolled_back, 3, Status.FAILED, [Kind.TRANSFER, Kind.NOOP]),
        (_roll_back_and_rotate, 1, Status.FAILED, [Kind.NOOP]),
    ],
)
def test_a_sweep_ends_when_the_key_is_rotated(
    world: World,
    left: Left,
    change: Callable[[World], None],
    *,
    steps: int,
    status: Status,
    kinds: list[Kind],
) -> None:
    """A no-op uses its nonce; no address is paid that is no longer active."""
    (row,) = swept(world)
    world.step(row, times=steps)
    sent = len(world.chain.broadcasts)
    change(world)
    (ended,) = world.finish(row)
    after = {SignedBytes.decode(raw) for raw in world.chain.broadcasts[sent:]}

    assert (ended.status, ended.failure_code) == (status, "sweep-outdated")
    assert [each.kind for each in world.store.transactions(row.id)] == kinds
    assert (ended.nonce is None) == (not kinds)
    assert {each.transaction.to for each in after} <= {world.signer.address}
    assert _paid_to_second(world) == 0


def test_a_queued_sweep_ends_while_signing_is_stopped(world: World, left: Left) -> None:
    """It does not wait for `resume` or a node, and so pays no revoked key."""
    (row,) = swept(world)
    stopped(world.store, at=world.clock())
    with pytest.raises(SigningStoppedError):
        world.step(row)
    world.rotate(THIRD, block=True)

    assert world.step(row).failure_code == "sweep-outdated"


def test_a_broadcast_sweep_may_be_mined_before_the_noop(
    world: World, left: Left
) -> None:
    """The mined transaction counts."""
    (row,) = swept(world)
    world.step(row, times=3)
    world.chain.mine()
    world.rotate(THIRD, block=True)
    (ended,) = world.finish(row)

    assert (ended.status, _paid_to_second(world)) == (Status.CONFIRMED, TOKENS)


def test_signed_sweeps_are_stranded_with_their_recipient(
    world: World, left: Left
) -> None:
    """Sweeps to a revoked key that were signed are reported as stranded."""
    (row,) = swept(world)
    for steps in (0, 1):
        world.step(row, times=steps)
        assert world.store.stranded(SECOND.address, 9) == ()
        row = world.stored(row)
    world.step(row)

    assert world.store.stranded(SECOND.address, 9) == (row.id,)
    assert world.store.stranded(THIRD.address, 9) == ()


def test_a_rotation_during_the_reservation_is_noticed(world: World, left: Left) -> None:
    """The transaction that assigns the nonce checks again."""
    (row,) = swept(world)
    store = world.store

    def reserve(*given: Any, **how: Any) -> Sequence[Transaction | HotWalletError]:
        world.rotate(THIRD, block=True)
        return store.reserve_all(*given, **how)

    world.store = altered(store, reserve_all=reserve)
    ended = world.step(row)

    assert (ended.status, ended.failure_code) == (Status.REFUSED, "sweep-outdated")


def test_a_rotation_before_signing_is_noticed(world: World, left: Left) -> None:
    """The commit of the intent checks again, before a device is used."""
    store = world.store

    def append(*given: Any, **how: Any) -> None:
        world.rotate(THIRD, block=True)
        store.append(*given, **how)

    device = honest(KEY)
    journal = altered(store, append=append)
    world.signer = signer_over(
        device, AuditLog(structlog.get_logger("audit"), journal=journal)
    )
    (row,) = swept(world)
    row = world.step(row)
    with pytest.raises(KeyRotatedError):
        world.step(row)

    assert (device.calls, world._known[row.id].intent) == (0, None)
    assert world.step(row).failure_code == "sweep-outdated"
    assert world.sent(row).kind is Kind.NOOP


@pytest.mark.parametrize("steps", [0, 1], ids=["queued", "reserved"])
def test_a_sweep_of_a_blocked_key_ends(world: World, left: Left, steps: int) -> None:
    """O8: it loses its nonce with its key; a new sweep is refused."""
    (row,) = swept(world)
    world.step(row, times=steps)
    world.revoke()
    (ended,) = world.finish(row)

    assert (ended.status, ended.failure_code) == (Status.REFUSED, "sweep-key-blocked")
    assert ended.nonce is None
    with pytest.raises(ConflictError):
        sweeper(world).plan(world.signer.address)


def test_a_sweep_that_a_blocked_key_broadcast_continues(
    world: World, left: Left
) -> None:
    """O8: it pays the active key, and is broadcast again until it is mined."""
    (row,) = swept(world)
    world.step(row, times=3)
    world.revoke()
    (ended,) = world.finish(row)

    assert (ended.status, _paid_to_second(world)) == (Status.CONFIRMED, TOKENS)


def test_a_rotation_under_way_ends_no_sweep(world: World, left: Left) -> None:
    """While the former key is pending its sweep waits."""
    (row,) = swept(world)
    pending = world.store.begin_rotation(world.key, world.clock())
    with pytest.raises(KeyUnusableError):
        world.step(row)
    world.store.reject(pending, "abandoned", world.clock())

    assert world.step(row).status is Status.RESERVED


def test_a_lost_sweep_is_adopted(
    world: World, left: Left, backup: Callable[[], Ledger]
) -> None:
    """After a restore and a rotation, the repeated sweep is found paid."""
    older = backup()
    (row,) = swept(world)
    sent = world.step(row, times=3)
    world.settle()
    world.store = older
    (again,) = swept(world)
    world.reconcile()
    world.rotate(THIRD, block=True)
    found = world.step(again)

    assert (found.status, found.tx_hash) == (Status.MINED, sent.tx_hash)


GWEI = 10**9


def _coin_sweep(world: World, left: Left) -> Refund:
    """Return an accepted coin sweep, which leaves three times its fee."""
    left.tokens = 0
    (row,) = swept(world)
    assert row.token == COIN
    return row


def _maximum_cost(world: World, row: Refund) -> int:
    """Return the most that the latest transaction of *row* may cost."""
    made = SignedBytes.decode(world.sent(row).raw).transaction
    return made.value + made.gas * made.max_fee_per_gas


def _raise_base_fee(world: World, times: int) -> None:
    world.chain.answers = Fees(times * GWEI, 10**8)


def test_an_unaffordable_sweep_gets_no_nonce(world: World, left: Left) -> None:
    """Fees have risen: it ends, and the next one moves less."""
    row = _coin_sweep(world, left)
    _raise_base_fee(world, 8)
    ended = world.step(row)
    (again,) = swept(world)

    assert (ended.status, ended.failure_code) == (Status.REFUSED, "sweep-unaffordable")
    assert ended.nonce is None
    assert again.amount < row.amount
    assert world.step(again).status is Status.RESERVED


@pytest.mark.parametrize("missing", [0, 1])
def test_a_sweep_may_spend_the_whole_balance(
    world: World, left: Left, missing: int
) -> None:
    """With one wei less, it is not signed."""
    row = _coin_sweep(world, left)
    _raise_base_fee(world, 2)
    left.coins = row.amount + 21_000 * 41 * GWEI // 10 - missing
    row = world.step(row)
    if missing:
        assert row.failure_code == "sweep-unaffordable"
        return

    assert _maximum_cost(world, world.step(row)) == left.coins


def test_a_token_sweep_needs_coin_for_gas(world: World, left: Left) -> None:
    """Without it, it gets no nonce, which nothing could use."""
    (row,) = swept(world)
    left.coins = GWEI
    ended = world.step(row)

    assert (ended.status, ended.failure_code) == (Status.REFUSED, "sweep-unaffordable")


def test_a_token_sweep_does_not_wait_for_a_top_up(world: World, left: Left) -> None:
    """A refund waits for one; a sweep moves what was there."""
    (row,) = swept(world)
    left.tokens = 1
    world.chain.revert = "balance too low"
    ended = world.step(row)

    assert (ended.status, ended.failure_code) == (Status.REFUSED, "execution-reverted")
    assert sweeper(world).plan(world.signer.address)[0].refund is None


def test_an_unaffordable_reserved_sweep_becomes_a_noop(
    world: World, left: Left
) -> None:
    """The address can pay for the no-op, and the key is retired."""
    row = _coin_sweep(world, left)
    reserved = world.step(row)
    _raise_base_fee(world, 8)
    signed = world.step(reserved)
    world.step(signed)
    world.settle()
    ended = world.stored(row)

    assert world.sent(row).kind is Kind.NOOP
    assert _maximum_cost(world, row) <= COINS
    assert (ended.status, ended.failure_code) == (Status.FAILED, "sweep-unaffordable")


def test_a_noop_must_be_affordable_too(world: World, left: Left) -> None:
    """Otherwise nothing could use the nonce: the sweep waits for lower fees."""
    row = world.step(_coin_sweep(world, left))
    left.coins = GWEI
    with pytest.raises(InsufficientFundsError):
        world.step(row)
    left.coins = COINS

    assert world.step(row).status is Status.SIGNED


def test_a_noop_for_another_reason_must_be_affordable_too(
    world: World, left: Left
) -> None:
    """A node would reject it, so the sweep waits for lower fees."""
    row = world.step(_coin_sweep(world, left))
    world.rotate(THIRD)  # The sweep may only pay the active key.
    left.coins = GWEI

    with pytest.raises(InsufficientFundsError):
        world.step(row)
    assert world.store.transactions(row.id) == ()
    left.coins = COINS

    assert world.step(row).status is Status.SIGNED
    assert world.sent(row).kind is Kind.NOOP


def test_fees_are_raised_within_the_balance(world: World, left: Left) -> None:
    """Beyond the balance, the same bytes are sent again."""
    row = _coin_sweep(world, left)
    world.step(row, times=3)
    transactions = []
    for times in (2, 8):
        _raise_base_fee(world, times)
        world.clock.advance(seconds=world.network.stuck_after_seconds)
        world.work(timedelta(0))
        transactions.append(len(world.store.transactions(row.id)))

    assert transactions == [2, 2]
    assert _maximum_cost(world, row) <= COINS
    assert world.stored(row).status is Status.BROADCAST


def test_a_waiting_sweep_is_explained(world: World, left: Left) -> None:
    """Before it has a nonce, the former key's wallet is reported."""
    (row,) = swept(world)
    found = world.explainer.explain(row)

    assert found.policy is None  # The rules for refunds do not apply to it.
    assert build_purpose(row).operation is Operation.KEY_SWEEP
    assert found.wallet_status is not None
    assert found.wallet_status.wallet.sender == world.signer.address
