"""Bank statements, as the schema of camt.053 and another program read them."""

import json
import subprocess
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from api.extras.books.bank_statement import BankStatements, require_day
from api.extras.books.entries import Period
from api.extras.books.reports import BookReport
from signer.chain.vault import Item
from signer.errors import ChainUnavailableError, InvalidInputError
from signer.model.refund import COIN_ADDRESS
from signer.ports.clock import utc_now
from tests.extras.books.paid_books import (
    CUSTOMER,
    SECOND,
    START,
    STRANGER,
    TOKEN,
    VAULT,
    WALLET,
    Books,
    refund_of,
)
from tests.support.servers import SERVERS, servers_python


DAY = Period(START, START + timedelta(days=1))


def report_of(
    books: Books, currencies: dict[str, str], last: int | None = None
) -> BookReport:
    report = BookReport(DAY, utc_now(), statements=BankStatements(currencies))
    for event in books.events(last=last):
        report.add(event)
    return report


def write(books: Books, **currencies: str) -> bytes:
    return report_of(books, currencies).statements.write(DAY, utc_now())


def read(message: bytes, folder: Path) -> Any:
    """Validate *message* by its schema, and return what another program reads."""
    path = folder / "statement.xml"
    path.write_bytes(message)
    for command in ("validate", "parse"):
        ran = subprocess.run(
            [servers_python(), SERVERS / "bin" / "camt053", command, "--input", path],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout)


def signed(each: Any) -> Decimal:
    sign = {"CRDT": 1, "DBIT": -1}[each["credit_debit_indicator"]]
    return sign * Decimal(each["amount"])


def test_another_program_reads_the_sums_of_the_ledger(
    books: Books, tmp_path: Path
) -> None:
    """Refunds alone and of a batch, a sweep, a foreign transfer and top-ups."""
    books.top_up(amount=10**9)
    books.chain.top_up(VAULT, TOKEN, 10**9)
    paid = books.paid(amount=12_345_670, reference="order <7> & co")
    long = books.paid(amount=2_000_000, reference="r" * 128)
    refunds = [books.refund(amount=each) for each in (10, 20)]
    books.chain.mine()
    items = [Item(each.recipient, each.amount, each.memo) for each in refunds]
    settled = books.chain.pay_out(WALLET, items, [None, None])
    books.write_batch(refunds, settled, ["confirmed", "confirmed"])
    books.swept(amount=5_000_000)
    books.chain.mine()
    books.record(books.chain.pay(WALLET, STRANGER, 30), accepted=True)

    report = report_of(books, {"TUSD": "USD"})
    found = read(report.statements.write(DAY, utc_now()), tmp_path)

    accounts = {each["account"]["other_id"]: each for each in found["statements"]}
    names = {f"31337-TUSD-{each[2:]}"[:34]: each for each in (WALLET, SECOND, VAULT)}
    assert {*accounts} == {*names}
    for name, wallet in names.items():
        statement = accounts[name]
        opening, closing = statement["balances"]
        assert [opening["type_code"], closing["type_code"]] == ["OPBD", "CLBD"]
        moved = sum(signed(each) for each in statement["entries"])
        assert signed(opening) + moved == signed(closing)
        held = books.chain.token_balance(TOKEN, wallet, books.chain.head)
        assert signed(closing) == Decimal(held).scaleb(-6)
        booked = Counter(
            {
                side: sum(
                    Decimal(each[side])
                    for each in report.ledger.rows
                    if (each["account"], each["wallet"]) == ("wallet", wallet)
                    and each["asset_address"] == TOKEN
                )
                for side in ("debit", "credit")
            }
        )
        sums = Counter[str]()
        for each in statement["entries"]:
            assert each["currency"] == "USD"
            assert each["booking_date"] == each["value_date"] == "2026-01-02"
            side = "debit" if each["credit_debit_indicator"] == "CRDT" else "credit"
            sums[side] += Decimal(each["amount"])  # type: ignore[assignment]
        assert sums == booked
    entries = [e for each in found["statements"] for e in each["entries"]]
    by_refund = {each["account_servicer_ref"]: each for each in entries}
    short, other = by_refund[refund_of(paid).id], by_refund[refund_of(long).id]
    assert short["amount"] == "12.34567"
    assert short["details"][0]["end_to_end_id"] == "order <7> & co"
    assert short["details"][0]["counterparty_name"] == CUSTOMER
    assert other["details"][0]["end_to_end_id"] == "NOTPROVIDED"
    assert by_refund[refunds[1].id]["amount"] == "0.00002"
    assert len(by_refund) == 6  # With the sweep; what else moved has no refund.


def test_a_coin_has_its_fees_and_what_came_without_events(
    books: Books, tmp_path: Path
) -> None:
    """As where the token is the coin; a message also says which account it is."""
    books.top_up(COIN_ADDRESS, 10**18)
    books.top_up(amount=10**9)
    books.paid(amount=1_000_000)
    message = write(books, coin="XTS")

    (statement,) = read(message, tmp_path)["statements"]

    assert [signed(each) for each in statement["entries"]] == [
        Decimal("-0.00005"),
        Decimal(1),
    ]
    assert f"<Id>eip155:31337:{WALLET}</Id>".encode() in message
    assert b"<Cd>fees</Cd>" in message
    assert b"Fees in coin are in the ledger only." in write(books, TUSD="USD")


def test_dust_of_a_stranger_changes_no_other_amount(
    books: Books, tmp_path: Path
) -> None:
    """The schema has five decimals, so balances are rounded down."""
    books.top_up(amount=5_000_000)
    books.top_up(amount=1)
    books.paid(amount=1_250_000)
    books.paid(amount=1_000_002)

    (statement,) = read(write(books, TUSD="USD"), tmp_path)["statements"]

    said = [str(signed(each)) for each in statement["entries"]]
    assert said == ["5.00", "-1.25", "-1.00001"]
    assert [each["amount"] for each in statement["balances"]] == ["0.00", "2.74999"]
    assert b"rounded down to five decimals" in write(books, TUSD="USD")


def test_two_tokens_of_one_name_are_refused(books: Books) -> None:
    """Such as one that the networks file had before, or that another program wrote."""
    former = "0x" + "9" * 40
    books.top_up()
    books.paid(amount=10, token_address=former)
    books.chain.top_up(WALLET, former, 10)

    with pytest.raises(InvalidInputError, match="two accounts would have the name"):
        write(books, TUSD="USD")


def test_names_are_of_the_day_and_the_account(books: Books) -> None:
    """So that a message that is made again is known; only its own name is new."""
    books.top_up()

    first, second = write(books, TUSD="USD"), write(books, TUSD="USD")

    ids = [each.split(b"<Stmt>")[1].split(b"<CreDtTm>")[0] for each in (first, second)]
    assert ids[0] == ids[1]
    assert first.split(b"<CreDtTm>")[0] != second.split(b"<CreDtTm>")[0]


def test_what_a_statement_cannot_have_is_refused(books: Books) -> None:
    """Nothing is guessed; each error names the ledger."""

    def require(problem: str, **currencies: str) -> None:
        with pytest.raises(InvalidInputError, match=problem) as raised:
            write(books, **currencies)
        assert "use --ledger" in str(raised.value)

    books.top_up()
    require("no wallet has USDC", USDC="USD")
    report = report_of(books, {"TUSD": "USD"}, books.chain.head + 3)
    with pytest.raises(InvalidInputError, match="last block of the day on local is"):
        report.statements.write(DAY, utc_now())

    books.chain.change(WALLET, TOKEN, 10)
    require("do not add up to its balance", TUSD="USD")
    books.chain.pruned = books.chain.head
    require("balance of TUSD of 0x1+ on local is not known", TUSD="USD")


@pytest.mark.parametrize("amount", [10**24, 10**19 + 10])
def test_an_amount_has_at_most_18_digits(books: Books, amount: int) -> None:
    books.top_up(amount=amount)

    with pytest.raises(InvalidInputError, match="TUSD has too many digits"):
        write(books, TUSD="USD")


def test_a_network_that_fails_leaves_nothing(books: Books) -> None:
    books.top_up()
    report = BookReport(DAY, utc_now(), statements=BankStatements({"TUSD": "USD"}))
    *events, result = books.events()
    for each in events:
        report.add(each)
    report.fail("local", ChainUnavailableError("gone"))
    report.add(result)

    with pytest.raises(InvalidInputError, match="do not add up"):
        report.statements.write(DAY, utc_now())


@pytest.mark.parametrize(("hours", "begin"), [(23, 0), (25, 0), (24, 1)])
def test_a_statement_is_of_one_day(hours: int, begin: int) -> None:
    """Its bookings have that date."""
    start = START + timedelta(hours=begin)

    with pytest.raises(InvalidInputError, match="needs one day"):
        require_day(Period(start, start + timedelta(hours=hours)))
