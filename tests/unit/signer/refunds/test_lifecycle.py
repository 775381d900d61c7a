"""Steps of a refund from acceptance to broadcast."""

from dataclasses import replace
from datetime import timedelta

import pytest

from signer.alerts import Alert
from signer.errors import (
    BackendUnavailableError,
    BroadcastRejectedError,
    ChainUnavailableError,
    ConfigurationError,
    GasLimitError,
    HotWalletError,
    InsufficientFundsError,
    KeyUnusableError,
    LimitReachedError,
    RowNotAuthenticError,
    StaleStateError,
)
from signer.model.payment import PaymentState
from signer.model.refund import Refund, Status
from signer.model.transaction import CLAIM_TIME, Kind, Transaction
from signer.ports.refund_store import Change
from signer.refunds.first_signatures import SIMULATION_VALID_FOR
from signer.refunds.saved_steps import MAX_RETRY_DELAY, REBROADCAST_AFTER
from tests.fixtures.ledger import forge, save
from tests.fixtures.scripted_chain import Sent
from tests.support.refunds import (
    AMOUNT,
    CUSTOMER,
    SECOND,
    World,
    altered_chain,
    refused,
)


def test_a_refund_is_paid_once_in_five_steps(world: World) -> None:
    """Workers take three steps; a mined or final refund has no further step."""
    refund = world.accepted()

    reserved = world.step(refund)
    signed = world.step(reserved)
    assert world.chain.broadcasts == []  # The bytes are stored first (R25).
    assert world.sent(signed).tx_hash == signed.tx_hash
    broadcast = world.step(signed)
    world.chain.mine()
    mined = world.tracked(broadcast)
    world.chain.mine_empty(2)
    confirmed = world.tracked(mined)

    assert reserved.status is Status.RESERVED
    assert (reserved.sender, reserved.nonce) == (world.signer.address, 0)
    assert (reserved.key_id, reserved.gas_limit) == (world.signer.key_id, 62_500)
    assert signed.status is Status.SIGNED
    assert broadcast.status is Status.BROADCAST
    assert mined.status is Status.MINED
    assert (mined.block_number, mined.reserved().block_hash) == (
        1,
        world.chain.receipt(str(mined.tx_hash)).block.hash,  # type: ignore[union-attr]
    )
    assert confirmed.status is Status.CONFIRMED
    assert confirmed.tx_hash == signed.tx_hash
    assert confirmed.failure_code is None
    assert world.lifecycle.step(mined) is mined
    assert world.lifecycle.step(confirmed) is confirmed
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]
    assert [move.status for move in world.store.history(refund.id)] == [
        Status.QUEUED,
        Status.RESERVED,
        Status.SIGNED,
        Status.BROADCAST,
        Status.MINED,
        Status.CONFIRMED,
    ]


def test_a_transfer_that_would_revert_costs_no_nonce(world: World) -> None:
    """A wallet that holds exactly the amount is not empty."""
    world.chain.balance_left = AMOUNT
    world.chain.revert = "Pausable: paused"
    refused = world.step(world.accepted())
    world.chain.revert = None

    assert refused.status is Status.REFUSED
    assert (refused.failure_code, refused.failure_detail) == (
        "execution-reverted",
        "Pausable: paused",
    )
    assert refused.nonce is None
    assert world.step(world.accepted()).nonce == 0


@pytest.mark.parametrize("steps", [0, 1])
def test_an_empty_wallet_delays_the_refund(world: World, steps: int) -> None:
    """It waits for a top-up of the token, and becomes no no-op (R13)."""
    refund = world.step(world.accepted(), times=steps)
    world.clock.now += SIMULATION_VALID_FOR * 2
    world.chain.balance_left = refund.amount - 1
    world.chain.revert = "balance too low"

    with pytest.raises(InsufficientFundsError):
        world.step(refund)
    world.chain.balance_left = refund.amount
    world.chain.revert = None

    assert world.stored(refund) == refund
    signed = world.step(refund, times=2 - steps)
    assert (signed.status, signed.nonce) == (Status.SIGNED, 0)
    assert world.sent(signed).kind is Kind.TRANSFER


def test_a_huge_gas_estimate_gets_no_nonce(world: World) -> None:
    """An estimate above the token's ``max_gas`` delays the refund."""
    refund = world.accepted()
    largest = world.network.tokens["TUSD"].max_gas
    world.chain.gas = largest + 1

    with pytest.raises(GasLimitError, match="2000001 gas"):
        world.step(refund)

    assert world.stored(refund) == refund
    world.chain.gas = largest  # The margin stays within the limit, too.
    signed = world.step(refund, times=2)
    assert (signed.status, signed.gas_limit) == (Status.SIGNED, largest)


@pytest.mark.parametrize(
    ("steps", "method"),
    [
        (0, "estimate_gas"),
        (0, "pending_count"),
        (1, "fees"),
        (2, "broadcast"),
        (3, "transaction_count"),
        (3, "broadcast"),
    ],
)
def test_an_unreachable_node_changes_nothing(
    world: World, steps: int, method: str
) -> None:
    """The refund keeps its status, and the next try continues (R13)."""
    refund = world.step(world.accepted(), times=steps)
    world.chain.fail(method, ChainUnavailableError("no node answered"))

    with pytest.raises(ChainUnavailableError):
        world.step(refund)

    assert world.stored(refund) == refund
    assert world.step(refund).revision == refund.revision + 1


def test_a_network_that_was_removed_stops_its_refunds_only(world: World) -> None:
    """Its refunds wait for an operator, and the error names the network."""
    refund = world.accepted()
    lifecycle = world.lifecycle
    lifecycle._chains = {}

    with pytest.raises(ConfigurationError, match="network"):
        lifecycle.step(refund)

    assert world.stored(refund) == refund


@pytest.mark.parametrize("steps", range(4))
@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (None, "token"),
        ({"address": CUSTOMER}, "token"),
        ({"max_amount": "1"}, "max-amount"),
    ],
)
def test_what_the_networks_file_does_not_allow_waits(
    world: World, steps: int, change: dict[str, str] | None, rule: str
) -> None:
    """
    The file may have changed since, or another party may have changed the row.

    Nothing is signed or broadcast in any status.  The refund continues when file and
    row agree again.
    """
    refund = world.step(world.accepted(), times=steps)
    asked = dict(world.chain.calls)
    allowed = world.network
    token = allowed.tokens["TUSD"].model_copy(update=change)
    tokens = {"OTHER": token} if change is None else {"TUSD": token}
    world.network = allowed.model_copy(update={"tokens": tokens})
    with refused(rule):
        world.step(refund)
    assert world.stored(refund) == refund
    assert dict(world.chain.calls) == asked
    world.network = allowed
    assert world.step(refund).revision == refund.revision + 1


def test_concurrent_steps_pay_once(world: World) -> None:
    """The second reservation, signature and move are stale (R6)."""
    refund = world.accepted()

    for _ in range(3):
        after = world.step(refund)
        with pytest.raises(StaleStateError):
            world.lifecycle.step(refund)

        assert world.stored(refund) == after
        refund = after

    world.chain.mine()
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


@pytest.mark.parametrize(
    ("age", "repeated"),
    [
        (timedelta(0), 0),
        (SIMULATION_VALID_FOR, 0),
        (SIMULATION_VALID_FOR + timedelta(seconds=1), 1),
        (-timedelta(seconds=1), 1),
    ],
)
def test_an_old_simulation_is_repeated(
    world: World, age: timedelta, repeated: int
) -> None:
    """A simulation is trusted for ten seconds; the nonce stays in any case."""
    reserved = world.step(world.accepted())
    world.clock.now += age
    simulated = world.chain.calls["estimate_gas"]

    signed = world.step(reserved)

    assert world.chain.calls["estimate_gas"] == simulated + repeated
    assert world.sent(signed).kind is Kind.TRANSFER
    assert (signed.nonce, signed.failure_code) == (0, None)


def test_a_transfer_that_would_revert_becomes_a_noop(world: World) -> None:
    """The no-op uses the nonce, and the refund fails once it is final (R14)."""
    reserved = world.step(world.accepted())
    following = world.step(world.accepted(), times=3)
    world.clock.now += SIMULATION_VALID_FOR * 2
    world.chain.revert = "Blocked: recipient"

    refund = world.step(reserved, times=2)
    sent = world.sent(refund)
    world.chain.mine()
    mined = world.tracked(refund)

    assert (refund.status, mined.status) == (Status.BROADCAST, Status.MINED)
    assert (sent.kind, sent.nonce, sent.gas_limit) == (Kind.NOOP, 0, 21_000)
    assert (Sent.read(sent.raw).to, Sent.read(sent.raw).data) == (sent.sender, b"")
    world.chain.mine_empty(2)
    failed = world.tracked(refund)
    assert failed.status is Status.FAILED
    assert (failed.failure_code, failed.failure_detail) == (
        "execution-reverted",
        "Blocked: recipient",
    )
    assert world.stored(following).status is Status.CONFIRMED
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_a_lost_reply_is_not_a_failure(world: World) -> None:
    """The node has the bytes but did not answer; the same bytes are sent again (R7)."""
    signed = world.step(world.accepted(), times=2)
    world.chain.lose_reply(ChainUnavailableError("no answer"))

    with pytest.raises(ChainUnavailableError):
        world.step(signed)
    broadcast = world.step(signed)

    assert broadcast.status is Status.BROADCAST
    assert len(world.chain.broadcasts) == 2
    assert len(set(world.chain.broadcasts)) == 1
    world.chain.mine()
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_bytes_that_are_mined_already_are_not_rejected(world: World) -> None:
    """ "Nonce too low" may mean that our own transaction is in a block (R9)."""
    signed = world.step(world.accepted(), times=2)
    world.chain.broadcast(world.sent(signed).raw)
    world.chain.mine()

    broadcast = world.step(signed)
    mined = world.tracked(broadcast)

    assert broadcast.status is Status.BROADCAST
    assert mined.status is Status.MINED
    assert mined.tx_hash == signed.tx_hash
    assert len(world.store.transactions(signed.id)) == 1


@pytest.mark.parametrize("reason", ["nonce-too-low", "underpriced"])
def test_a_used_nonce_is_not_replaced(world: World, reason: str) -> None:
    """The refund is tracked with its only nonce and hash; no other is tried (R9)."""
    signed = world.step(world.accepted(), times=2)
    world.chain.fail("broadcast", BroadcastRejectedError("no", reason=reason))

    broadcast = world.step(signed)

    assert broadcast.status is Status.BROADCAST
    assert (broadcast.nonce, broadcast.tx_hash) == (0, signed.tx_hash)


def test_a_step_keeps_the_claim(world: World) -> None:
    """Each move claims the refund for a while; a broadcast one is due after 30 s."""
    refund = world.accepted()

    for _ in range(2):
        refund = world.step(refund)

        assert refund.moving.due_at == world.clock() + CLAIM_TIME
    assert world.step(refund).moving.due_at == world.clock() + REBROADCAST_AFTER


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(0, 1), (1, 2), (4, 16), (5, 30), (10**9, 30)]
)
def test_the_delay_doubles_with_each_failure(
    world: World, attempts: int, seconds: int
) -> None:
    """It is 30 s at most, and the error code is stored (R11)."""
    _assert_delay(world, attempts, KeyUnusableError("disabled"), seconds)
    assert timedelta(seconds=30) == MAX_RETRY_DELAY


@pytest.mark.parametrize(
    "error", [ChainUnavailableError("gone"), BackendUnavailableError("gone")]
)
@pytest.mark.parametrize(("attempts", "seconds"), [(0, 1), (2, 4), (3, 5), (10**9, 5)])
def test_the_delay_is_short_during_an_outage(
    world: World, error: HotWalletError, attempts: int, seconds: int
) -> None:
    """Nodes or device did not answer: the refund is tried soon after they do."""
    _assert_delay(world, attempts, error, seconds)


def _assert_delay(
    world: World, attempts: int, error: HotWalletError, seconds: int
) -> None:
    refund = world.accepted()
    failing = replace(refund, version=1, attempts=attempts)
    save(world.store, refund, failing)

    assert world.lifecycle.postpone([(failing, error)]) == [None]
    after = world.stored(refund)

    assert after.moving.due_at == world.clock() + timedelta(seconds=seconds)
    assert (after.attempts, after.blocked_by) == (attempts + 1, error.code)


def test_a_rotation_during_reservation_uses_the_new_key(world: World) -> None:
    """The reservation is repeated with the new key (O5)."""
    world.step(world.accepted())

    def rotated(address: str) -> int:
        world.rotate()
        return world.chain.pending_count(address)

    world.client = altered_chain(world.chain, pending_count=rotated)

    refund = world.step(world.accepted())

    assert (refund.sender, refund.nonce) == (SECOND.address, 0)


def test_an_unsigned_refund_of_a_revoked_key_is_queued_again(world: World) -> None:
    """It gets a nonce of the new address (O8)."""
    reserved, sent = world.step(world.accepted()), world.broadcast()
    former = world.signer.address
    world.rotate(block=True)

    queued = world.stored(reserved)
    paid = world.step(queued, times=3)

    assert (queued.status, queued.nonce, queued.sender) == (Status.QUEUED, None, None)
    assert (paid.status, paid.sender) == (Status.BROADCAST, SECOND.address)
    assert world.stored(sent) == sent
    assert world.store.stranded(former, 10) == (sent.id,)


def test_a_signature_during_a_revocation_is_dropped(world: World) -> None:
    """The bytes are neither recorded nor broadcast (O8)."""
    process = world.lifecycle
    reserved = process.step(world.accepted())
    world.rotate(block=True)

    with pytest.raises(StaleStateError):
        process.step(reserved)

    assert world.store.transactions(reserved.id) == ()
    assert not world.chain.pool


def test_a_revoked_key_signs_no_replacement(world: World) -> None:
    """
    Its transaction may be mined, and its fees are not raised; an operator decides (O8).
    """
    refund = world.broadcast()
    world.rotate(block=True)
    world.clock.advance(seconds=world.network.stuck_after_seconds)

    with pytest.raises(KeyUnusableError, match="blocked"):
        world.step(refund)

    assert world.stored(refund) == refund


def test_a_refund_over_a_spending_limit_waits(world: World) -> None:
    """It gets no nonce until the hour's spending allows it again (R27)."""
    world.change_token(hourly_limit="12.5")
    world.broadcast()
    refund = world.accepted()

    with pytest.raises(LimitReachedError, match="hourly_limit"):
        world.step(refund)
    world.work()
    blocked = world.blocked(refund)
    world.work(after=timedelta(hours=1))

    assert blocked == (Status.QUEUED, "limit-reached")
    assert world.stored(refund).status is Status.BROADCAST
    assert world.stored(refund).nonce == 1


def _point(world: World, other: Refund, nonce: int) -> None:
    """Let another program point *other* to the transaction with *nonce*."""
    forge(
        world.store,
        f"UPDATE refunds SET state = 'assigned', sender = '{world.signer.address}',"
        f" nonce = {nonce}, position = 1 WHERE id = '{other.id}'",
    )


def test_a_stranger_is_reported_and_not_paid(world: World) -> None:
    """The transaction goes on with its own refund, also when it is tracked."""
    refund, other = world.step(world.accepted()), world.accepted(amount="7.00")
    _point(world, other, 0)
    found = world.found(0)

    (paid,) = world.finish(refund)

    assert [each.id for each in found.payments] == [refund.id]
    assert [each.id for each in found.strangers] == [other.id]
    assert paid.status is Status.CONFIRMED
    assert world.store.get(other.id) is not None
    assert world.stored(other).state is PaymentState.ASSIGNED
    assert len(world.chain.payouts()) == 1
    assert world.store.alert_counts()[str(Alert.ROW_CHANGED)] >= 1


def test_a_transaction_of_other_refunds_is_not_authentic(world: World) -> None:
    """No first part of them has its digest."""
    refund, other = world.step(world.accepted()), world.accepted()
    own = world.found(0)
    taken = own.paying_own([replace(other, position=0), refund])

    assert len(taken.payments) == 2
    with pytest.raises(RowNotAuthenticError):
        world.store.require_authentic(taken)


def test_a_refund_that_another_program_ended_is_not_paid(world: World) -> None:
    """A transaction would still pay it."""
    reserved = world.step(world.accepted()).reserved()
    ended = replace(reserved.payment, state=PaymentState.FAILED)

    (outcome,) = world.lifecycle.step_all([reserved.paying([ended])])

    assert isinstance(outcome, RowNotAuthenticError)
    assert world.chain.broadcasts == []


def test_an_ended_refund_does_not_follow(world: World) -> None:
    """Nor does it keep its transaction from its end."""
    sent = world.broadcast().reserved()
    ended = replace(sent.payment, state=PaymentState.FAILED)
    mined = replace(sent.paying([ended]), block_number=1, block_hash="0x1")

    moved = mined.with_status(type(mined.status)("mined"), world.clock())

    assert [each.state for each in moved.payments] == [PaymentState.FAILED]


def test_a_change_of_a_refund_has_no_transaction(world: World) -> None:
    refund = world.accepted()
    later = refund.with_due_at(world.clock())

    with pytest.raises(TypeError):
        _ = Change(refund, later).transactions


def test_a_transaction_has_names_for_logs(world: World) -> None:
    """The refund that it pays alone, or its nonce."""
    alone = world.step(world.accepted()).reserved()
    several = alone.paying([alone.payment, alone.payment])

    assert alone.names == {"refund_id": alone.payment.id}
    assert several.names == {"transaction": several.id}
    with pytest.raises(ValueError, match="too many"):
        _ = several.payment
    assert isinstance(several, Transaction)
