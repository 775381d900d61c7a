"""Each planted difference is found by its name, and nothing else is reported."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from api.extras.books.entries import Code, Difference
from api.extras.books.tables import NonceEntry, TransactionCost
from signer.chain.vault import Item
from signer.model.refund import COIN_ADDRESS, Refund, Status
from signer.model.transaction import Kind, TransactionStatus
from signer.model.wallet import NOOP_MEMO
from signer.refunds.nonce_checks import paid_earlier
from tests.extras.books.paid_books import (
    CUSTOMER,
    GUARDIAN,
    MOST_FEE,
    OTHER_TOKEN,
    SECOND,
    STRANGER,
    TOKEN,
    VAULT,
    WALLET,
    Books,
    refund_of,
)
from tests.fixtures.ledger import as_if


def _silent_token(books: Books) -> None:
    refund = books.refund()
    books.chain.mine()
    books.write(refund, books.chain.send(WALLET))


_OTHER = {"id": "rf_other", "idempotency_key": "other", "reference": "other"}


def _unused_nonce(books: Books) -> None:
    entry = books.paid()
    moved = as_if(refund_of(entry), **_OTHER, nonce=entry.nonce + 1)
    books.put(WALLET, NonceEntry(entry.nonce + 1, moved))


def _allowance(books: Books) -> None:
    books.chain.mine()
    settled = books.chain.send(STRANGER)
    books.chain.transfer(WALLET, STRANGER, 9, settled.tx_hash)


def _unknown_sender(books: Books, **changes: Any) -> None:
    entry = books.paid()
    for nonce in range(3):
        own = {name: f"{value}-{nonce}" for name, value in _OTHER.items()}
        stray = as_if(refund_of(entry), **own, sender=STRANGER, nonce=nonce, **changes)
        books.put(STRANGER, NonceEntry(nonce, stray))


def _unknown_sender_without_a_block(books: Books) -> None:
    in_no_block = {"block_number": None, "block_hash": None}
    _unknown_sender(books, status=Status.BROADCAST, **in_no_block)


def _theft(books: Books) -> None:
    books.chain.mine()
    books.chain.pay(WALLET, STRANGER, 9)


def _payment_in_a_cancellation(books: Books) -> None:
    refund = books.refund()
    books.chain.mine()
    settled = books.chain.pay(WALLET, STRANGER, 9)
    books.write(refund, settled, kind=Kind.NOOP, status=Status.FAILED)


def _stolen_coin(books: Books) -> None:
    books.chain.mine()
    books.chain.send(WALLET, to=STRANGER, value=9)


def _unknown(books: Books) -> None:
    books.chain.mine()
    books.chain.send(WALLET, data=b"approve")


def _foreign(books: Books) -> None:
    books.chain.mine()
    books.record(books.chain.send(WALLET), accepted=False)


def _wrong_amount(books: Books) -> None:
    entry = books.paid()
    books.change(entry, amount=refund_of(entry).amount + 1)


def _memo_twice(books: Books) -> None:
    entry = books.paid()
    books.chain.pay(WALLET, CUSTOMER, refund_of(entry).amount, refund_of(entry).memo)


def _paid_again_and_recorded(books: Books) -> None:
    entry = books.paid()
    memo = refund_of(entry).memo
    settled = books.chain.pay(WALLET, CUSTOMER, refund_of(entry).amount, memo)
    books.record(settled, accepted=False, memo=memo)


def _two_in_one(books: Books) -> None:
    entry = books.paid()
    refund = refund_of(entry)
    books.chain.transfer(WALLET, CUSTOMER, refund.amount, str(refund.tx_hash))


def _fee_on_top(books: Books) -> None:
    entry = books.paid()
    books.chain.transfer(WALLET, STRANGER, 1, str(refund_of(entry).tx_hash))


def _refused_but_paid(books: Books) -> None:
    refund = books.refund(status=Status.REFUSED)
    books.others.append(refund)
    books.chain.mine()
    books.chain.pay(WALLET, CUSTOMER, refund.amount, refund.memo)


def _queued_but_paid(books: Books) -> None:
    refund = books.refund()
    books.others.append(refund)
    books.chain.mine()
    books.chain.pay(WALLET, CUSTOMER, refund.amount, refund.memo)


def _left_open(books: Books) -> None:
    books.change(books.paid(), status=Status.BROADCAST)
    books.chain.mine(400)


def _dear(books: Books) -> None:
    entry = books.paid()
    (attempt,) = entry.attempts
    books.put(WALLET, replace(entry, attempts=(replace(attempt, most_fee=1),)))


def _rebase(books: Books) -> None:
    books.chain.mine()
    books.chain.change(WALLET, TOKEN, -1)


def _vanished_coin(books: Books) -> None:
    books.chain.mine()
    books.chain.change(WALLET, COIN_ADDRESS, -1)


def _changed_refund(books: Books) -> None:
    books.forged.add(refund_of(books.paid()).id)


def _changed_unrecorded(books: Books) -> None:
    entry = books.foreign()
    assert entry.unrecorded is not None
    seen = replace(entry.unrecorded, is_authentic=False)
    books.put(WALLET, replace(entry, unrecorded=seen))
    # While it is the newest one, its wallet counts as changed, too.
    books.foreign()


def _changed_wallet(books: Books) -> None:
    wallet = books.wallets[WALLET]
    books.wallets[WALLET] = replace(wallet, is_authentic=False)


def _call_that_reverted(books: Books) -> None:
    entry = books.called(0)
    settled = books.chain.settled_by_hash[str(refund_of(entry).tx_hash)]
    changed = replace(settled, succeeded=False)
    books.chain.settled_by_hash[settled.tx_hash] = changed


def _call_that_became_a_no_op(books: Books) -> None:
    entry = books.called(0)
    attempts = tuple(replace(each, kind=Kind.NOOP) for each in entry.attempts)
    books.put(WALLET, replace(entry, attempts=attempts))


def _call_left_open(books: Books) -> None:
    books.change(books.called(), status=Status.BROADCAST)
    books.chain.mine(400)


def _payment_in_a_filler(books: Books) -> None:
    entry = books.filler()
    books.chain.transfer(WALLET, STRANGER, 9, entry.attempts[-1].tx_hash)


def _dear_filler(books: Books) -> None:
    entry = books.filler()
    attempts = tuple(replace(each, most_fee=1) for each in entry.attempts)
    books.put(WALLET, replace(entry, attempts=attempts))


def _filler_left_open(books: Books) -> None:
    books.filler(status=TransactionStatus.BROADCAST)
    books.chain.mine(400)


def _changed_filler(books: Books) -> None:
    filler = books.filler().filler
    assert filler is not None
    books.forged.add(filler.id)


def _filler_of_an_unused_nonce(books: Books) -> None:
    entry = books.filler()
    assert entry.filler is not None
    unused = replace(entry.filler, nonce=entry.nonce + 1)
    books.put(WALLET, NonceEntry(unused.nonce, filler=unused))


def _withdrawal(books: Books) -> None:
    books.chain.mine()
    settled = books.chain.send(GUARDIAN, to=VAULT, data=b"withdraw")
    books.chain.transfer(VAULT, GUARDIAN, 70, settled.tx_hash)


def _payment_of_another_operator(books: Books) -> None:
    books.chain.mine()
    books.chain.pay_out(STRANGER, [Item(CUSTOMER, 5, bytes(16))], [None])


def _unaccepted_payment(books: Books) -> None:
    books.foreign(accepted=False)


def _failed_call_that_was_executed(books: Books) -> None:
    books.change(books.called(moved=9), status=Status.FAILED)


PLANTED: list[tuple[Callable[[Books], None], Code]] = [
    (_silent_token, Code.REFUND_WITHOUT_TRANSFER),
    (_call_that_reverted, Code.REFUND_WITHOUT_TRANSFER),
    (_call_that_became_a_no_op, Code.REFUND_WITHOUT_TRANSFER),
    (_failed_call_that_was_executed, Code.REFUSED_BUT_PAID),
    (_call_left_open, Code.MINED_BUT_OPEN),
    (_unused_nonce, Code.CONFIRMED_BUT_MISSING),
    (_allowance, Code.TRANSFER_WITHOUT_REFUND),
    (_theft, Code.TRANSFER_WITHOUT_REFUND),
    (_payment_in_a_cancellation, Code.TRANSFER_WITHOUT_REFUND),
    (_unaccepted_payment, Code.TRANSFER_WITHOUT_REFUND),
    (_fee_on_top, Code.TRANSFER_WITHOUT_REFUND),
    (_stolen_coin, Code.COIN_WITHOUT_REFUND),
    (_unknown, Code.UNKNOWN_TRANSACTION),
    (_foreign, Code.FOREIGN_TRANSACTION),
    (_wrong_amount, Code.WRONG_AMOUNT),
    (_memo_twice, Code.PAID_TWICE),
    (_paid_again_and_recorded, Code.PAID_TWICE),
    (_two_in_one, Code.PAID_TWICE),
    (_refused_but_paid, Code.REFUSED_BUT_PAID),
    (_queued_but_paid, Code.MINED_BUT_OPEN),
    (_left_open, Code.MINED_BUT_OPEN),
    (_dear, Code.FEE_MISMATCH),
    (_rebase, Code.BALANCE_MISMATCH),
    (_vanished_coin, Code.BALANCE_MISMATCH),
    (_changed_refund, Code.ROW_CHANGED),
    (_changed_unrecorded, Code.ROW_CHANGED),
    (_changed_wallet, Code.ROW_CHANGED),
    (_unknown_sender, Code.UNKNOWN_SENDER),
    (_unknown_sender_without_a_block, Code.UNKNOWN_SENDER),
    (_payment_in_a_filler, Code.TRANSFER_WITHOUT_REFUND),
    (_dear_filler, Code.FEE_MISMATCH),
    (_filler_left_open, Code.MINED_BUT_OPEN),
    (_changed_filler, Code.ROW_CHANGED),
    (_filler_of_an_unused_nonce, Code.CONFIRMED_BUT_MISSING),
    (_withdrawal, Code.VAULT_WITHDRAWAL),
    (_payment_of_another_operator, Code.OTHER_OPERATOR),
]

CHANGED: list[tuple[Callable[[Books], NonceEntry], dict[str, Any], Code]] = [
    (Books.reverted, {"status": Status.CONFIRMED}, Code.REFUND_WITHOUT_TRANSFER),
    (Books.cancelled, {"status": Status.CONFIRMED}, Code.REFUND_WITHOUT_TRANSFER),
    (Books.called, {"block_hash": "0xdead"}, Code.WRONG_BLOCK),
    (Books.paid, {"recipient": STRANGER}, Code.WRONG_RECIPIENT),
    (Books.paid, {"token_address": OTHER_TOKEN}, Code.WRONG_TOKEN),
    (Books.paid, {"block_hash": "0xdead"}, Code.WRONG_BLOCK),
    (Books.paid, {"status": Status.FAILED}, Code.REFUSED_BUT_PAID),
]
"""What pays a refund, how its row is changed then, and what that is called."""


@pytest.fixture
def books(books: Books) -> Books:
    """Return a shop that paid three refunds."""
    books.top_up(amount=10**9)
    for _ in range(3):
        books.paid()
    return books


@pytest.mark.parametrize(
    ("plant", "code"), PLANTED, ids=lambda each: getattr(each, "__name__", str(each))
)
def test_a_planted_difference_is_found_by_its_name(
    books: Books, plant: Callable[[Books], None], code: Code
) -> None:
    """Among honest refunds before and after it, nothing else is reported."""
    books.chain.mine()
    plant(books)
    _continue(books)

    assert books.codes() == [str(code)]


@pytest.mark.parametrize(("pay", "changes", "code"), CHANGED)
def test_a_changed_row_is_found_by_its_name(
    books: Books,
    pay: Callable[[Books], NonceEntry],
    changes: dict[str, Any],
    code: Code,
) -> None:
    books.change(pay(books), **changes)
    _continue(books)

    assert books.codes() == [str(code)]


def _continue(books: Books) -> None:
    # A planted row may have the next nonce.
    if not set(books.entries[WALLET]) - set(range(len(books.chain.counts[WALLET]))):
        for _ in range(2):
            books.paid()


@pytest.mark.parametrize("plant", [_unknown_sender, _unknown_sender_without_a_block])
def test_what_is_left_out_is_counted(
    books: Books, plant: Callable[[Books], None]
) -> None:
    """One difference for each sender, which names it and says how many refunds."""
    plant(books)
    (left_out,) = books.differences()

    assert (left_out.wallet, left_out.found) == (STRANGER, "3 refunds")


def test_each_code_is_planted() -> None:
    assert {code for *_, code in [*PLANTED, *CHANGED]} == {*Code}


def test_a_difference_names_what_it_is_about(books: Books) -> None:
    """The refund, the transaction, and both sides as decimal amounts."""
    entry = books.paid(amount=12_500_000)
    books.change(entry, amount=12_500_001)

    (found,) = books.differences()

    assert found == Difference(
        Code.WRONG_AMOUNT,
        "local",
        WALLET,
        "another amount was paid",
        refund_id=refund_of(entry).id,
        nonce=entry.nonce,
        tx_hash=refund_of(entry).tx_hash,
        asset="TUSD",
        expected=f"12.500001 TUSD to {CUSTOMER}",
        found=f"12.500000 TUSD to {CUSTOMER}",
    )


def test_a_refund_in_an_unused_nonce_that_is_not_confirmed_is_no_difference(
    books: Books,
) -> None:
    """A reorganisation may take a mined refund back: a worker follows it."""
    _unused_nonce(books)
    nonce = max(books.entries[WALLET])
    books.change(books.entries[WALLET][nonce], status=Status.MINED)

    assert books.codes() == []


def test_a_refund_whose_nonce_another_transaction_used(books: Books) -> None:
    """Both sides differ: the refund was not paid, and money left."""
    books.chain.mine()
    settled = books.chain.pay(WALLET, STRANGER, 9)
    refund = books.refund()
    entry = books.write(refund, settled)
    lost = as_if(refund_of(entry), tx_hash="0xlost")
    books.put(WALLET, NonceEntry(entry.nonce, lost))

    assert sorted(books.codes()) == ["confirmed-but-missing", "transfer-without-refund"]


def test_an_open_refund_whose_nonce_another_transaction_used(books: Books) -> None:
    """It waits for a worker, and after an hour it is a difference."""
    entry = books.foreign()
    refund = books.refund(
        status=Status.BROADCAST, tx_hash="0xlost", sender=WALLET, nonce=entry.nonce
    )
    books.put(WALLET, replace(entry, refund=refund))
    soon = books.codes()
    books.chain.mine(400)

    assert soon == []
    assert books.codes() == ["mined-but-open"]


def test_open_refunds_may_lag_for_an_hour(books: Books) -> None:
    """The end of the range has refunds that a worker has not seen yet."""
    for status in (Status.SIGNED, Status.BROADCAST, Status.MINED):
        books.change(books.paid(), status=status)

    assert books.codes() == []


def test_a_failed_refund_without_events_is_no_difference(books: Books) -> None:
    """The token returned false: nothing moved, and the ledger records a failure."""
    refund = books.refund()
    books.write(refund, books.chain.send(WALLET), status=Status.FAILED)

    assert books.codes() == []


def test_a_token_that_charges_the_recipient(books: Books) -> None:
    """The recipient got less, and the fee left without a refund."""
    refund = books.refund(amount=100)
    books.chain.mine()
    settled = books.chain.send(WALLET)
    books.chain.transfer(WALLET, STRANGER, 1, settled.tx_hash)
    books.chain.transfer(WALLET, CUSTOMER, 99, settled.tx_hash)
    books.write(refund, settled, status=Status.FAILED)

    assert books.codes() == ["wrong-amount", "transfer-without-refund"]


def test_a_forgotten_cancellation_is_known_by_its_memo(books: Books) -> None:
    """A restored ledger records a no-op that it had forgotten."""
    books.chain.mine()
    settled = books.chain.send(WALLET, to=WALLET)
    books.record(settled, accepted=False, memo=NOOP_MEMO)

    assert books.codes() == []


def test_an_adopted_payment_is_its_refunds(books: Books) -> None:
    """A restored ledger found the payment by its memo, and has no attempt of it."""
    entry = books.paid()
    books.put(WALLET, replace(entry, attempts=()))

    assert books.codes() == []


def _paid_in_a_filler(books: Books, **changes: Any) -> Refund:
    """Return a refund that was paid before a restore, and was then asked for again."""
    refund = books.refund()
    books.chain.mine()
    settled = books.chain.pay(WALLET, CUSTOMER, refund.amount, refund.memo)
    lost = TransactionCost("0xlost", Kind.NOOP, MOST_FEE)
    entry = replace(books.write(refund, settled), attempts=(lost,))
    filled = books.fill(entry, status=TransactionStatus.FAILED, tx_hash=lost.tx_hash)
    seen = books.record(settled, accepted=False, memo=refund.memo)
    books.put(WALLET, replace(filled, unrecorded=seen.unrecorded))
    end = {"status": Status.REFUSED, **paid_earlier(settled.tx_hash), **changes}
    ended = as_if(refund, **end)
    books.others.append(ended)
    return ended


def test_a_payment_in_the_nonce_of_a_filler(books: Books) -> None:
    """The filler failed, and the refund ended as paid by that very transaction."""
    _paid_in_a_filler(books)

    assert books.codes() == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"failure_code": "transfer-mismatch"}, "refused-but-paid"),
        (paid_earlier("0xother"), "refused-but-paid"),
        ({"amount": 1}, "wrong-amount"),
    ],
)
def test_a_refund_that_does_not_end_as_paid_by_its_payment(
    books: Books, changes: dict[str, Any], code: str
) -> None:
    _paid_in_a_filler(books, **changes)

    assert books.codes() == [code]


def test_a_changed_refund_does_not_explain_a_payment(books: Books) -> None:
    books.forged.add(_paid_in_a_filler(books).id)

    assert books.codes() == ["row-changed"]


@pytest.mark.parametrize(
    ("status", "codes"),
    [
        (TransactionStatus.FAILED, ["unknown-transaction"]),
        (TransactionStatus.CONFIRMED, ["confirmed-but-missing", "unknown-transaction"]),
        (TransactionStatus.BROADCAST, ["mined-but-open", "unknown-transaction"]),
    ],
)
def test_another_transaction_in_the_nonce_of_a_filler(
    books: Books, status: TransactionStatus, codes: list[str]
) -> None:
    entry = books.filler(status=status, tx_hash="0xlost")
    books.put(WALLET, replace(entry, attempts=()))
    books.chain.mine(400)

    assert books.codes() == codes


def test_several_unknown_transactions(books: Books) -> None:
    """Each is reported once: a payment by its transfer, the others by their nonces."""
    _unknown(books)
    _theft(books)
    _unknown(books)

    assert books.codes() == [
        "transfer-without-refund",
        "unknown-transaction",
        "unknown-transaction",
    ]


def test_hashes_of_other_wallets_do_not_count(books: Books) -> None:
    """Another program may write any hash into the table of transactions."""
    other = books.paid(SECOND)
    entry = books.paid()
    stolen = as_if(refund_of(entry), tx_hash=refund_of(other).tx_hash)
    attempt = TransactionCost(str(refund_of(other).tx_hash), Kind.TRANSFER, MOST_FEE)
    books.put(WALLET, NonceEntry(entry.nonce, stolen, (attempt,)))
    books.put(SECOND, replace(other, attempts=()))

    # The payment has the memo of the refund, whose row names another transaction.
    assert books.codes() == ["confirmed-but-missing", "paid-twice"]


def test_payments_with_memos_beyond_the_limit_are_not_looked_up(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their refunds are not searched for, so that the memory is bounded."""
    monkeypatch.setattr("api.extras.books.comparison._MOST_WITH_MEMO", 1)
    _memo_twice(books)
    _memo_twice(books)

    assert sorted(books.codes()) == ["paid-twice", "transfer-without-refund"]


def test_unknown_memos_are_of_no_refund(books: Books) -> None:
    """Every page of refunds is compared before that is said."""
    books.chain.pay(WALLET, STRANGER, 9, b"\x01" * 16)
    for number in range(600):
        books.others.append(books.refund(id=f"rf_x{number:04}"))

    assert books.codes() == ["transfer-without-refund"]


def test_what_precedes_the_ledger_is_noted(books: Books) -> None:
    """The wallet was used before this service had it."""
    books = Books(books.store)
    books.top_up(amount=100)
    books.chain.mine()
    books.chain.pay(WALLET, STRANGER, 9)
    books.chain.send(WALLET)
    wallet = books.wallets[WALLET]
    books.wallets[WALLET] = replace(wallet, first_nonce=2)
    books.paid(amount=10)

    result = books.result()

    assert books.codes() == []
    assert [note.split()[0] for note in result.notes] == ["2"]
    (tokens,) = [each for each in result.accounts if each.asset == TOKEN]
    assert (tokens.other, tokens.refunds) == (9, 10)
