"""What every store promises to readers: what is there, and in order."""

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.sql import SQLStore
from signer.errors import InvalidInputError
from signer.refunds.refund import OPEN, Move, Page, Refund, Status
from tests.fixtures.ledger import accepted, examples, moved, reserved, signed


@pytest.mark.parametrize("unknown", ["rf_0", "", "a\0b", "\ud800"])
def test_unknown(store: SQLStore, unknown: str) -> None:
    """There is nothing under an unknown id, however odd it is."""
    assert store.get(unknown) is None
    assert store.transactions(unknown) == ()
    assert store.history(unknown) == ()
    assert Page((), None) == store.list(unknown)
    assert Page((), None) == store.list("gateway", payment_session_id=unknown)


def test_history_begins_at_the_beginning(store: SQLStore) -> None:
    """The first line of a history is that the refund was queued."""
    refund = accepted(store)

    assert (Move(refund.id, 0, Status.QUEUED, refund.updated_at),) == (
        store.history(refund.id)
    )


@examples
@given(
    rows=st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=12),
    limit=st.integers(1, 5),
    session=st.sampled_from(["a", "b", None]),
    status=st.sampled_from([Status.QUEUED, Status.CANCELLED, None]),
)
def test_pages(
    store: SQLStore,
    rows: list[tuple[str, bool]],
    limit: int,
    session: str | None,
    status: Status | None,
) -> None:
    """Page by page, each refund that fits comes once, and newest first."""
    client = secrets.token_hex(8)
    made = []
    for its_session, is_cancelled in rows:
        refund = accepted(store, client=client, payment_session_id=its_session)
        if is_cancelled:
            refund = moved(store, refund, Status.CANCELLED)
        made.append(refund)
    expected = [
        refund
        for refund in sorted(made, key=lambda refund: refund.id, reverse=True)
        if session in {None, refund.payment_session_id}
        and status in {None, refund.status}
    ]
    seen: list[Refund] = []
    cursor: str | None = None
    while True:
        page = store.list(
            client,
            payment_session_id=session,
            status=status,
            limit=limit,
            cursor=cursor,
        )
        seen += page.refunds
        cursor = page.next_cursor
        assert len(page.refunds) == limit or cursor is None
        if cursor is None:
            break

    assert expected == seen


def test_new_refunds_do_not_shift_pages(store: SQLStore) -> None:
    """A refund that comes while somebody pages is not on a later page."""
    old = [accepted(store) for _ in range(4)]
    first = store.list("gateway", limit=2)
    accepted(store)
    second = store.list("gateway", limit=2, cursor=first.next_cursor)

    assert {refund.id for refund in old} == {
        refund.id for refund in first.refunds + second.refunds
    }


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("limit", {"limit": 0}),
        ("limit", {"limit": 1001}),
        ("cursor", {"cursor": "\0"}),
    ],
)
def test_impossible_pages(store: SQLStore, field: str, given: dict[str, int]) -> None:
    """A page that cannot be is the caller's mistake, and names the field."""
    with pytest.raises(InvalidInputError) as caught:
        store.list("gateway", **given)  # type: ignore[arg-type]

    assert field == caught.value.field


def test_open_refunds(store: SQLStore) -> None:
    """The worker sees what is not final, oldest first, and no more than it asks."""
    done = moved(store, accepted(store), Status.CANCELLED)
    failed = moved(store, reserved(store, accepted(store)), Status.FAILED)
    waiting = [accepted(store), reserved(store, accepted(store))]
    waiting.append(signed(store, reserved(store, accepted(store))))
    waiting.sort(key=lambda refund: refund.id)

    assert not {done.status, failed.status} & OPEN
    assert tuple(waiting) == store.open_refunds(10)
    assert tuple(waiting[:2]) == store.open_refunds(2)
    assert tuple(waiting[2:]) == store.open_refunds(2, after=waiting[1].id)
    assert store.open_refunds(2, after=waiting[2].id) == ()
