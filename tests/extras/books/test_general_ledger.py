"""The general ledger: double entries whose sums are those of the chain."""

import csv
import random
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import pytest

from api.extras.books.entries import Period
from api.extras.books.general_ledger import GeneralLedger
from api.extras.books.reports import BookReport, ledger_csv
from signer.chain.vault import Item, Reason
from signer.errors import ChainUnavailableError
from signer.model.refund import COIN_ADDRESS
from signer.ports.clock import utc_now
from tests.extras.books.paid_books import (
    CUSTOMER,
    FEE,
    START,
    SWEEP,
    TOKEN,
    VAULT,
    WALLET,
    Books,
)


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
