"""Honest books: double entries, batches, exact sums, and what reports show."""

import csv
import json
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.extras.books.comparison import NetworkBooks
from api.extras.books.entries import Code, Difference, Period, UsedNonce
from api.extras.books.general_ledger import GeneralLedger
from api.extras.books.reports import (
    MOST_LISTED,
    BookReport,
    books_csv,
    books_document,
    books_html,
    books_lines,
    describe,
    ledger_csv,
    read_openings,
    settlement_row,
    summary,
)
from api.views.refund_files import safe_cell
from signer.chain.vault import Item, Reason
from signer.errors import ChainUnavailableError, InvalidInputError
from signer.model.payment import PaymentState
from signer.model.refund import COIN_ADDRESS, Refund
from signer.ports.clock import utc_now
from tests.extras.books.paid_books import (
    CUSTOMER,
    FEE,
    GUARDIAN,
    OTHER_TOKEN,
    SECOND,
    START,
    STRANGER,
    SWEEP,
    TOKEN,
    VAULT,
    WALLET,
    Books,
)
from tests.fixtures.ledger import examples


def ledger_of(books: Books) -> list[dict[str, str]]:
    report = BookReport(Period(START, START + timedelta(days=1)), utc_now())
    for event in books.events():
        report.add(event)
    return list(csv.DictReader(ledger_csv(report).splitlines()))


def totals(rows: list[dict[str, str]]) -> dict[tuple[str, ...], Decimal]:
    """Return debit less credit, by asset, account and tenant."""
    found: dict[tuple[str, ...], Decimal] = {}
    for each in rows:
        key = each["asset"], each["account"], each["tenant"]
        moved = Decimal(each["debit"]) - Decimal(each["credit"])
        found[key] = found.get(key, Decimal(0)) + moved
    return found


def test_each_tenant_has_its_refunds_and_fees(books: Books) -> None:
    """A batch's fee is divided among its items; other fees are of no tenant."""
    books.top_up(amount=10**9)
    books.chain.top_up(VAULT, TOKEN, 10**9)
    books.paid(tenant="shop", amount=12_500_000)
    refunds = [books.refund(tenant=name, amount=10) for name in ("a", "b", "b")]
    books.chain.mine()
    items = [Item(each.recipient, each.amount, each.memo) for each in refunds]
    settled = books.chain.pay_out(WALLET, items, [None, None, Reason.REVERTED])
    books.write_batch(refunds, settled, ["confirmed", "confirmed", "failed"])
    books.paid(recipient=CUSTOMER, amount=2_000_000, **SWEEP)
    books.chain.mine()
    books.chain.send(WALLET, to=WALLET)
    fee, third = Decimal(FEE) / 10**18, Decimal(FEE // 3) / 10**18

    found = totals(ledger_of(books))
    coin = {key[1:]: each for key, each in found.items() if key[0] != "TUSD"}
    tokens = {key[1:]: each for key, each in found.items() if key[0] == "TUSD"}

    assert tokens == {
        ("refunds", "shop"): Decimal("12.5"),
        ("refunds", "a"): Decimal("0.00001"),
        ("refunds", "b"): Decimal("0.00001"),
        ("sweeps", ""): Decimal(2),
        ("received", ""): Decimal(-2000),
        ("wallet", ""): Decimal("1985.49998"),
    }
    assert coin["fees", "shop"] == fee
    assert coin["fees", "a"] == third
    assert coin["fees", "a"] + coin["fees", "b"] == fee
    assert coin["fees", ""] == 2 * fee  # Of the sweep, and of an unknown transaction.


@pytest.mark.parametrize("seed", range(3))
def test_debits_equal_credits(books: Books, seed: int) -> None:
    """In each asset, whatever happened; the wallets' sums are the balances' changes."""
    chance = random.Random(seed)
    books.top_up(amount=10**10)
    books.chain.top_up(VAULT, TOKEN, 10**9)
    acts: list[Callable[[], object]] = [
        lambda: books.paid(tenant=chance.choice("abc")),
        lambda: books.batch(None, Reason.REVERTED, None),
        books.reverted,
        books.cancelled,
        lambda: books.paid(**SWEEP),
        lambda: books.chain.pay(WALLET, CUSTOMER, 5),
        lambda: books.chain.send(WALLET, to=CUSTOMER, value=7),
        lambda: books.chain.top_up(WALLET, COIN_ADDRESS, 9),
    ]
    for _ in range(40):
        books.chain.mine()
        chance.choice(acts)()
    rows = ledger_of(books)

    for asset in ("TUSD", *{each["asset"] for each in rows}):
        own = [each for each in rows if each["asset"] == asset]
        assert sum(totals(own).values()) == 0
        assert sum(Decimal(each["debit"]) for each in own) > 0
    for address, decimals in ((TOKEN, 6), (COIN_ADDRESS, 18)):
        for wallet in (WALLET, VAULT):
            closing = books.chain.token_balance(address, wallet, books.chain.head)
            moved = sum(
                Decimal(each["debit"]) - Decimal(each["credit"])
                for each in rows
                if (each["wallet"], each["account"]) == (wallet, "wallet")
                and each["asset_address"] == address
            )
            assert moved == Decimal(closing).scaleb(-decimals)


def test_a_network_that_fails_leaves_nothing(books: Books) -> None:
    ledger, report = GeneralLedger(), BookReport(Period(START, utc_now()), utc_now())
    books.paid()
    *events, result = books.events()
    for each in events:
        report.add(each)
    report.fail("local", ChainUnavailableError("gone"))
    report.add(result)
    ledger.add(result)

    assert report.ledger.rows == ledger.rows


# Honest books have no difference, and their sums are exact.

STEPS: dict[str, Callable[[Books], object]] = {
    "refund": Books.paid,
    "reverted": Books.reverted,
    "cancelled": Books.cancelled,
    "filler": Books.filler,
    "batch": lambda books: books.batch(None, None, None),
    "batch with all ends": lambda books: books.batch(None, *Reason, None),
    "batch that paid none": lambda books: books.batch(Reason.ABOVE_DAY_CAP),
    "sweep": Books.swept,
    "coin sweep": Books.swept_coin,
    "call": Books.called,
    "call without coin": lambda books: books.called(0),
    "call that moves tokens": lambda books: books.called(moved=9),
    "foreign": Books.foreign,
    "top-up": Books.top_up,
    "coin": lambda books: books.top_up(COIN_ADDRESS, 10**18),
    "other token": lambda books: books.top_up(OTHER_TOKEN, 77),
    "empty blocks": lambda books: books.chain.mine(300),
    "other wallet": lambda books: books.paid(SECOND),
}


@settings(examples, max_examples=60)
@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=25), st.data())
def test_honest_books_have_no_difference(
    books: Books, steps: list[str], data: st.DataObject
) -> None:
    """All kinds of payments, in any order, and any part of the chain."""
    books = Books(books.store)
    books.chain.mine()
    for step in steps:
        STEPS[step](books)
    first = data.draw(st.integers(1, books.chain.head))
    last = data.draw(st.integers(first, books.chain.head))

    *events, result = books.events(first, last)

    assert not [each for each in events if hasattr(each, "code")]
    assert isinstance(result, NetworkBooks)
    for account in result.accounts:
        assert account.received is not None
        assert account.opening is not None
        assert account.opening + account.received - account.spent == account.closing
    assert not result.notes


def test_the_sums_of_a_wallet(books: Books) -> None:
    """Each payment is in its own sum, and received coin is computed."""
    books.top_up(amount=100)
    books.top_up(COIN_ADDRESS, 10**18)
    books.paid(amount=10)
    books.reverted()
    books.cancelled()
    books.swept(5)
    books.swept_coin(7)
    books.foreign()

    result = books.result()

    of = {(each.wallet, each.asset): each for each in result.accounts}
    tokens, coin = of[WALLET, TOKEN], of[WALLET, COIN_ADDRESS]
    assert (tokens.refunds, tokens.sweeps, tokens.other) == (10, 5, 3)
    assert (tokens.opening, tokens.received, tokens.closing) == (0, 100, 82)
    assert (coin.sweeps, coin.fees, coin.received) == (7, 6 * FEE, 10**18)
    assert of[SECOND, TOKEN].received == 5
    assert of[SECOND, COIN_ADDRESS].received == 7
    assert (result.refunds, result.sweeps, result.others) == (3, 2, 1)


def test_only_the_period_counts(books: Books) -> None:
    """Refunds before and after it are in the balances only."""
    books.top_up(amount=100)
    books.paid(amount=1)
    first = books.chain.head + 1
    books.paid(amount=10)
    last = books.chain.head
    books.paid(amount=20)

    result = books.result(first, last)

    (tokens,) = [each for each in result.accounts if each.asset == TOKEN]
    assert (tokens.opening, tokens.refunds, tokens.closing) == (99, 10, 89)
    assert result.refunds == 1


def test_blocks_are_read_in_windows(books: Books) -> None:
    """No window is larger than 2,000 blocks, and together they are the range."""
    books.top_up(amount=10)
    books.chain.mine(4500)
    books.paid(amount=10)

    assert books.codes() == []
    assert books.chain.windows == [(1, 2000), (2001, 4000), (4001, 4503)]


def test_many_pages_of_honest_refunds_have_no_difference(books: Books) -> None:
    books.top_up(amount=10**15)
    books.top_up(COIN_ADDRESS, 10**20)
    for number in range(1_100):
        if number % 100 == 0:
            books.reverted()
        elif number % 100 == 1:
            books.cancelled()
        else:
            books.paid()

    *events, result = books.events()

    assert not [each for each in events if hasattr(each, "code")]
    assert isinstance(result, NetworkBooks)
    assert result.refunds == 1_100


def test_one_wrong_refund_among_many_is_found(books: Books) -> None:
    books.top_up(amount=10**15)
    entries = [books.paid() for _ in range(300)]
    for planted in (0, 155, 299):
        entry = entries[planted]
        books.change(entry, amount=999)

        assert books.codes() == ["wrong-amount"]
        books.put(WALLET, entry)


# Batches in the books: each item is a payment of the vault; the fee counts once.


def _item(refund: Refund, **changes: Any) -> Item:
    return replace(Item(refund.recipient, refund.amount, refund.memo), **changes)


def test_the_vault_pays_and_the_wallet_has_the_fee_once(books: Books) -> None:
    books.chain.mine()
    books.chain.top_up(VAULT, TOKEN, 10**9)
    refunds = books.batch(None, Reason.REVERTED, None, Reason.ABOVE_DAY_CAP)

    *events, result = books.events()

    assert isinstance(result, NetworkBooks)
    paid = refunds[0].amount + refunds[2].amount
    accounts = {(each.wallet, each.asset): each for each in result.accounts}
    vault = accounts[VAULT, TOKEN]
    assert (vault.received, vault.refunds, vault.other) == (10**9, paid, 0)
    assert vault.closing == 10**9 - paid
    assert accounts[WALLET, COIN_ADDRESS].fees == FEE
    assert (WALLET, TOKEN) not in accounts
    assert not [each for each in events if isinstance(each, Difference)]
    assert (result.refunds, result.others) == (3, 0)  # One is queued again.


def test_each_item_has_a_line_and_the_first_one_the_fee(books: Books) -> None:
    refunds = books.batch(None, Reason.REVERTED, None)

    used = [each for each in books.events() if isinstance(each, UsedNonce)]
    (header,) = books.chain.headers([2])
    rows = [settlement_row("local", each, header) for each in used]

    assert [row["refund_id"] for row in rows] == [each.id for each in refunds]
    assert [row["paid"] for row in rows] == ["yes", "no", "yes"]
    assert [row["network_fee"] for row in rows] == [
        "0.000050000000000000",
        *["0.000000000000000000"] * 2,
    ]
    assert {row["nonce"] for row in rows} == {0}


def test_equal_items_are_told_apart_by_their_places(books: Books) -> None:
    """The first one was skipped, and the second one paid."""
    refunds = [books.refund(amount=5) for _ in range(2)]
    books.chain.mine()
    ends = [Reason.REVERTED, None]
    settled = books.chain.pay_out(WALLET, [_item(each) for each in refunds], ends)
    books.write_batch(refunds, settled, ["confirmed", "failed"])

    found = {each.refund_id: str(each.code) for each in books.differences()}

    assert found == {
        refunds[0].id: "refund-without-transfer",
        refunds[1].id: "refused-but-paid",
    }


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["confirmed", "confirmed"], "refund-without-transfer"),
        (["failed", "failed"], "refused-but-paid"),
        (["queued", "failed"], "mined-but-open"),
    ],
)
def test_a_state_that_the_chain_does_not_show(
    books: Books, states: list[str], code: str
) -> None:
    refunds = [books.refund() for _ in range(2)]
    books.chain.mine()
    items = [_item(each) for each in refunds]
    settled = books.chain.pay_out(WALLET, items, [None, Reason.REVERTED])
    books.write_batch(refunds, settled, states)

    (difference,) = books.differences()

    assert str(difference.code) == code
    assert (difference.nonce, difference.tx_hash) == (0, settled.tx_hash)


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"amount": 9}, "wrong-amount"), ({"recipient": STRANGER}, "wrong-recipient")],
)
def test_an_item_that_is_not_its_refund(
    books: Books, changes: dict[str, Any], code: str
) -> None:
    refund = books.refund()
    books.chain.mine()
    settled = books.chain.pay_out(WALLET, [_item(refund, **changes)], [None])
    books.write_batch([refund], settled, ["confirmed"])

    assert books.codes() == [code]


def test_events_that_contradict_the_token_prove_no_payment(books: Books) -> None:
    books.batch(None, moved=[False])

    assert books.codes() == ["refund-without-transfer"]


def test_a_lost_batch_is_explained_by_its_marks(books: Books) -> None:
    """Of refunds that ended as paid by it, that are open, and that nothing has."""
    refunds = [books.refund() for _ in range(3)]
    books.chain.mine()
    items = [_item(each) for each in refunds]
    settled = books.chain.pay_out(WALLET, items, [None, None, None])
    detail = f"transaction {settled.tx_hash} has already paid it"
    books.others += [
        replace(
            refunds[0],
            state=PaymentState.REFUSED,
            failure_code="already-paid",
            failure_detail=detail,
        ),
        refunds[1],
    ]
    books.record(settled, accepted=False, memo=refunds[2].memo)

    found = [(str(each.code), each.refund_id) for each in books.differences()]

    assert found == [
        ("mined-but-open", refunds[1].id),
        ("transfer-without-refund", None),
    ]


def test_a_batch_of_an_unknown_nonce(books: Books) -> None:
    """The ledger has no row of it at all."""
    refund = books.refund()
    books.others.append(refund)
    books.chain.mine()
    books.chain.pay_out(WALLET, [_item(refund)], [None])

    assert "mined-but-open" in books.codes()


def test_what_others_take_out_of_the_vault_is_named(books: Books) -> None:
    books.chain.mine()
    withdrawal = books.chain.send(GUARDIAN, to=VAULT, data=b"withdraw")
    books.chain.transfer(VAULT, GUARDIAN, 70, withdrawal.tx_hash)
    books.chain.mine()
    other = books.chain.pay_out(STRANGER, [Item(CUSTOMER, 5, b"m" * 16)], [None])

    found = [(str(each.code), each.tx_hash) for each in books.differences()]

    assert found == [
        ("vault-withdrawal", withdrawal.tx_hash),
        ("other-operator", other.tx_hash),
    ]
    account = next(each for each in books.result().accounts if each.wallet == VAULT)
    assert (account.refunds, account.other) == (0, 75)


def test_a_changed_refund_of_a_batch(books: Books) -> None:
    refunds = books.batch(None, None)
    books.forged.add(refunds[1].id)

    assert set(books.codes()) == {"row-changed"}


# The report of the books: what a browser and a spreadsheet get.

HOSTILE = "<script>alert('&')</script>"


@pytest.fixture
def report(books: Books) -> BookReport:
    """Return the report of a shop that paid a refund."""
    books.top_up(amount=10**8)
    books.paid(amount=12_500_000)
    report = BookReport(Period(START, START + timedelta(days=1)), utc_now())
    for event in books.events():
        report.add(event)
    return report


def _difference(**changes: Any) -> Difference:
    difference = Difference(Code.WRONG_AMOUNT, "local", WALLET, "another amount")
    return replace(difference, **changes)


def test_what_others_wrote_is_escaped(report: BookReport) -> None:
    """A name of a network, an error and a detail may have any characters."""
    report.add(_difference(detail=HOSTILE, network=HOSTILE, found=HOSTILE))
    report.fail(HOSTILE, ChainUnavailableError(HOSTILE))

    page = books_html(report)

    assert "<script>" not in page
    assert page.count("&lt;script&gt;") == 5


def test_the_page_begins_with_the_summary(report: BookReport) -> None:
    """Then the differences, and then the totals of each network."""
    report.add(_difference())

    page = books_html(report)

    places = [page.index(each) for each in ("1 difference", "<h2>Diff", "<h2>local")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("-1+1", "'-1+1"),
        ("@sum", "'@sum"),
        ("-1.50", "-1.50"),
        ("12.5", "12.5"),
        (None, ""),
        (Code.PAID_TWICE, "paid-twice"),
    ],
)
def test_a_spreadsheet_executes_no_cell(cell: object, expected: str) -> None:
    """A negative amount is a number, and no formula."""
    assert safe_cell(cell) == expected


def test_the_table_has_a_row_of_each_kind(report: BookReport) -> None:
    report.add(_difference())
    report.fail("other", ChainUnavailableError("down"))
    report.networks[0] = replace(report.networks[0], notes=["a note"])

    rows = list(csv.DictReader(books_csv(report).splitlines()))

    assert [each["record"] for each in rows] == [
        "difference",
        *["account"] * len(report.networks[0].accounts),
        "note",
        "not-compared",
    ]
    (tokens,) = [each for each in rows if each["asset"] == "TUSD"]
    assert (tokens["received"], tokens["refunds"]) == ("100.000000", "12.500000")


def test_a_long_list_is_cut_and_counted(report: BookReport) -> None:
    for _ in range(MOST_LISTED + 5):
        report.add(_difference())

    assert len(books_document(report)["differences"]) == MOST_LISTED
    assert books_document(report)["difference_count"] == MOST_LISTED + 5
    assert "... and 5 more" in list(books_lines(report))
    assert "5 more are not listed" in books_html(report)


def test_an_unknown_balance_is_no_zero(report: BookReport) -> None:
    for account in report.networks[0].accounts:
        account.opening = account.closing = None

    accounts = books_document(report)["networks"][0]["accounts"]

    assert {each["opening"] for each in accounts} == {None}
    assert any("opening unknown" in each for each in books_lines(report))
    assert '<td class="amount">unknown</td>' in books_html(report)


def test_summaries(report: BookReport) -> None:
    assert summary(report) == "no difference; 1 refunds were compared"

    report.fail("other", ChainUnavailableError("down"))
    assert summary(report) == "not compared: other"


def test_a_difference_is_one_line() -> None:
    assert describe(_difference(expected="1", found="2")) == (
        f"wrong-amount: another amount; network local; wallet {WALLET}; expected: 1;"
        " found: 2"
    )


def test_the_closing_balances_of_a_report_can_be_read_again(report: BookReport) -> None:
    """Exactly, in base units; an unknown one stays unknown."""
    report.networks[0].accounts[0].closing = None
    document = json.dumps(books_document(report)).encode()

    openings = read_openings(document)["local"]

    first, *others = report.networks[0].accounts
    assert openings.block == report.networks[0].blocks.last.block.number
    assert openings.balances[first.wallet, first.asset] is None
    for each in others:
        assert openings.balances[each.wallet, each.asset] == each.closing
    assert TOKEN in {asset for _, asset in openings.balances}


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b'{"networks": [{"network": 1}]}', b"[" * 100_000]
)
def test_a_file_that_is_no_report(text: bytes) -> None:
    with pytest.raises(InvalidInputError, match="not a report"):
        read_openings(text)
