"""Contract of queries and ``RefundReports``: complete, in order, and counted."""

import secrets
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.sql import SQLStore, refund_reports
from signer.errors import InvalidInputError
from signer.model.refund import OPERATOR, Page, Refund, Status, new_refund_id
from signer.model.transaction import Kind, TransactionStatus
from signer.ports.refund_reports import (
    GAS,
    OpenRefunds,
    RecentPayment,
    RefundFilter,
    SignedTotals,
    SpentLately,
)
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    a_filler,
    accepted,
    adopted,
    as_if,
    bound,
    broadcast,
    examples,
    filled,
    forge,
    later,
    mined,
    moved,
    now,
    opened,
    queued,
    refund_page,
    reserved,
    save,
    signed,
    step_to,
    transaction,
    unrecorded,
)
from tests.support.ledgers import open_ledger
from tests.support.refunds import FakeClock


def test_an_unknown_id_has_nothing(store: SQLStore) -> None:
    for unknown in ("rf_0", "", "a\0b", "\ud800"):
        assert store.get(unknown) is None
        assert store.transactions(unknown) == ()
        assert store.history(unknown) == ()
        assert Page((), None) == refund_page(store, unknown)
        assert Page((), None) == refund_page(
            store, "gateway", payment_session_id=unknown
        )


def test_the_refund_of_a_reference_or_nonce(store: SQLStore) -> None:
    """Of this tenant, and of this wallet."""
    queued, paid = accepted(store, tenant="shop"), reserved(store, accepted(store))
    sender, nonce = paid.reserved().sender, paid.reserved().nonce

    assert store.find_reference("shop", queued.reference) == queued
    assert store.find_reference("gateway", queued.reference) is None
    assert store.find_reference("shop", "a\0b") is None
    assert store.find_transaction(31337, sender, nonce) == paid.reserved()
    assert store.find_transaction(31337, sender, nonce + 1) is None
    assert store.find_transaction(31337, OTHER_WALLET, nonce) is None
    assert store.find_transaction(1, sender, nonce) is None


def test_recent_fees_are_those_of_confirmed_refunds(store: SQLStore) -> None:
    """Those of one wallet: the last ones by nonce, each at the fee that was mined."""
    for fee in (1, 2, 3):
        refund = reserved(store, accepted(store))
        tip = {"max_priority_fee_per_gas": 1}
        first = transaction(refund, max_fee_per_gas=10 * fee, **tip)
        second = transaction(refund, max_fee_per_gas=100 * fee, attempt=1, **tip)
        for each in (first, second):
            after = step_to(refund, Status.SIGNED, now(), tx_hash=each.tx_hash)
            save(store, refund, after, each)
            refund = moved(store, after, Status.BROADCAST)
        place = {"tx_hash": first.tx_hash, "block_number": 7, "block_hash": "0x07"}
        moved(store, moved(store, refund, Status.MINED, **place), Status.CONFIRMED)
    broadcast(store)
    start = later(-60)

    def fees(sender: str, since: datetime, limit: int) -> list[int]:
        return sorted(store.recent_max_fees(31337, sender, since, limit))

    assert fees(WALLET, start, 20) == [10, 20, 30]
    assert fees(WALLET, start, 2) == [20, 30]
    assert fees(WALLET, later(60), 20) == []
    assert fees(OTHER_WALLET, start, 20) == []


@examples
@given(
    rows=st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=12),
    limit=st.integers(1, 5),
    session=st.sampled_from(["a", "b", None]),
    status=st.sampled_from([Status.QUEUED, Status.CANCELLED, None]),
)
def test_pages_are_complete_and_in_order(
    store: SQLStore,
    rows: list[tuple[str, bool]],
    limit: int,
    session: str | None,
    status: Status | None,
) -> None:
    """The pages together have each matching refund once, newest first."""
    tenant = secrets.token_hex(8)
    made = []
    for its_session, is_cancelled in rows:
        refund = accepted(store, tenant=tenant, payment_session_id=its_session)
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
        page = refund_page(
            store,
            tenant,
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
    old = [accepted(store) for _ in range(4)]
    first = refund_page(store, "gateway", limit=2)
    accepted(store)
    second = refund_page(store, "gateway", limit=2, cursor=first.next_cursor)

    assert {refund.id for refund in old} == {
        refund.id for refund in first.refunds + second.refunds
    }


def test_invalid_page_parameters_are_refused(store: SQLStore) -> None:
    """The error names the field."""
    wrong: list[dict[str, Any]] = [{"limit": 0}, {"limit": 1001}, {"cursor": "\0"}]
    for given_ in wrong:
        with pytest.raises(InvalidInputError) as caught:
            refund_page(store, "gateway", **given_)

        assert [caught.value.field] == [*given_]


def test_refunds_in_flight_are_returned_in_batches(store: SQLStore) -> None:
    """Sent refunds that are not final are returned, oldest first."""
    accepted(store)
    reserved(store, accepted(store))
    signed(store, reserved(store, accepted(store)))
    final = moved(store, mined(store, broadcast(store)), Status.CONFIRMED)
    flying = [broadcast(store), mined(store, broadcast(store)), broadcast(store)]
    flying.sort(key=lambda refund: refund.nonce or 0)

    assert final.status.is_final
    found = store.in_flight(10)
    whole = store.with_payments([one.transaction for one in found])
    assert flying == [one.payment for one in whole]
    assert [(each.tx_hash,) for each in flying] == [one.tx_hashes for one in found]
    assert found[:2] == store.in_flight(2)
    assert found[2:] == store.in_flight(2, after=found[1].transaction)
    assert store.in_flight(2, after=found[2].transaction) == ()


def test_all_hashes_of_a_refund_are_watched(store: SQLStore) -> None:
    """R16: a replaced transaction may still be mined."""
    sent = broadcast(store)
    second = transaction(sent, attempt=1)
    replaced = step_to(sent, Status.SIGNED, now(), tx_hash=second.tx_hash)
    save(store, sent, replaced, second)
    moved(store, replaced, Status.BROADCAST)
    (flying,) = store.in_flight(10)

    assert flying.tx_hashes == (second.tx_hash, sent.tx_hash)


def test_the_hash_of_an_adopted_refund_is_watched(store: SQLStore) -> None:
    refund = accepted(store)
    store.add_unrecorded(opened(store), [unrecorded(memo=refund.memo)])
    store.adopt(refund, adopted(refund, 0))
    (flying,) = store.in_flight(10)

    assert flying.tx_hashes == (adopted(refund, 0).tx_hash,)


def test_a_text_that_is_no_hash_is_not_watched(store: SQLStore) -> None:
    """Another program wrote it: nodes would reject the whole batch of receipts."""
    sent = broadcast(store)
    for text in ("", "0x", "0x" + "A" * 64, "0x" + "0" * 63, "x" * 66):
        forge(store, f"UPDATE transactions SET tx_hash = '{text}'")

        (flying,) = store.in_flight(10)

        assert flying.tx_hashes == (sent.tx_hash,)


def _below(store: SQLStore, refund: Refund, limit: int) -> Sequence[Refund]:
    own = refund.reserved()
    below = store.open_below(refund.chain_id, own.sender, own.nonce, limit)
    return tuple(each.payment for each in below)


def test_open_refunds_with_lower_nonces(store: SQLStore) -> None:
    """Those of the same wallet are returned, lowest first."""
    first, second, third, last = (broadcast(store) for _ in range(4))
    accepted(store)
    reserved(store, accepted(store), sender=OTHER_WALLET)
    reserved(store, accepted(store, chain_id=1))
    moved(store, mined(store, second), Status.CONFIRMED)

    assert (first, third) == _below(store, last, 10)
    assert (first,) == _below(store, last, 1)
    assert _below(store, first, 10) == ()


# Contract of ``RefundReports``: searches, counts for metrics, and what was signed.

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


CHAIN = 31337

TOKEN = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


def test_open_refunds_are_grouped(store: SQLStore) -> None:
    """By everything that a label has, with the oldest of each; final ones are out."""
    old, new = queued(), queued()
    old = replace(old, updated_at=old.updated_at - timedelta(hours=1))
    filled(store, [old, new])
    waiting = accepted(store, tenant="shop")
    code = "limit-reached"
    save(store, waiting, waiting.with_due_at(now(), attempts=1, blocked_by=code))
    moved(store, accepted(store), Status.CANCELLED)

    found = sorted(store.open_refunds(), key=lambda each: each.tenant)

    assert found == [
        OpenRefunds("local", "gateway", Status.QUEUED, None, 2, old.updated_at),
        OpenRefunds("local", "shop", Status.QUEUED, code, 1, waiting.updated_at),
    ]


def test_accepted_refunds_are_counted_by_their_ids(store: SQLStore) -> None:
    began = now()
    hour = timedelta(hours=1)
    for at in (began - hour, began, began + timedelta(seconds=1)):
        accepted(store, id=new_refund_id(at))
    accepted(store, id=new_refund_id(began), tenant="shop", network="other")

    assert dict(store.accepted_since(began)) == {
        ("local", "gateway"): 2,
        ("other", "shop"): 1,
    }
    assert store.accepted_since(began - hour)["local", "gateway"] == 3


def test_the_last_payments_are_confirmed_refunds(store: SQLStore) -> None:
    for amount in (5, 7, 9):
        sent = mined(store, broadcast(store, amount=amount))
        moved(store, sent, Status.CONFIRMED)
    moved(store, mined(store, broadcast(store)), Status.FAILED, failure_code="reverted")
    sweep = adopted(queued(**bound()), 99)
    filled(store, [as_if(sweep, status=Status.CONFIRMED)])

    expected = [RecentPayment(OTHER_WALLET, amount, 65_000) for amount in (9, 7)]
    assert list(store.last_payments(CHAIN, 2)) == expected
    assert len(store.last_payments(CHAIN, 10)) == 3
    assert store.last_payments(7, 10) == ()


def test_spendings_of_a_day_are_exact(store: SQLStore) -> None:
    """Beyond the integers of databases; only the tokens that were asked for."""
    large = 2**200 + 1
    for amount in (large, large):
        reserved(store, accepted(store, amount=amount))
    reserved(store, accepted(store, amount=3, token_address=TOKEN))

    gas, amount = 3 * 65_000, 2 * large
    assert dict(store.spent_lately(CHAIN, [GAS, OTHER_WALLET])) == {
        GAS: SpentLately(gas, gas),
        OTHER_WALLET: SpentLately(amount, amount),
    }
    assert dict(store.spent_lately(7, [GAS])) == {}


def test_spendings_of_a_tenant(store: SQLStore) -> None:
    reserved(store, accepted(store, tenant="shop", amount=3))
    reserved(store, accepted(store, tenant="other", amount=4))

    assert store.spent_lately(CHAIN, [OTHER_WALLET])[OTHER_WALLET].day == 7
    assert dict(store.spent_lately(CHAIN, [GAS, OTHER_WALLET], "shop")) == {
        GAS: SpentLately(65_000, 65_000),
        OTHER_WALLET: SpentLately(3, 3),
    }


def test_earlier_hours_count_for_the_day_only(database_url: str) -> None:
    clock = FakeClock()
    with closing(open_ledger(database_url, clock=clock)) as store:
        reserved(store, accepted(store, amount=3))
        clock.advance(hours=23)
        reserved(store, accepted(store, amount=4))

        assert store.spent_lately(CHAIN, [OTHER_WALLET])[OTHER_WALLET] == (4, 7)
        clock.advance(hours=1)
        assert store.spent_lately(CHAIN, [OTHER_WALLET])[OTHER_WALLET] == (0, 4)


PAST = timedelta(minutes=10)


def _signed_at(store: SQLStore, at: datetime, **changes: object) -> Refund:
    refund = reserved(store, accepted(store, **changes))
    first = transaction(refund, signed_at=at, gas_limit=65_000)
    after = step_to(refund, Status.SIGNED, at, tx_hash=first.tx_hash)
    save(store, refund, after, first)
    return after


def test_signed_refunds_are_counted_since_a_time(store: SQLStore) -> None:
    """On their chain; queued and reserved ones do not count."""
    began = now()
    for at in (began - PAST, began, began + PAST):
        _signed_at(store, at)
    _signed_at(store, began, chain_id=7)
    reserved(store, accepted(store))
    accepted(store)

    def count(chain_id: int, since: datetime) -> int:
        return store.signed_by_tenant(chain_id, since)["gateway"].refunds

    assert count(CHAIN, began) == 2
    assert count(CHAIN, began - PAST) == 3
    assert count(7, began) == 1


def test_each_tenant_has_its_share(store: SQLStore) -> None:
    """By token, and exactly beyond the integers of databases."""
    began, large = now(), 2**200 + 1
    for tenant, amount in (("shop", large), ("shop", large), ("shop", 1), ("other", 2)):
        _signed_at(store, began, tenant=tenant, amount=amount)
    _signed_at(store, began, tenant="shop", amount=5, token_address=WALLET)

    amounts = {OTHER_WALLET: 2 * large + 1, WALLET: 5}
    assert store.signed_by_tenant(CHAIN, began) == {
        "shop": SignedTotals(4, 4 * 65_000, amounts),
        "other": SignedTotals(1, 65_000, {OTHER_WALLET: 2}),
    }
    assert store.signed_by_tenant(CHAIN, began + PAST) == {}


def test_a_replacement_counts_for_its_gas_only(store: SQLStore) -> None:
    began = now()
    refund = _signed_at(store, began, amount=5)
    sent = moved(store, refund, Status.BROADCAST)
    again = transaction(
        sent, attempt=1, kind=Kind.NOOP, signed_at=began, gas_limit=21_000
    )
    save(store, sent, step_to(sent, Status.SIGNED, began, tx_hash=again.tx_hash), again)

    assert store.signed_by_tenant(CHAIN, began) == {
        "gateway": SignedTotals(1, 86_000, {OTHER_WALLET: 5})
    }


def test_a_filler_counts_for_the_gas_of_the_operator(store: SQLStore) -> None:
    began = now()
    _signed_at(store, began, amount=5)
    filler = a_filler(store, 7, began)
    noop = transaction(filler, kind=Kind.NOOP, signed_at=began)
    status = TransactionStatus.SIGNED
    store.save(filler, filler.with_status(status, began, tx_hash=noop.tx_hash), noop)

    assert store.signed_by_tenant(CHAIN, began) == {
        "gateway": SignedTotals(1, 65_000, {OTHER_WALLET: 5}),
        OPERATOR: SignedTotals(0, 21_000),
    }


def test_results_are_the_newest(store: SQLStore) -> None:
    """Refused and cancelled refunds used no nonce, and do not count."""
    began = now()
    for status in (Status.CONFIRMED, Status.FAILED, Status.FAILED):
        sent = mined(store, broadcast(store))
        codes = {"failure_code": "reverted"} if status is Status.FAILED else {}
        moved(store, sent, status, **codes)
    moved(store, accepted(store), Status.CANCELLED)
    broadcast(store)

    newest = [Status.FAILED, Status.FAILED, Status.CONFIRMED]
    found = store.last_results(CHAIN, began, 10)
    assert [status for _, status, _ in found] == newest
    assert {tenant for tenant, _, _ in found} == {"gateway"}
    assert all(at >= began for _, _, at in found)
    assert store.last_results(CHAIN, began, 2) == found[:2]
    assert store.last_results(CHAIN, began + PAST, 10) == ()
    assert store.last_results(7, began, 10) == ()
