"""Contract of ``claim`` and ``postpone_queue``: one claimant at a time."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backends.sql import SQLStore, refunds
from signer.errors import StaleStateError
from signer.model.refund import Queue, Refund, Status
from signer.model.transaction import Transaction, compose
from signer.ports.refund_store import Places
from tests.fixtures.ledger import (
    accepted,
    bound,
    broadcast,
    examples,
    forge,
    later,
    mined,
    moved,
    now,
    reserved,
    save,
    signed,
    stored,
)
from tests.fixtures.ledger import claimed as claimed_from
from tests.support.audit import overruled


def _claim(
    store: SQLStore, limit: int = 10, *, at: datetime | None = None
) -> list[str]:
    moment = at or now()
    claimed = claimed_from(store, moment, moment + timedelta(seconds=20), limit)
    return [refund.id for refund in claimed]


def _payments(claimed: Sequence[Refund | Transaction]) -> set[str]:
    return {payment.id for each in claimed for payment in each.payments}


def test_a_claim_is_a_change(store: SQLStore) -> None:
    """A claim changes version and due time, adds no history, and returns the refund."""
    failed: dict[str, Any] = {"attempts": 3, "blocked_by": "chain-unavailable"}
    new = accepted(store)
    refund = new.with_due_at(now(), **failed)
    save(store, new, refund)
    until = later(20)
    (claimed,) = claimed_from(store, later(1), until, 10)

    assert claimed == refund.with_due_at(until, **failed)
    assert claimed == store.get(refund.id)
    assert len(store.history(refund.id)) == 1


@pytest.mark.parametrize("most", [1, 3])
def test_new_refunds_need_no_claim(store: SQLStore, most: int) -> None:
    """They are due, no worker took them before, and nothing else is due."""
    new = [accepted(store, due_at=now()) for _ in range(most)]

    def take(at: datetime) -> Sequence[Refund]:
        found = store.claim(at, at + timedelta(seconds=20), 10, unclaimed=most)
        return [payment for each in found for payment in each.payments]

    assert take(later(-5)) == []
    assert take(later(1)) == new
    assert take(later(1)) == [store.get(refund.id) for refund in new]
    other = accepted(store, due_at=now())
    assert {each.version for each in take(later(1))} == {1}
    assert {each.id for each in take(later(30))} == {each.id for each in (*new, other)}


def test_refunds_are_claimed_beside_a_transaction(store: SQLStore) -> None:
    broadcast(store)
    refund = accepted(store, due_at=now())

    taken = store.claim(later(60), later(80), 10, unclaimed=10)

    assert isinstance(taken[0], Transaction)
    assert [(each.id, each.version) for each in taken[1:]] == [(refund.id, 1)]


def test_a_refund_that_was_claimed_before_is_claimed_again(store: SQLStore) -> None:
    """Its worker may have died after half of a step."""
    refund = accepted(store, due_at=now())
    until = later(20)
    store.claim(later(1), later(2), 10)
    (again,) = store.claim(later(3), until, 10, unclaimed=10)

    assert (again.id, again.version, again.due_at) == (refund.id, 2, until)


def test_a_claim_has_at_most_so_many_refunds(store: SQLStore) -> None:
    """Transactions need no place: they have one."""
    sent = broadcast(store)
    queue = [accepted(store, due_at=now()) for _ in range(3)]
    until = later(200)

    first = store.claim(later(100), until, 10, places=Places(2))
    second = store.claim(later(100), until, 10, places=Places(2))

    assert _payments(first) == {sent.id, queue[0].id, queue[1].id}
    assert _payments(second) == {queue[2].id}


def test_refunds_of_a_full_chain_stay_as_they_are(store: SQLStore) -> None:
    """Another chain and sweeps have other wallets, and are claimed."""
    waiting = accepted(store, due_at=later(-9))
    elsewhere = accepted(store, chain_id=999, due_at=now())
    sweep = accepted(store, **bound(), due_at=now())
    full = frozenset({waiting.chain_id})

    claimed = store.claim(later(1), later(20), 10, places=Places(5, full))

    assert _payments(claimed) == {elsewhere.id, sweep.id}
    assert store.get(waiting.id) == waiting


def test_only_sweeps_are_claimed_if_there_is_no_place(store: SQLStore) -> None:
    waiting = accepted(store, due_at=later(-9))
    sweep = accepted(store, **bound(), due_at=now())
    sent = broadcast(store)
    full = Places(0, frozenset({waiting.chain_id}))

    claimed = store.claim(later(100), later(200), 10, places=full)

    assert _payments(claimed) == {sent.id, sweep.id}


def test_a_held_refund_is_not_claimed(store: SQLStore) -> None:
    """Until a claim expires, no other worker gets the refund."""
    refund = accepted(store, due_at=now())
    at = now()

    assert _claim(store, at=at) == [refund.id]
    assert _claim(store, at=at) == []
    assert _claim(store, at=at + timedelta(seconds=19.9)) == []
    assert _claim(store, at=at + timedelta(seconds=20)) == [refund.id]


def test_a_new_refund_is_held_for_its_request(store: SQLStore) -> None:
    """The request that created a refund has the first claim on it."""
    refund = accepted(store)

    assert _claim(store) == []
    assert _claim(store, at=refund.due_at) == [refund.id]


def test_the_oldest_due_time_comes_first(store: SQLStore) -> None:
    """If more refunds are due than the limit, the oldest are claimed."""
    dated = [accepted(store, due_at=later(-seconds)) for seconds in (3, 9, 6)]

    assert _claim(store, 2) == sorted([dated[1].id, dated[2].id])
    assert _claim(store, 2) == [dated[0].id]


def test_only_open_refunds_are_claimed(store: SQLStore) -> None:
    """Mined and final refunds are never claimed; all others are, once due."""
    work = [
        accepted(store),
        reserved(store, accepted(store)),
        signed(store, reserved(store, accepted(store))),
        broadcast(store),
    ]
    mined(store, broadcast(store))
    moved(store, mined(store, broadcast(store)), Status.CONFIRMED)
    moved(store, accepted(store), Status.CANCELLED)
    moved(store, reserved(store, accepted(store)), Status.FAILED)

    claimed = _claim(store, 99, at=later(60))
    assert sorted(refund.id for refund in work) == sorted(claimed)


def test_tenants_take_turns(store: SQLStore) -> None:
    """A long queue takes what others leave; in each, the oldest comes first."""
    long = [accepted(store, due_at=later(-99 + n)).id for n in range(9)]
    second = [accepted(store, due_at=later(-9 + n), tenant="b").id for n in range(2)]
    third = accepted(store, due_at=later(-3), tenant="c").id

    assert set(_claim(store, 2)) == {long[0], second[0]}
    # Each of them gets as many as the one with the fewest: the next batch is near.
    assert set(_claim(store, 5)) == {long[1], second[1], third}
    assert set(_claim(store, 3)) == {*long[2:5]}
    assert set(_claim(store, 9)) == {*long[5:]}


def test_a_claim_begins_with_those_that_waited_longest(store: SQLStore) -> None:
    """Also if it has no room for all tenants."""
    waiting = [
        accepted(store, due_at=later(-n), tenant=f"tenant {n % 20}") for n in range(40)
    ]
    oldest = [refund.id for refund in reversed(waiting)]

    assert set(_claim(store, 2)) == {*oldest[:2]}
    assert set(_claim(store, 2)) == {*oldest[2:4]}


def test_what_has_a_nonce_waits_for_no_turn(store: SQLStore) -> None:
    """Higher nonces wait for it, so half of each claim may be theirs."""
    begun = [reserved(store, accepted(store)) for _ in range(6)]
    queue = [accepted(store, due_at=later(-3), tenant=name).id for name in "abcd"]
    claims = [set(_claim(store, 4, at=later(60))) for _ in range(3)]

    assert [len(claim & {each.id for each in begun}) for claim in claims] == [2, 2, 2]
    assert [len(claim & {*queue}) for claim in claims] == [2, 2, 0]


@pytest.mark.parametrize("seconds", [121, 3600, 400 * 86400])
def test_a_due_time_far_in_the_future_counts_as_due(
    store: SQLStore, seconds: int
) -> None:
    """R30: such a due time comes from a fast clock."""
    refund = accepted(store, due_at=later(seconds))

    assert _claim(store) == [refund.id]
    assert _claim(store) == []


def test_a_slow_clock_claims_held_refunds(store: SQLStore) -> None:
    """R30: a worker with a slow clock claims held refunds; versions prevent harm."""
    refund = accepted(store)
    held = claimed_from(
        store, refund.due_at, refund.due_at + timedelta(seconds=20), 10
    )[0]
    again = claimed_from(store, later(-3600), later(-3580), 10)[0]

    with pytest.raises(StaleStateError):
        moved(store, held, Status.CANCELLED)
    assert again == store.get(refund.id)


def test_a_lost_claim_cannot_save(store: SQLStore) -> None:
    """R29: neither before nor after the new claimant saves."""
    refund = accepted(store)
    (mine,) = claimed_from(store, refund.due_at, later(40), 10)
    (theirs,) = claimed_from(store, later(60), later(80), 10)

    for late in (refund, mine):
        with pytest.raises(StaleStateError):
            save(store, late, late.with_due_at(now()))
        with pytest.raises(StaleStateError):
            reserved(store, late)
    after = reserved(store, theirs)
    with pytest.raises(StaleStateError):
        moved(store, mine, Status.CANCELLED)
    assert after == store.get(refund.id)


@examples
@example(dates=[120, 126], limits=[1])
@given(
    dates=st.lists(st.integers(-200, 200), max_size=8),
    limits=st.lists(st.integers(1, 4), min_size=1, max_size=4),
)
def test_claims_return_each_due_refund_once(
    store: SQLStore, dates: list[int], limits: list[int]
) -> None:
    """The oldest first; those that a wrong clock dated have turns of their own."""
    at = now()
    made = [
        accepted(store, due_at=at + timedelta(seconds=seconds)) for seconds in dates
    ]
    by_id = {refund.id: refund.due_at for refund in made}
    past = sorted(each for each in by_id.values() if each <= at)
    future = sorted(e for e in by_id.values() if e > at + timedelta(seconds=120))
    for limit in limits:
        claimed = claimed_from(store, at, at + timedelta(seconds=100), limit)
        dates_ = sorted(by_id[refund.id] for refund in claimed)
        from_past = sum(each <= at for each in dates_)

        assert bool(past or future) <= len(dates_) <= limit
        assert dates_ == past[:from_past] + future[: len(dates_) - from_past]
        past, future = past[from_past:], future[len(dates_) - from_past :]
    for refund in made:  # Examples share a database.
        moved(store, stored(store, refund), Status.CANCELLED)


def _invented(nonce: int, *, fills: bool) -> str:
    """Return the statement that inserts a transaction that pays no refund."""
    fixed = "chain_id, sender, network, key_id, gas_limit, created_at, status"
    fixed += ", updated_at"
    kind, paid = ("filler", compose(())) if fills else ("transfer", f"{nonce}")
    return (
        f"INSERT INTO transactions ({fixed}, nonce, kind, composition, version, due_at,"
        f" attempts) SELECT {fixed}, {nonce}, '{kind}', '{paid}', 0, created_at, 0"
        " FROM transactions WHERE nonce = 0"
    )


@pytest.mark.parametrize("fills", [True, False])
def test_transactions_without_a_refund(store: SQLStore, *, fills: bool) -> None:
    """Rows that another program inserted take the places of no refund."""
    refund = reserved(store, accepted(store))
    for nonce in range(5, 9):
        forge(store, _invented(nonce, fills=fills))

    (claimed,) = claimed_from(store, later(30), later(41), 4)
    (below,) = store.open_below(31337, refund.reserved().sender, 9, 2)

    assert claimed.id == refund.id
    assert below.payment_ids == (refund.id,)


def test_refunds_that_another_program_ended(store: SQLStore, database_url: str) -> None:
    """They are not claimed, and take the places of no others."""
    ended, refund = (reserved(store, accepted(store)) for _ in range(2))
    overruled(
        database_url, f"UPDATE refunds SET state = 'failed' WHERE id = '{ended.id}'"
    )

    assert [each.id for each in claimed_from(store, later(30), later(41), 1)] == [
        refund.id
    ]


QUEUES = (
    Queue(network="local"),
    Queue(tenant="gateway"),
    Queue(tenant="gateway", network="local", token="TUSD"),
)


def _postpone(store: SQLStore, queue: Queue) -> int:
    return store.postpone_queue(
        queue, now=later(1), until=later(30), code="wallet-paused"
    )


@pytest.mark.parametrize("queue", QUEUES, ids=["network", "tenant", "token"])
def test_due_refunds_of_the_queue_are_postponed(store: SQLStore, queue: Queue) -> None:
    """Each is as after a failed step of its own."""
    first, second = (accepted(store, due_at=now()) for _ in range(2))
    others = [
        accepted(store, due_at=later(20)),
        accepted(store, due_at=now(), network="other", tenant="shop"),
        accepted(store, due_at=now(), **bound()),
    ]
    until = later(30)
    count = store.postpone_queue(queue, now=later(1), until=until, code="some-code")

    assert count == 2
    for refund in (first, second):
        expected = refund.with_due_at(until, attempts=1, blocked_by="some-code")
        assert stored(store, refund) == expected
    assert [stored(store, refund) for refund in others] == others
    claimed = [each.id for each in claimed_from(store, later(1), later(20), 10)]
    assert sorted(claimed) == sorted(refund.id for refund in others[1:])


def test_only_queued_refunds_are_postponed(store: SQLStore) -> None:
    """A refund that has a nonce is paid from a paused wallet too."""
    refund = signed(store, reserved(store, accepted(store)))
    due = refund.with_due_at(now())
    save(store, refund, due)

    assert _postpone(store, QUEUES[0]) == 0
    assert stored(store, refund) == due
    assert due.status is Status.SIGNED


def test_a_claimed_refund_is_not_postponed(store: SQLStore) -> None:
    """Its claimant saves what comes of it."""
    accepted(store, due_at=now())
    (claimed,) = claimed_from(store, later(1), later(20), 10)

    assert _postpone(store, QUEUES[0]) == 0
    assert stored(store, claimed) == claimed


def test_a_long_queue_is_postponed_in_parts(
    store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The length of the queue may be a multiple of that of a part."""
    waiting = [accepted(store, due_at=now()) for _ in range(4)]
    monkeypatch.setattr(refunds, "PART", 2)

    assert _postpone(store, QUEUES[0]) == 4
    assert [stored(store, each).attempts for each in waiting] == [1] * 4
