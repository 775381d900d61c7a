"""Contract of ``reserve_all`` and ``save_all``: no refund stops the others."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import psycopg
import pytest
from sqlalchemy import func, select

from backends.sql import SQLStore
from backends.sql.tables import spendings
from signer.errors import (
    HotWalletError,
    KeyRotatedError,
    LimitReachedError,
    RowNotAuthenticError,
    SigningStoppedError,
    StaleStateError,
    StoreError,
    TooManyInFlightError,
)
from signer.model.key import KeyState, find_key
from signer.model.refund import Refund, Status
from signer.model.spending_limits import NO_LIMITS, Limits
from signer.model.transaction import Kind, Transaction
from signer.ports.refund_store import Change, Reservation
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accepted,
    broadcast,
    change_of,
    later,
    mined,
    moved,
    now,
    opened,
    paid,
    reserved,
    save,
    signed,
    step_to,
    stopped,
    stored,
    transaction,
    unrecorded,
)
from tests.support.audit import record
from tests.support.keys import key_at, made_active
from tests.support.ledgers import open_ledger, seal
from tests.support.waiting import eventually


GAS = 65_000

FAILED = -1
"""In place of the nonce of a refund that has none."""


def _reserve(
    store: SQLStore,
    *refunds: Refund,
    limits: Limits = NO_LIMITS,
    sender: str = WALLET,
    window: int | None = None,
) -> Sequence[Refund | HotWalletError]:
    return paid(
        store.reserve_all(
            [Reservation(refund, GAS, limits) for refund in refunds],
            sender=sender,
            key_id=key_at(sender).key_id,
            counted=0,
            at=now(),
            window=window,
        )
    )


def _nonces(outcomes: Sequence[Refund | HotWalletError]) -> list[int | None]:
    return [each.nonce if isinstance(each, Refund) else FAILED for each in outcomes]


def _error(outcome: object) -> type[object]:
    assert isinstance(outcome, HotWalletError)
    return type(outcome)


@pytest.fixture
def store(store: SQLStore) -> SQLStore:
    """Return a store whose wallet is open, and whose key is active."""
    opened(store)
    made_active(store, key_at(WALLET))
    return store


def test_a_window_bounds_what_has_no_receipt(store: SQLStore) -> None:
    """The first refunds take the places; a receipt frees one, and a broadcast none."""
    mined(store, broadcast(store))
    broadcast(store)
    refunds = [accepted(store) for _ in range(3)]

    outcomes = _reserve(store, *refunds, window=3)

    assert _nonces(outcomes) == [2, 3, FAILED]
    assert _error(outcomes[-1]) is TooManyInFlightError
    assert stored(store, refunds[-1]) == refunds[-1]
    assert store.count_in_flight(WALLET) == {refunds[0].chain_id: 3}
    assert store.count_in_flight(OTHER_WALLET) == {}


def test_a_refund_that_is_refused_takes_no_place(store: SQLStore) -> None:
    """The place is for the next one."""
    refunds = [accepted(store) for _ in range(2)]
    ask = Reservation(refunds[0], GAS, approvals=frozenset({"00" * 32}))
    outcomes = store.reserve_all(
        [ask, Reservation(refunds[1], GAS)],
        sender=WALLET,
        key_id=key_at(WALLET).key_id,
        counted=0,
        at=now(),
        window=1,
    )

    assert _error(outcomes[0]) is StaleStateError
    assert _nonces(paid(outcomes)) == [FAILED, 0]


def test_nonces_follow_the_order_of_the_batch(store: SQLStore) -> None:
    """Each refund has its own, with its history and its audit record."""
    first = reserved(store, accepted(store))
    refunds = [accepted(store) for _ in range(5)]
    intents = [record(number) for number in range(5)]
    seal(store)

    outcomes = store.reserve_all(
        [
            # The first of them gets nonce 1.
            Reservation(refund, GAS, draft_intent=lambda each: intents[each.nonce - 1])
            for refund in refunds
        ],
        sender=WALLET,
        key_id=key_at(WALLET).key_id,
        counted=1,
        at=now(),
    )

    assert first.nonce == 0
    assert _nonces(paid(outcomes)) == [1, 2, 3, 4, 5]
    for refund, outcome, intent in zip(refunds, outcomes, intents, strict=True):
        assert isinstance(outcome, Transaction)
        assert outcome.payment == stored(store, refund)
        assert outcome.intent == intent
        statuses = [move.status for move in store.history(refund.id)]
        assert statuses == [Status.QUEUED, Status.RESERVED]
    seal(store)
    written = [each.record for each in store.sealed(0, 10)]
    assert sorted(written, key=lambda r: r.id) == sorted(intents, key=lambda r: r.id)


def test_refunds_that_get_no_nonce_leave_no_gap(store: SQLStore) -> None:
    """Neither changed nor paid nor forged ones; no limit counts them."""
    first, cancelled, asked, found, forged, last = (accepted(store) for _ in range(6))
    moved(store, cancelled, Status.CANCELLED)
    store.request_cancellation(asked, now(), record())
    store.add_unrecorded(opened(store), [unrecorded(memo=found.memo)])
    forged = replace(forged, amount=forged.amount + 1)

    outcomes = _reserve(store, first, cancelled, asked, found, forged, last)

    assert _nonces(outcomes) == [1, *[FAILED] * 4, 2]
    assert [_error(each) for each in outcomes[1:4]] == [StaleStateError] * 3
    assert _error(outcomes[4]) is RowNotAuthenticError
    amounts = select(spendings.c.amount).where(
        spendings.c.tenant == "", spendings.c.recipient == ""
    )
    (amount,) = store._database.rows(amounts.where(spendings.c.token_address != "gas"))
    assert amount.amount == 2 * first.amount
    assert reserved(store, accepted(store)).nonce == 3


def test_a_limit_is_shared_by_the_batch(store: SQLStore) -> None:
    """The refunds that fit in get their nonces, in order."""
    large = accepted(store, amount=30)
    refunds = [accepted(store, amount=10) for _ in range(4)]

    batch = (*refunds[:2], large, *refunds[2:])
    outcomes = _reserve(store, *batch, limits=Limits(hourly=30))

    assert _nonces(outcomes) == [0, 1, FAILED, 2, FAILED]
    assert _error(outcomes[2]) is _error(outcomes[4]) is LimitReachedError
    assert stored(store, large) == large
    (again,) = _reserve(store, refunds[3], limits=Limits(hourly=40))
    assert isinstance(again, Refund)


def test_the_limits_of_recipients_and_tenants_are_separate(store: SQLStore) -> None:
    """A batch counts each tenant and each recipient by itself."""
    of_tenant = Limits(tenant=Limits(hourly=10, daily_per_recipient=10))
    refunds = [
        accepted(store, tenant=tenant, recipient=recipient, amount=10)
        for tenant, recipient in (
            ("a", WALLET),
            ("a", OTHER_WALLET),
            ("b", WALLET),
            ("b", WALLET),
        )
    ]

    outcomes = _reserve(store, *refunds, limits=of_tenant)

    assert _nonces(outcomes) == [0, FAILED, 1, FAILED]
    counts = select(func.count()).select_from(spendings)
    assert store._database.rows(counts)[0][0] == 9  # Of all, of a and of b, 3 each.


def test_a_row_that_no_statement_can_change_does_not_stop_others(
    store: SQLStore,
) -> None:
    """An intruder can insert a version whose successor is out of range."""
    poisoned, other = accepted(store), accepted(store)
    poisoned = replace(poisoned, version=2**63 - 1)

    outcomes = _reserve(store, poisoned, other)

    assert isinstance(outcomes[0], StoreError)
    assert _nonces(outcomes) == [FAILED, 0]


def test_a_stop_and_another_key_concern_all(store: SQLStore) -> None:
    refunds = [accepted(store) for _ in range(2)]

    outcomes = _reserve(store, *refunds, sender=OTHER_WALLET)
    assert [_error(each) for each in outcomes] == [KeyRotatedError] * 2
    stopped(store)
    outcomes = _reserve(store, *refunds)
    assert [_error(each) for each in outcomes] == [SigningStoppedError] * 2
    assert [stored(store, refund) for refund in refunds] == refunds


def test_a_batch_is_of_one_chain(store: SQLStore) -> None:
    with pytest.raises(ValueError, match="several chains"):
        _reserve(store, accepted(store), accepted(store, chain_id=1))
    assert _reserve(store) == []


def _recorded(refund: Refund, kind: Kind = Kind.TRANSFER) -> Change:
    first = transaction(refund, kind=kind)
    after = step_to(refund, Status.SIGNED, now(), tx_hash=first.tx_hash)
    return change_of(refund, after, first, record(int(refund.nonce or 0)))


def test_changes_of_different_kinds_are_saved_together(store: SQLStore) -> None:
    """A postponement, a new status, and signed bytes with their audit record."""
    late, sent = accepted(store), signed(store, reserved(store, accepted(store)))
    recorded = _recorded(reserved(store, accepted(store)))
    postponed = change_of(late, late.with_due_at(later(9), attempts=1, blocked_by="x"))
    after = step_to(sent, Status.BROADCAST, now())

    errors = store.save_all([postponed, change_of(sent, after), recorded])

    assert list(errors) == [None] * 3
    assert stored(store, late) == postponed.after
    assert stored(store, sent) == after
    _, signed_first = recorded.transactions
    assert stored(store, signed_first.payment) == signed_first.payment
    assert store.attempts(signed_first) == (recorded.attempt,)
    assert store.save_all([]) == ()


def test_a_stale_change_does_not_stop_others(store: SQLStore) -> None:
    """Nothing of it is stored, neither its bytes nor its audit record."""
    changes = [_recorded(reserved(store, accepted(store))) for _ in range(3)]
    taken, _ = changes[1].transactions
    save(store, taken, taken.with_due_at(later(1)))
    seal(store)

    errors = store.save_all(changes)

    assert [error and type(error) for error in errors] == [None, StaleStateError, None]
    seal(store)
    written = {each.record for each in store.sealed(0, 10)}
    assert written == {changes[0].record, changes[2].record}
    assert store.attempts(taken) == ()


def test_a_stop_keeps_signed_bytes_of_a_batch_back(store: SQLStore) -> None:
    changes = [_recorded(reserved(store, accepted(store))) for _ in range(2)]
    stopped(store)

    errors = store.save_all(changes)

    assert [type(error) for error in errors] == [StaleStateError] * 2
    assert [store.attempts(each.transactions[0]) for each in changes] == [(), ()]


def test_a_programming_error_changes_nothing(store: SQLStore) -> None:
    refund, other = accepted(store), accepted(store)
    bad = change_of(refund, replace(refund, amount=1, version=1))

    with pytest.raises(ValueError, match="permanent"):
        store.save_all([change_of(other, other.with_due_at(later(1))), bad])
    assert stored(store, other) == other


def test_opposite_batches_do_not_deadlock(store: SQLStore) -> None:
    """Two workers may have the same refunds, in another order: one of them is stale."""
    refunds = [accepted(store) for _ in range(100)]
    together = threading.Barrier(2)

    def save(some: Sequence[Refund]) -> Sequence[HotWalletError | None]:
        changes = [change_of(each, each.with_due_at(later(9))) for each in some]
        together.wait(10)
        return store.save_all(changes)

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(save, (refunds, refunds[::-1]))

    errors = list(zip(first, reversed(second), strict=True))
    for pair in errors:
        assert [type(each) for each in pair].count(type(None)) == 1
        assert any(isinstance(each, StaleStateError) for each in pair)


@pytest.mark.parametrize("noops", [0, 4])
def test_a_revocation_does_not_deadlock_with_a_batch(
    postgresql_url: str, noops: int
) -> None:
    """
    Both wait for the row in the middle, and then for those of each other.

    Some attempts of the batch may be no-ops.
    """
    with (
        closing(open_ledger(postgresql_url)) as store,
        psycopg.connect(postgresql_url) as holder,
        psycopg.connect(postgresql_url, autocommit=True) as observer,
        ThreadPoolExecutor(2) as threads,
    ):
        opened(store)
        made_active(store, key_at(WALLET))
        refunds = [accepted(store) for _ in range(9)]
        reservations = _reserve(store, *reversed(refunds))
        made_active(store, key_at(OTHER_WALLET))
        former = find_key(store.keys(), WALLET)
        assert former is not None
        changes = [
            _recorded(each, Kind.NOOP if each.nonce in range(noops) else Kind.TRANSFER)
            for each in reservations
            if isinstance(each, Refund)
        ]
        holder.execute(b"SELECT FROM transactions WHERE nonce = 4 FOR UPDATE")

        def waiting() -> int:
            query = b"SELECT count(*) FROM pg_locks WHERE NOT granted"
            return int(observer.execute(query).fetchone()[0])  # type: ignore[index]

        saving = threads.submit(store.save_all, changes)
        assert eventually(lambda: waiting() == 1)
        blocking = threads.submit(store.block, former, now(), record())
        assert eventually(lambda: waiting() == 2)
        holder.rollback()

        assert blocking.result(20).state is KeyState.BLOCKED
        errors = saving.result(20)
    assert len(changes) == 9
    assert {type(each) for each in errors} in ({type(None)}, {StaleStateError})
