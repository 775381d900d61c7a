"""Contract of ``RefundReports``: operators find refunds of all tenants."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from backends.sql import SQLStore, refund_reports
from signer.errors import InvalidInputError
from signer.model.refund import Status, new_refund_id
from signer.ports.refund_reports import RefundFilter
from tests.fixtures.ledger import OTHER_WALLET, accepted, moved


EVERYTHING = RefundFilter()

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def _ids(store: SQLStore, wanted: RefundFilter, limit: int = 10) -> list[str]:
    return [each.id for each in store.search_refunds(wanted, limit=limit).refunds]


def test_filters_restrict_together(store: SQLStore) -> None:
    one = accepted(store, tenant="a")
    two = accepted(store, tenant="b", recipient=OTHER_WALLET)
    done = accepted(store, tenant="b")
    moved(store, done, Status.CANCELLED)

    assert _ids(store, EVERYTHING) == sorted([one.id, two.id, done.id], reverse=True)
    assert _ids(store, RefundFilter(tenant="b")) == [done.id, two.id]
    assert _ids(store, RefundFilter(status=Status.QUEUED)) == [two.id, one.id]
    assert _ids(store, RefundFilter(status=Status.CANCELLED)) == [done.id]
    assert _ids(store, RefundFilter(recipient=OTHER_WALLET)) == [two.id]
    assert _ids(store, RefundFilter("b", Status.QUEUED)) == [two.id]
    assert _ids(store, RefundFilter("b", Status.CANCELLED, OTHER_WALLET)) == []
    assert _ids(store, RefundFilter(tenant="c")) == []


def test_a_range_of_acceptance_is_exact(store: SQLStore) -> None:
    """To the microsecond: the first bound is included, the second is not."""
    start = NOW + timedelta(microseconds=999)
    moments = [start + timedelta(microseconds=each) for each in (-1, 0, 1, 1500)]
    ids = [
        accepted(store, id=new_refund_id(each), created_at=each).id for each in moments
    ]

    def found(start: datetime | None, end: datetime | None) -> set[str]:
        return set(_ids(store, RefundFilter(accepted_from=start, accepted_before=end)))

    assert found(moments[1], None) == set(ids[1:])
    assert found(None, moments[2]) == set(ids[:2])
    assert found(moments[1], moments[3]) == set(ids[1:3])
    ends = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, tzinfo=UTC)
    assert found(*ends) == {*ids}
    assert found(NOW, NOW) == set()


RANGES: list[tuple[str | None, str | None, list[int]]] = [
    ("1", None, [0, 1, 2]),
    ("1.000000000000000001", None, [1, 2]),
    ("1.0000001", "1.0000009", []),
    (None, "1", [0, 3]),
    ("1.000001", "1.000001", [1]),
    ("0", "9" * 60, [0, 1, 2, 3]),
    ("9" * 60, None, []),
]


def test_amounts_are_in_whole_tokens(store: SQLStore) -> None:
    """Of tokens with different decimals together."""
    amounts = [(10**18, 18), (1_000_001, 6), (2**256 - 1, 18), (99, 2)]
    ids = [accepted(store, amount=units, decimals=each).id for units, each in amounts]
    for least, most, found in RANGES:
        bounds = [None if each is None else Decimal(each) for each in (least, most)]
        wanted = RefundFilter(min_amount=bounds[0], max_amount=bounds[1])

        assert _ids(store, wanted) == sorted((ids[n] for n in found), reverse=True)


def test_networks_and_sessions_restrict(store: SQLStore) -> None:
    here = accepted(store, tenant="a", payment_session_id="one")
    there = accepted(store, tenant="a", payment_session_id="two", network="other")

    assert _ids(store, RefundFilter(network="other")) == [there.id]
    assert _ids(store, RefundFilter("a", payment_session_id="one")) == [here.id]
    assert _ids(store, RefundFilter(payment_session_id="two")) == [there.id]
    assert _ids(store, RefundFilter("a", payment_session_id="one", network="x")) == []
    assert _ids(store, RefundFilter(network="\0")) == []


@pytest.mark.parametrize("wanted", [EVERYTHING, RefundFilter("shop", Status.QUEUED)])
@pytest.mark.parametrize("searched", [2, 3, 100])
def test_pages_have_every_refund_once(
    store: SQLStore,
    monkeypatch: pytest.MonkeyPatch,
    wanted: RefundFilter,
    searched: int,
) -> None:
    """Also where a page looks at fewer refunds than match."""
    monkeypatch.setattr(refund_reports, "SEARCHED", searched)
    ids = [accepted(store, tenant="shop").id for _ in range(7)]
    page = store.search_refunds(wanted, limit=2)
    seen = [each.id for each in page.refunds]
    while page.next_cursor is not None:
        page = store.search_refunds(wanted, limit=2, cursor=page.next_cursor)
        seen += [each.id for each in page.refunds]

    assert seen == sorted(ids, reverse=True)


def test_a_search_goes_on_where_it_stopped(
    store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page without a match says where the next one begins."""
    monkeypatch.setattr(refund_reports, "SEARCHED", 2)
    old = accepted(store, recipient=OTHER_WALLET)
    newer = [accepted(store) for _ in range(2)]
    wanted = RefundFilter(recipient=OTHER_WALLET)
    first = store.search_refunds(wanted, limit=5)
    second = store.search_refunds(wanted, limit=5, cursor=first.next_cursor)

    assert (first.refunds, first.next_cursor) == ((), newer[0].id)
    assert ([each.id for each in second.refunds], second.next_cursor) == (
        [old.id],
        None,
    )


def test_a_page_has_a_limit(store: SQLStore) -> None:
    for limit in (0, 1001):
        with pytest.raises(InvalidInputError):
            store.search_refunds(EVERYTHING, limit=limit)
