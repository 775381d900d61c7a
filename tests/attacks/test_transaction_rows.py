"""
A thief who can write the rows of transactions, of their payments and their attempts.

The owner of the tables can switch triggers off, and on SQLite that is every program
that can write the file.  A refund is paid once, by its own transaction, or waits.
"""

from collections.abc import Callable

import pytest

from signer.alerts import Alert
from signer.errors import RowNotAuthenticError
from signer.model.payment import PaymentState
from signer.model.refund import Refund, Status
from signer.model.transaction import Transaction, compose
from signer.row_macs import RowMACs
from tests.attacks.theft import QUEUED_AGAIN, RESERVED_AGAIN, THIEF, let_work
from tests.support.refunds import World


Attack = Callable[..., None]

STEPS = {Status.RESERVED: 1, Status.SIGNED: 2, Status.BROADCAST: 3}
"""How many steps a refund takes to each status."""

CODE = "row-not-authentic"


def _paid(world: World) -> set[int]:
    """Return the amounts that were paid, after some minutes; none was paid twice."""
    let_work(world, world.worker)
    amounts = [amount for _, amount in world.chain.payouts()]
    assert len(set(amounts)) == len(amounts)
    return set(amounts)


def _code(world: World, refund: Refund) -> str | None:
    return world.stored(refund).moving.blocked_by


@pytest.mark.parametrize(
    "change",
    [
        "key_id = 'ff'",
        "gas_limit = gas_limit + 1",
        f"composition = '{compose(['rf_thief'])}'",
        pytest.param(
            f"kind = 'filler', composition = '{compose(())}'", id="kind = 'filler'"
        ),
        "created_at = '2026-01-01T00:00:00.000000+00:00'",
        "mac = NULL",
    ],
)
@pytest.mark.parametrize("status", STEPS)
def test_a_changed_transaction(
    world: World, steal: Attack, status: Status, change: str
) -> None:
    """
    Its refund waits, also if the chain makes the payment; later ones go on.

    While it has the highest nonce, no refund gets the next one: no process can
    distinguish it from an invented transaction.
    """
    refund = world.step(world.accepted(), times=STEPS[status])
    other = world.step(world.accepted(amount="7.00"))
    last = world.accepted(amount="8.00")

    steal(f"UPDATE transactions SET {change} WHERE nonce = 0")
    paid = _paid(world)

    if status is not Status.BROADCAST:
        assert paid == set()
    assert world.stored(refund).status is status
    for nonce, each in enumerate([other, last], 1):
        assert world.stored(each).nonce == nonce
        assert world.stored(each).status in {Status.BROADCAST, Status.CONFIRMED}
    assert world.store.alert_counts()[str(Alert.ROW_CHANGED)] >= 1
    if status is not Status.BROADCAST:
        assert _code(world, refund) == CODE


@pytest.mark.parametrize("place", ["nonce = 9", f"sender = '{THIEF}'"])
@pytest.mark.parametrize("follows", [False, True], ids=["alone", "with its refund"])
@pytest.mark.parametrize("status", STEPS)
def test_a_moved_transaction(
    world: World, steal: Attack, status: Status, place: str, follows: bool
) -> None:
    """The refund is not paid from there."""
    refund = world.step(world.accepted(), times=STEPS[status])
    tables = ["transactions", "transaction_payments", "attempts", "refunds"]

    steal(*(f"UPDATE {each} SET {place}" for each in tables[: 4 if follows else 1]))
    paid = _paid(world)

    assert paid == ({refund.amount} if status is Status.BROADCAST else set())
    assert world.stored(refund).status is not Status.CONFIRMED
    assert len(set(world.chain.broadcasts)) == len(paid)


@pytest.mark.parametrize("status", STEPS)
def test_a_transaction_that_is_reserved_again(
    world: World, steal: Attack, status: Status
) -> None:
    """No second attempt is recorded with the number of the first, so none is sent."""
    refund = world.step(world.accepted(), times=STEPS[status])

    steal(RESERVED_AGAIN)
    paid = _paid(world)

    assert paid == (set() if status is Status.SIGNED else {refund.amount})
    assert len(world.chain.broadcasts) == len(paid)


@pytest.mark.parametrize("mac", [None, "copied", "of another key"])
def test_an_inserted_transaction(world: World, steal: Attack, mac: str | None) -> None:
    """A refund with a reservation that no process made is not paid."""
    first = world.step(world.accepted())
    refund = world.accepted(amount="7.00")
    drafted = first.reserved()
    invented = Transaction.draft(
        [refund],
        world.clock(),
        sender=drafted.sender,
        nonce=1,
        key_id=drafted.key_id,
        gas_limit=drafted.gas_limit,
    )
    macs = {
        "copied": drafted.mac,
        "of another key": RowMACs({"tests": b"thief" * 8}).compute(invented),
    }
    given = macs.get(mac or "")
    steal(
        "INSERT INTO transactions SELECT chain_id, sender, 1, network, kind,"
        f" '{invented.composition}', key_id, gas_limit, created_at, status, updated_at,"
        " vault, version, due_at, attempts, blocked_by, tx_hash, block_number,"
        " block_hash,"
        f" {'NULL' if given is None else repr(given)} FROM transactions",
        "INSERT INTO transaction_payments SELECT"
        f" '{refund.id}', chain_id, sender, 1, 0 FROM transaction_payments",
        f"UPDATE refunds SET state = 'assigned', sender = '{drafted.sender}',"
        f" nonce = 1, position = 0 WHERE id = '{refund.id}'",
    )

    assert _paid(world) == {first.amount}
    assert world.stored(refund).status is Status.RESERVED
    assert _code(world, refund) == CODE


INVENTED = (
    "INSERT INTO transactions SELECT chain_id, sender, 1000, network, kind, '{}',"
    " key_id, gas_limit, created_at, status, updated_at, vault, version, due_at,"
    " attempts, blocked_by, tx_hash, block_number, block_hash, mac FROM transactions"
)


@pytest.mark.parametrize(
    "statements",
    [
        (INVENTED.format(compose(["rf_thief"])),),
        ("UPDATE refunds SET nonce = 1000",),
        ("UPDATE transactions SET gas_limit = 1",),
    ],
    ids=["invented", "of no transaction", "changed"],
)
def test_a_highest_nonce_that_no_process_gave(
    world: World, steal: Attack, statements: tuple[str, ...]
) -> None:
    """
    It does not hide what the chain has and the ledger lost, nor leaves a gap.

    No refund gets a nonce until the owner of the tables has undone it.
    """
    first = world.accepted()
    world.finish(first)
    steal(*statements)
    refund = world.accepted(amount="7.00")
    world.chain.mine_foreign(world.signer.address)

    assert _paid(world) == {first.amount}
    assert world.stored(refund).status is Status.QUEUED
    assert world.wallet.is_paused
    assert _code(world, refund) == CODE
    assert world.store.alert_counts()[str(Alert.ROW_CHANGED)] >= 1


def _spend_elsewhere(world: World, amount: str) -> None:
    """Pay *amount*, and use the next nonce in another program."""
    world.broadcast(amount=amount)
    world.chain.mine()
    world.confirmation_tracker.track()
    world.chain.mine_foreign(world.signer.address)
    world.chain.mine_empty(5)
    world.work()


INVENTED_FILLER = (
    "INSERT INTO transactions SELECT chain_id, sender, {}, network, 'filler',"
    f" '{compose(())}', key_id, gas_limit, created_at, 'reserved', updated_at, vault,"
    " 0, due_at, 0, NULL, NULL, NULL, NULL, mac FROM transactions WHERE nonce = 0"
)


def test_an_invented_filler_does_not_keep_a_wallet_paused(
    world: World, steal: Attack
) -> None:
    """Its nonce was used, and an operator has accepted what used it."""
    _spend_elsewhere(world, "12.50")
    world.wallets.resume(world.reconcile(), world.chains["local"])
    _spend_elsewhere(world, "7.00")
    steal(INVENTED_FILLER.format(1))

    world.wallets.resume(world.reconcile(), world.chains["local"])

    assert not world.wallet.is_paused
    assert len(_paid(world)) == 2
    assert world.store.alert_counts()[str(Alert.ROW_CHANGED)] >= 1


def test_a_changed_filler_is_named(world: World, steal: Attack) -> None:
    """Its nonce is unknown then, so its wallet stays paused after a restore."""
    refund = world.paid()
    world.restore(stated={("local", world.signer.address): 3}, has_log=False)
    steal("UPDATE transactions SET mac = NULL WHERE nonce = 1")
    status = world.reconcile()

    with pytest.raises(RowNotAuthenticError, match=f"{refund.sender} 1 "):
        world.wallets.resume(status, world.chains["local"])
    assert world.wallet.is_paused


FORGET = ("DELETE FROM transactions", "DELETE FROM transaction_payments")


@pytest.mark.parametrize(
    "statements",
    [FORGET[:1], FORGET, (*FORGET, "DELETE FROM attempts")],
    ids=["transaction", "payments", "attempts"],
)
@pytest.mark.parametrize("status", STEPS)
def test_a_deleted_transaction(
    world: World, steal: Attack, status: Status, statements: tuple[str, ...]
) -> None:
    """The refund keeps its nonce, and gets no other transaction."""
    refund = world.step(world.accepted(), times=STEPS[status])

    steal(*statements)
    paid = _paid(world)

    assert paid == ({refund.amount} if status is Status.BROADCAST else set())
    assert world.stored(refund).nonce == 0
    assert not world.stored(refund).status.is_final


@pytest.mark.parametrize(
    "statements",
    [
        (),
        ("DELETE FROM transaction_payments",),
        FORGET,
        ("DELETE FROM attempts", *FORGET),
    ],
    ids=["refund", "payments", "transaction", "attempts"],
)
@pytest.mark.parametrize("is_mined", [False, True], ids=["in the pool", "mined"])
@pytest.mark.parametrize("status", STEPS)
def test_a_refund_that_is_queued_again(
    world: World,
    steal: Attack,
    status: Status,
    is_mined: bool,
    statements: tuple[str, ...],
) -> None:
    """The chain pays it once at most, also if the thief deletes rows of the ledger."""
    refund = world.step(world.accepted(), times=STEPS[status])
    if is_mined:
        world.mine_deep()
        world.confirmation_tracker.track()

    steal(*statements, QUEUED_AGAIN)
    paid = _paid(world)

    assert paid <= {refund.amount}
    if not statements:
        assert world.stored(refund).nonce is None


@pytest.mark.parametrize("status", STEPS)
def test_two_refunds_of_one_transaction(
    world: World, steal: Attack, status: Status
) -> None:
    """The one that it pays goes on; the other waits, and does not count as paid."""
    refund = world.step(world.accepted(), times=STEPS[status])
    other = world.accepted(amount="7.00")

    steal(
        "INSERT INTO transaction_payments SELECT"
        f" '{other.id}', chain_id, sender, nonce, 1 FROM transaction_payments",
        f"UPDATE refunds SET state = 'assigned', sender = '{refund.sender}',"
        f" nonce = 0, position = 1 WHERE id = '{other.id}'",
    )

    assert _paid(world) == {refund.amount}
    assert world.stored(refund).status is Status.CONFIRMED
    assert world.stored(other).state is PaymentState.ASSIGNED
    assert world.store.alert_counts()[str(Alert.ROW_CHANGED)] >= 1


def test_a_refund_of_another_transaction_does_not_hold_up_a_signature(
    world: World, steal: Attack
) -> None:
    """The other one has a membership elsewhere, and is not in this transaction."""
    refund, other = (
        world.step(world.accepted(amount=each)) for each in ("7.00", "8.00")
    )

    steal(f"UPDATE refunds SET nonce = 0, position = 1 WHERE id = '{other.id}'")

    assert _paid(world) == {refund.amount}
    assert world.stored(refund).status is Status.CONFIRMED
    assert len(world.store.transactions(refund.id)) == 1
    assert world.store.alert_counts()[str(Alert.ROW_CHANGED)] >= 1


@pytest.mark.parametrize("status", [Status.RESERVED, Status.SIGNED])
def test_another_position_in_the_transaction(
    world: World, steal: Attack, status: Status
) -> None:
    """The commit of a signature would not see that its token is held."""
    refund = world.step(world.accepted(), times=STEPS[status])

    steal("UPDATE refunds SET position = 7")

    assert _paid(world) == set()
    assert _code(world, refund) == CODE


@pytest.mark.parametrize("status", STEPS)
def test_exchanged_transactions(world: World, steal: Attack, status: Status) -> None:
    """Each refund waits: neither is paid by the transaction of the other."""
    amounts = "12.50", "7.00"
    refunds = [world.accepted(amount=each) for each in amounts]
    refunds = [world.step(each, times=STEPS[status]) for each in refunds]

    steal(
        *(
            f"UPDATE refunds SET nonce = {nonce}, position = 1 WHERE id = '{each.id}'"
            for each, nonce in zip(refunds, (1, 0), strict=True)
        )
    )
    paid = _paid(world)

    amounts_paid = {each.amount for each in refunds}
    assert paid == (amounts_paid if status is Status.BROADCAST else set())
    assert Status.CONFIRMED not in world.statuses(refunds)


@pytest.mark.parametrize(
    "change", ["DELETE FROM transaction_payments", "UPDATE {} SET nonce = 9"]
)
@pytest.mark.parametrize("status", STEPS)
def test_a_changed_membership(
    world: World, steal: Attack, status: Status, change: str
) -> None:
    """The refund has its transaction still, or waits: it gets no other."""
    refund = world.step(world.accepted(), times=STEPS[status])

    steal(change.format("transaction_payments"))

    assert _paid(world) <= {refund.amount}
    assert world.stored(refund).nonce == 0


def test_an_added_membership(world: World, steal: Attack) -> None:
    """The refund gets no nonce, and others go on."""
    refund = world.step(world.accepted())
    other, last = world.accepted(amount="7.00"), world.accepted(amount="8.00")

    steal(
        "INSERT INTO transaction_payments SELECT"
        f" '{other.id}', chain_id, sender, nonce, 1 FROM transaction_payments"
    )

    assert _paid(world) == {refund.amount, last.amount}
    assert world.stored(other).status is Status.QUEUED
    assert _code(world, other) == CODE
    assert world.store.alert_counts()[str(Alert.ROW_CHANGED)] >= 1


@pytest.mark.parametrize(
    "row",
    [
        (
            "transaction_payments SELECT '{id}', chain_id, sender, 1, 1"
            " FROM transaction_payments LIMIT 1"
        ),
        (
            "attempts SELECT '0x00', 0, 'transfer', chain_id, sender, nonce,"
            f" '{1:078}', '{1:078}', 21000, '', created_at"
            " FROM transactions WHERE nonce = 0"
        ),
    ],
    ids=["membership", "attempt"],
)
def test_a_row_added_before_the_signature(
    world: World, steal: Attack, row: str
) -> None:
    """Nothing of the refund is sent, and an operator is alerted; others go on."""
    refund, last = (
        world.step(world.accepted(amount=each)) for each in ("7.00", "8.00")
    )

    steal("INSERT INTO " + row.format(id=refund.id))

    assert _paid(world) == set()
    assert world.stored(refund).status is Status.RESERVED
    assert world.stored(last).status is Status.BROADCAST
    assert _code(world, refund) == CODE
    assert world.store.alert_counts()[str(Alert.ROW_CHANGED)] >= 1


@pytest.mark.parametrize("status", [Status.SIGNED, Status.BROADCAST])
def test_moved_attempts(world: World, steal: Attack, status: Status) -> None:
    """Bytes are sent for their own refund only, and it alone counts as paid."""
    refunds = [world.accepted(amount=each) for each in ("12.50", "7.00")]
    refunds = [world.step(each, times=STEPS[status]) for each in refunds]

    steal(
        "UPDATE attempts SET attempt = 1, nonce = 1 WHERE nonce = 0",
        "UPDATE attempts SET nonce = 0 WHERE nonce = 1 AND attempt = 0",
        "UPDATE attempts SET attempt = 0",
    )
    paid = _paid(world)

    assert paid <= {each.amount for each in refunds}
    for each in refunds:
        is_paid = world.stored(each).status is Status.CONFIRMED
        assert not is_paid or each.amount in paid
