"""Batches in the books: each item is a payment of the vault; the fee counts once."""

from dataclasses import replace
from typing import Any

import pytest

from api.extras.books.comparison import NetworkBooks
from api.extras.books.entries import Difference, UsedNonce
from api.extras.books.reports import settlement_row
from signer.chain.vault import Item, Reason
from signer.model.payment import PaymentState
from signer.model.refund import COIN_ADDRESS, Refund
from tests.extras.books.paid_books import (
    CUSTOMER,
    FEE,
    GUARDIAN,
    STRANGER,
    TOKEN,
    VAULT,
    WALLET,
    Books,
)


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
