"""One transaction that pays several refunds: how it moves, and how each ends."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from backends.sql import SQLStore
from signer.errors import (
    RowNotAuthenticError,
    StaleStateError,
    StoreError,
)
from signer.model.payment import PaymentState
from signer.model.refund import Refund, Status
from signer.model.transaction import PaymentEnd, Transaction, TransactionStatus
from tests.fixtures.batches import (
    BLOCK,
    CAPPED,
    MINED,
    PAID,
    REFUSED,
    VAULT,
    batch_of,
    ended,
    moved,
    reserve_again,
)
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accepted,
    change_of,
    forge,
    later,
    now,
    opened,
    save,
    stored,
    transaction,
)
from tests.support.audit import overruled, record
from tests.support.keys import key_at, made_active


CONFIRMED, FAILED = TransactionStatus.CONFIRMED, TransactionStatus.FAILED
NOWHERE = "sender = NULL, nonce = NULL, position = NULL"


@pytest.fixture
def batch(store: SQLStore) -> Transaction:
    """A reserved batch of three refunds."""
    opened(store)
    return batch_of(store, *(accepted(store) for _ in range(3)))


def _found(store: SQLStore, payments: Sequence[Refund]) -> list[Refund]:
    return [stored(store, each) for each in payments]


def test_each_payment_has_its_own_end(store: SQLStore, batch: Transaction) -> None:
    """It is what was computed, with a history and an event of its own."""
    after = ended(store, batch, PAID, REFUSED, CAPPED)

    paid, refused, capped = found = _found(store, batch.payments)

    assert tuple(found) == after.payments
    assert paid.status is Status.CONFIRMED
    assert (refused.status, refused.failure_code) == (Status.FAILED, "reverted")
    assert refused.failure_detail == "the token refused it"
    assert (paid.failure_code, capped.failure_code) == (None, None)
    assert (capped.status, capped.blocked_by) == (Status.QUEUED, "above-day-cap")
    assert (capped.nonce, capped.sender, capped.position) == (None, None, None)
    assert capped.due_at == CAPPED.due_at
    for each in found:
        history = store.history(each.id)
        assert history[-2].status is Status.MINED
        assert history[-1].status is each.status
        assert history[-1].version == each.revision > history[-2].version
        store.require_authentic(each)


def test_a_final_batch_keeps_its_payments(store: SQLStore, batch: Transaction) -> None:
    after = ended(store, batch, CAPPED, PAID, CAPPED)

    found = store.find_transaction(31337, WALLET, 0)

    assert found is not None
    assert found.payment_ids == batch.payment_ids == after.payment_ids
    assert [each.id for each in found.payments] == [batch.payment_ids[1]]
    store.require_authentic(found)


@pytest.mark.parametrize(
    "ends",
    [(CAPPED, CAPPED, CAPPED), (CAPPED, REFUSED, CAPPED)],
    ids=["reverted", "a no-op for one"],
)
def test_payments_of_a_failed_batch_are_queued_again(
    store: SQLStore, batch: Transaction, ends: Sequence[PaymentEnd]
) -> None:
    """None was paid: only one that was rejected fails."""
    ended(store, batch, *ends, status=FAILED)

    found = _found(store, batch.payments)

    assert [each.state for each in found] == [each.state for each in ends]


def test_the_nonce_of_a_batch_without_payments_is_known(
    store: SQLStore, batch: Transaction
) -> None:
    """Another program could invent such a batch, to hide what the chain has."""
    ended(store, batch, CAPPED, CAPPED, CAPPED)
    assert store.unknown_nonces(31337, WALLET, 1, 9) == ()

    last = batch_of(store, accepted(store), nonce=1)
    ended(store, last, CAPPED)
    assert store.unknown_nonces(31337, WALLET, 2, 9) == ()


def test_an_invented_batch_hides_no_nonce(
    store: SQLStore, database_url: str, batch: Transaction
) -> None:
    ended(store, batch, CAPPED, CAPPED, CAPPED)
    overruled(database_url, "UPDATE transactions SET mac = NULL")

    assert store.unknown_nonces(31337, WALLET, 1, 9) == (0,)


def test_an_end_compares_each_payment(store: SQLStore, batch: Transaction) -> None:
    """A payment that is changed meanwhile keeps all from their ends."""
    mined = moved(store, batch, *MINED)
    forge(
        store,
        f"UPDATE refunds SET version = version + 1 WHERE id = '{batch.payment_ids[2]}'",
    )
    ends = dict(zip(batch.payment_ids, (PAID, PAID, CAPPED), strict=True))

    with pytest.raises(StaleStateError):
        save(store, mined, mined.with_status(CONFIRMED, now(), ends=ends))

    assert {each.status for each in _found(store, batch.payments)} == {Status.MINED}


def test_a_payment_ends_once(store: SQLStore, batch: Transaction) -> None:
    """Two workers have seen different ends: the first one is kept."""
    mined = moved(store, batch, *MINED)
    ids = batch.payment_ids
    first = mined.with_status(
        CONFIRMED, now(), ends=dict(zip(ids, (PAID, PAID, CAPPED), strict=True))
    )
    second = mined.with_status(
        CONFIRMED, now(), ends=dict(zip(ids, (CAPPED, PAID, PAID), strict=True))
    )
    save(store, mined, first)

    with pytest.raises(StaleStateError):
        save(store, mined, second)
    assert tuple(_found(store, batch.payments)) == first.payments


@pytest.mark.parametrize("statuses", [(), MINED[:1], MINED[:2], MINED])
def test_a_payment_of_an_open_batch_does_not_end(
    store: SQLStore, batch: Transaction, statuses: Sequence[TransactionStatus]
) -> None:
    """Unless its key is revoked before the batch is signed."""
    open_batch = moved(store, batch, *statuses)
    ends = ["state = 'confirmed'", "state = 'failed'"]
    if statuses:
        ends.append(f"state = 'queued', {NOWHERE}")

    for end in ends:
        with pytest.raises(StoreError, match="constraint"):
            forge(store, f"UPDATE refunds SET {end}")

        assert tuple(_found(store, batch.payments)) == open_batch.payments


@pytest.mark.parametrize("kind", ["batch", "plain"])
@pytest.mark.parametrize("state", ["queued", "confirmed", "failed"])
@pytest.mark.parametrize("status", [CONFIRMED, FAILED])
def test_only_payments_of_a_batch_end_otherwise(
    store: SQLStore, status: TransactionStatus, state: str, kind: str
) -> None:
    """And what failed as a whole has paid none of them."""
    opened(store)
    vault = VAULT if kind == "batch" else None
    mined = moved(store, batch_of(store, accepted(store), vault=vault), *MINED)
    place = f", {NOWHERE}" if state == "queued" else ""
    is_legal = state == str(status) or (
        kind == "batch" and (status is CONFIRMED or state == "queued")
    )
    forge(store, f"UPDATE transactions SET status = '{status}'")
    end = f"UPDATE refunds SET state = '{state}'{place}"

    if is_legal:
        forge(store, end)
    else:
        with pytest.raises(StoreError, match="constraint"):
            forge(store, end)
    assert stored(store, mined.payment).state == (
        PaymentState(state) if is_legal else PaymentState.ASSIGNED
    )


def test_a_skipped_payment_gets_another_nonce(
    store: SQLStore, batch: Transaction
) -> None:
    """Once the chain has shown that its earlier transaction has not paid it."""
    *_, capped = ended(store, batch, PAID, PAID, CAPPED).payments
    assert store.earlier_nonces(capped.id) == [(31337, WALLET, 0)]

    (reserved,) = reserve_again(store, capped)

    assert (reserved.nonce, reserved.payment_ids) == (1, (capped.id,))
    signed = moved(store, reserved, *MINED, CONFIRMED)
    assert stored(store, capped) == signed.payment
    assert store.earlier_nonces(capped.id) == [(31337, WALLET, n) for n in (0, 1)]
    assert len({(m.version) for m in store.history(capped.id)}) == len(
        store.history(capped.id)
    )


def test_a_payment_alone_may_be_paid_alone_again(store: SQLStore) -> None:
    """Both batches have the same composition."""
    opened(store)
    (capped,) = ended(store, batch_of(store, accepted(store)), CAPPED).payments

    again = batch_of(store, capped, nonce=1)
    (paid,) = ended(store, again, PAID).payments

    assert stored(store, paid).status is Status.CONFIRMED


@pytest.mark.parametrize("earlier", [0, 2], ids=["none", "more"])
def test_a_reservation_compares_the_earlier_transactions(
    store: SQLStore, batch: Transaction, earlier: int
) -> None:
    """A row that hides them, or one that was added meanwhile, keeps it from a nonce."""
    *_, capped = ended(store, batch, PAID, PAID, CAPPED).payments
    last = accepted(store)

    refused, *_ = reserve_again(store, capped, earlier=earlier)
    (reserved,) = reserve_again(store, last, earlier=0)

    assert isinstance(refused, RowNotAuthenticError)
    assert reserved.nonce == 1
    assert stored(store, capped).status is Status.QUEUED


def test_an_open_earlier_transaction_keeps_a_payment_from_another(
    store: SQLStore, database_url: str, batch: Transaction
) -> None:
    """Also if the caller says that the chain was asked."""
    moved(store, batch, *MINED)
    overruled(
        database_url,
        f"UPDATE refunds SET state = 'queued', {NOWHERE}"
        f" WHERE id = '{batch.payment_ids[0]}'",
    )
    queued = stored(store, batch.payments[0])

    (refused,) = reserve_again(store, queued)

    assert isinstance(refused, RowNotAuthenticError)


def test_a_plain_earlier_transaction_keeps_a_payment_from_another(
    store: SQLStore, database_url: str
) -> None:
    """It ends for good with that."""
    opened(store)
    paid = moved(store, batch_of(store, accepted(store), vault=None), *MINED, CONFIRMED)
    overruled(database_url, f"UPDATE refunds SET state = 'queued', {NOWHERE}")

    (refused,) = reserve_again(store, stored(store, paid.payment))

    assert isinstance(refused, RowNotAuthenticError)


def test_a_membership_elsewhere_keeps_a_batch_from_its_signature(
    store: SQLStore, batch: Transaction
) -> None:
    """One in a batch that is final does not: the reservation has asked the chain."""
    *_, capped = ended(store, batch, PAID, PAID, CAPPED).payments
    again = batch_of(store, capped, accepted(store), nonce=1)
    other = batch_of(store, accepted(store), nonce=2)
    forge(
        store,
        f"INSERT INTO transaction_payments VALUES ('{again.payment_ids[1]}',"
        f" 31337, '{WALLET}', 0, 3)",
    )
    signed = moved(store, again, TransactionStatus.SIGNED)
    forge(
        store,
        f"INSERT INTO transaction_payments VALUES ('{other.payment_ids[0]}',"
        f" 31337, '{WALLET}', 1, 3)",
    )
    attempt = transaction(other.payments[0])

    with pytest.raises(RowNotAuthenticError):
        save(
            store,
            other,
            other.with_status(TransactionStatus.SIGNED, now(), tx_hash=attempt.tx_hash),
            attempt,
        )
    assert stored(store, again.payments[0]) == signed.payments[0]


def test_a_second_signature_compares_a_payment_that_is_alone(store: SQLStore) -> None:
    """No index keeps it from another batch."""
    opened(store)
    batch = batch_of(store, accepted(store))
    attempt = transaction(batch.payments[0])
    forge(store, "UPDATE refunds SET version = version + 1")

    with pytest.raises(StaleStateError):
        save(
            store,
            batch,
            batch.with_status(TransactionStatus.SIGNED, now(), tx_hash=attempt.tx_hash),
            attempt,
        )


def test_a_lost_payment_is_adopted_after_a_batch_that_skipped_it(
    store: SQLStore, batch: Transaction
) -> None:
    """A restored ledger may know the first batch, and not the second."""
    *_, capped = ended(store, batch, PAID, PAID, CAPPED).payments
    lost = Transaction.draft(
        [capped],
        now(),
        sender=WALLET,
        nonce=1,
        key_id=key_at(WALLET).key_id,
        gas_limit=9,
        vault=batch.vault,
        status=TransactionStatus.MINED,
        tx_hash="0x" + "1" * 64,
        **BLOCK,
    )

    adopted = store.adopt(capped, capped.assigned(lost))

    assert stored(store, capped) == adopted
    assert adopted.status is Status.MINED


def test_a_revocation_releases_each_payment_of_a_batch(
    store: SQLStore, batch: Transaction
) -> None:
    """Of one that is not signed; of another one, none."""
    signed = moved(
        store,
        batch_of(store, accepted(store), accepted(store), nonce=1),
        TransactionStatus.SIGNED,
    )
    made_active(store, key_at(OTHER_WALLET), block=True)

    released = _found(store, batch.payments)

    assert {(each.status, each.nonce) for each in released} == {(Status.QUEUED, None)}
    assert store.find_transaction(31337, WALLET, 0) is None
    assert [store.earlier_nonces(each.id) for each in released] == [[], [], []]
    assert tuple(_found(store, signed.payments)) == signed.payments


def test_what_a_vault_is_to_pay(store: SQLStore, batch: Transaction) -> None:
    """Until a block has it: then its balance shows it."""
    token = batch.payments[0].token_address
    other = batch_of(store, accepted(store), nonce=1)
    plain = batch_of(store, accepted(store), nonce=2, vault=None)

    def unmined(vault: str | None = VAULT) -> int:
        return store.unmined_amounts(batch.chain_id, vault, token).get(WALLET, 0)

    assert unmined() == sum(each.amount for each in (*batch.payments, *other.payments))
    assert unmined(OTHER_WALLET) == 0
    assert unmined(None) == plain.payments[0].amount
    assert store.unmined_amounts(batch.chain_id, VAULT, VAULT) == {}
    moved(store, batch, *MINED)
    assert unmined() == other.payments[0].amount


@pytest.mark.parametrize("was_read", [False, True])
def test_a_stranger_does_not_use_up_a_cap(
    store: SQLStore, batch: Transaction, *, was_read: bool
) -> None:
    """Another program may point any refund to a batch, which does not pay it."""
    large = accepted(store, amount=10**12)
    token = large.token_address
    paid = {WALLET: sum(each.amount for each in batch.payments)}
    if was_read:
        assert store.unmined_amounts(batch.chain_id, VAULT, token) == paid

    forge(
        store,
        f"UPDATE refunds SET state = 'assigned', sender = '{WALLET}', nonce = 0,"
        f" position = 7, version = version + 1 WHERE id = '{large.id}'",
    )

    assert store.unmined_amounts(batch.chain_id, VAULT, token) == paid


def test_the_payments_of_a_batch_share_its_gas(store: SQLStore) -> None:
    """It is counted once, by tenant and by payment."""
    began, tenants = now(), ("shop", "shop", "other")
    batch = batch_of(store, *(accepted(store, tenant=each) for each in tenants))

    ended(store, batch, PAID, PAID, PAID)

    totals = store.signed_by_tenant(batch.chain_id, began - timedelta(days=9999))
    assert {tenant: each.gas for tenant, each in totals.items()} == {
        "shop": 6,
        "other": 3,
    }
    assert [each.gas for each in store.last_payments(batch.chain_id, 9)] == [3, 3, 3]


def test_which_refunds_were_in_a_batch_that_reverted(
    store: SQLStore, batch: Transaction
) -> None:
    """Another one has not had its transaction yet."""
    other = accepted(store)
    ended(store, batch, CAPPED, CAPPED, CAPPED, status=FAILED)
    ids = [*batch.payment_ids, other.id]

    assert store.find_reverted(ids) == {*batch.payment_ids}


def test_a_final_batch_that_did_not_revert(store: SQLStore, batch: Transaction) -> None:
    ended(store, batch, CAPPED, PAID, CAPPED)

    assert store.find_reverted(batch.payment_ids) == frozenset()


@pytest.fixture
def shared(store: SQLStore) -> Transaction:
    """A reserved transaction that pays two refunds."""
    opened(store)
    return batch_of(store, accepted(store), accepted(store))


def test_payments_come_with_their_transaction(
    store: SQLStore, shared: Transaction
) -> None:
    """In the order of their positions, however it is read."""
    first, second = shared.payments
    (claimed,) = store.claim(later(30), later(41), 10)

    store.require_authentic(shared)
    assert [each.id for each in claimed.payments] == [first.id, second.id]
    assert store.find_transaction(31337, WALLET, 0) == claimed
    assert store.open_below(31337, WALLET, 9, 1) == (claimed,)
    assert shared.names == {"transaction": f"31337/{WALLET}/0"}
    with pytest.raises(RowNotAuthenticError):
        store.require_authentic(shared.paying([second, first]))


def test_payments_end_with_their_transaction(
    store: SQLStore, shared: Transaction
) -> None:
    """Each has the history and the events of a refund that is paid alone."""
    attempt = transaction(shared.payments[0])
    signed = shared.with_status(
        TransactionStatus.SIGNED, now(), tx_hash=attempt.tx_hash
    )
    save(store, shared, signed, attempt, record())
    sent = signed.with_status(TransactionStatus.BROADCAST, now())
    mined = sent.with_status(TransactionStatus.MINED, now(), **BLOCK)
    confirmed = mined.with_status(TransactionStatus.CONFIRMED, now())
    for before, after in ((signed, sent), (sent, mined), (mined, confirmed)):
        assert store.save_all([change_of(before, after)]) == [None]

    for payment in confirmed.payments:
        assert stored(store, payment) == payment
        assert payment.status is Status.CONFIRMED
        assert [move.status for move in store.history(payment.id)] == [
            *(Status.QUEUED, Status.SIGNED, Status.BROADCAST),  # Placed by hand.
            *(Status.MINED, Status.CONFIRMED),
        ]
    assert store.in_flight(9) == ()


def test_the_reason_of_a_noop_is_that_of_each_payment(
    store: SQLStore, shared: Transaction
) -> None:
    """It is kept until the no-op is final."""
    failure = {"failure_code": "reverted", "failure_detail": "it would revert"}
    failed = shared.with_status(TransactionStatus.FAILED, now(), failure=failure)
    save(store, shared, failed)

    for payment in failed.payments:
        found = stored(store, payment)
        assert (found.status, found.failure_code) == (Status.FAILED, "reverted")


def test_a_stale_transaction_changes_no_payment(
    store: SQLStore, shared: Transaction
) -> None:
    """All of them are changed, or none."""
    save(store, shared, shared.with_due_at(later(1)))
    failed = shared.with_status(
        TransactionStatus.FAILED, now(), failure={"failure_code": "reverted"}
    )

    with pytest.raises(StaleStateError):
        save(store, shared, failed)
    assert {stored(store, each).status for each in shared.payments} == {Status.RESERVED}


def test_transactions_in_flight_are_whole(store: SQLStore) -> None:
    """A limit counts transactions, not what they pay."""
    opened(store)
    for nonce in range(2):
        made = batch_of(store, accepted(store), accepted(store), nonce=nonce)
        attempt = transaction(made.payments[0])
        signed = made.with_status(
            TransactionStatus.SIGNED, now(), tx_hash=attempt.tx_hash
        )
        save(store, made, signed, attempt)
        save(store, signed, signed.with_status(TransactionStatus.BROADCAST, now()))

    first, second = store.in_flight(9)

    whole = store.with_payments([first.transaction, second.transaction])
    assert [len(each.payments) for each in whole] == [2, 2]
    assert store.in_flight(1) == (first,)
    assert store.in_flight(1, after=first.transaction) == (second,)


@pytest.mark.parametrize(
    "change",
    [
        "version = version + 1",
        f"version = version + 1, state = 'queued', {NOWHERE}",
    ],
    ids=["changed", "taken out"],
)
def test_a_signature_compares_each_payment(
    store: SQLStore, shared: Transaction, change: str
) -> None:
    """Another transaction may pay one that is changed or taken out meanwhile."""
    first, second = shared.payments
    attempt = transaction(first)
    signed = shared.with_status(
        TransactionStatus.SIGNED, now(), tx_hash=attempt.tx_hash
    )
    forge(store, f"UPDATE refunds SET {change} WHERE id = '{second.id}'")

    with pytest.raises(StaleStateError):
        save(store, shared, signed, attempt)

    found = store.find_transaction(31337, WALLET, 0)
    assert found is not None
    assert found.status is TransactionStatus.RESERVED
    assert store.attempts(shared) == ()
    assert stored(store, first).status is Status.RESERVED


FINAL = (*MINED, TransactionStatus.CONFIRMED)


QUEUE_AGAIN = f"UPDATE refunds SET state = 'queued', {NOWHERE} WHERE id = '{{}}'"


@pytest.mark.parametrize("left", [0, 1], ids=["first", "last"])
def test_a_final_transaction_keeps_the_payments_that_are_queued_again(
    store: SQLStore, database_url: str, shared: Transaction, left: int
) -> None:
    """Memberships say which it had; its digest proves it."""
    confirmed = moved(store, shared, *FINAL)
    ids = [each.id for each in shared.payments]
    overruled(
        database_url,
        f"INSERT INTO transaction_payments VALUES ('{accepted(store).id}',"
        f" 31337, '{WALLET}', 0, 2)",
    )
    overruled(database_url, QUEUE_AGAIN.format(shared.payments[left].id))

    found = store.find_transaction(31337, WALLET, 0)

    assert found is not None
    assert found.payment_ids == (*ids,)
    assert [each.id for each in found.payments] == [ids[1 - left]]
    store.require_authentic(found)
    store.require_authentic(stored(store, confirmed.payments[0]))
    store.require_authentic(stored(store, confirmed.payments[1]))


def test_an_open_transaction_has_all_of_its_payments(
    store: SQLStore, database_url: str, shared: Transaction
) -> None:
    """One is taken out of it by another program only: the others wait."""
    first, second = shared.payments
    overruled(database_url, QUEUE_AGAIN.format(second.id))

    found = store.find_transaction(31337, WALLET, 0)

    assert found is not None
    for moving in (found, stored(store, first)):
        with pytest.raises(RowNotAuthenticError):
            store.require_authentic(moving)


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM transaction_payments WHERE payment_id = '{}'",
        "UPDATE transaction_payments SET position = 7 WHERE payment_id = '{}'",
    ],
    ids=["deleted", "moved"],
)
def test_a_final_transaction_with_another_membership_is_not_authentic(
    store: SQLStore, database_url: str, shared: Transaction, change: str
) -> None:
    first, second = moved(store, shared, *FINAL).payments
    overruled(database_url, change.format(first.id))
    overruled(database_url, QUEUE_AGAIN.format(first.id))

    found = store.find_transaction(31337, WALLET, 0)

    assert found is not None
    for moving in (found, stored(store, second)):
        with pytest.raises(RowNotAuthenticError):
            store.require_authentic(moving)


def test_a_stranger_of_a_final_transaction_is_not_its_payment(
    store: SQLStore, database_url: str, shared: Transaction
) -> None:
    """Also in the place of one that is queued again."""
    _, second = moved(store, shared, *FINAL).payments
    other = accepted(store)
    overruled(database_url, QUEUE_AGAIN.format(second.id))
    overruled(
        database_url,
        f"UPDATE refunds SET state = 'assigned', sender = '{WALLET}', nonce = 0,"
        f" position = 1 WHERE id = '{other.id}'",
    )

    found = store.find_transaction(31337, WALLET, 0)

    assert found is not None
    assert [each.id for each in found.strangers] == [other.id]
    store.require_authentic(found)
    with pytest.raises(RowNotAuthenticError):
        store.require_authentic(stored(store, other))
