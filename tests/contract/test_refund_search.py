"""Contract of ``RefundSearch``: operators find refunds of all tenants."""

import pytest

from backends.sql import SQLStore, refund_search
from signer.errors import InvalidInputError
from signer.model.refund import Status
from signer.ports import RefundFilter, RefundSearch
from tests.fixtures.ledger import OTHER_WALLET, accepted, moved


EVERYTHING = RefundFilter()


def _ids(store: SQLStore, wanted: RefundFilter, limit: int = 10) -> list[str]:
    return [each.id for each in store.search_refunds(wanted, limit=limit).refunds]


def test_fits_the_port(store: SQLStore) -> None:
    """The tables are ``RefundSearch``, which mypy verifies here."""
    fits: RefundSearch = store

    assert fits.search_refunds(EVERYTHING, limit=10).refunds == ()
    assert fits.search_refunds(EVERYTHING, limit=10).next_cursor is None
    assert fits.find_by_reference("order", 10) == ()


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


@pytest.mark.parametrize("wanted", [EVERYTHING, RefundFilter("shop", Status.QUEUED)])
@pytest.mark.parametrize("searched", [2, 3, 100])
def test_pages_have_every_refund_once(
    store: SQLStore,
    monkeypatch: pytest.MonkeyPatch,
    wanted: RefundFilter,
    searched: int,
) -> None:
    """Also where a page looks at fewer refunds than match."""
    monkeypatch.setattr(refund_search, "SEARCHED", searched)
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
    monkeypatch.setattr(refund_search, "SEARCHED", 2)
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


def test_a_reference_is_found_for_each_tenant(store: SQLStore) -> None:
    found = [accepted(store, tenant=name, reference="order").id for name in "acb"]
    accepted(store, tenant="b", reference="other")

    listed = [each.id for each in store.find_by_reference("order", 10)]
    assert listed == sorted(found, reverse=True)
    assert len(store.find_by_reference("order", 2)) == 2
    assert store.find_by_reference("order\0", 10) == ()


@pytest.mark.parametrize("limit", [0, 1001])
def test_a_page_has_a_limit(store: SQLStore, limit: int) -> None:
    with pytest.raises(InvalidInputError):
        store.search_refunds(EVERYTHING, limit=limit)
