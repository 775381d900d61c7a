"""How each payment of a batch ends, by the events of its final receipt."""

from datetime import UTC, datetime

import pytest
from eth_abi.abi import encode

from signer.chain.vault import PAID_EVENT, SKIPPED_EVENT, Reason
from signer.model.payment import PaymentState
from signer.model.refund import Refund
from signer.model.transaction import PaymentEnd, Transaction
from signer.ports.chain import Block, Log, Receipt
from signer.refunds.batch_ends import find_ends, queue_again
from tests.fixtures.ledger import WALLET, queued
from tests.fixtures.scripted_vault import ScriptedItem, ScriptedVault


NOW = datetime(2026, 1, 2, 23, 59, 50, tzinfo=UTC)
VAULT = "0x0165878A594ca255338adfa4d48449f69242Eb8F"


def _batch(*refunds: Refund) -> Transaction:
    drafted = Transaction.draft(
        refunds, NOW, sender=WALLET, nonce=7, key_id="01", gas_limit=9, vault=VAULT
    )
    return drafted.paying(each.assigned(drafted, i) for i, each in enumerate(refunds))


def _two() -> Transaction:
    return _batch(queued(), queued(id="rf_2", reference="second", idempotency_key="2"))


def _receipt(*logs: Log, succeeded: bool = True) -> Receipt:
    return Receipt("0x01", Block(7, "0x07"), succeeded, logs)


def _transfer(batch: Transaction, place: int, *, amount: int | None = None) -> Log:
    payment = batch.payments[place]
    vault = ScriptedVault(VAULT, payment.token_address, {WALLET})
    paid = payment.amount if amount is None else amount
    return vault._transfer(ScriptedItem(payment.recipient, paid, payment.memo))


def _paid(batch: Transaction, place: int) -> Log:
    topic = batch.payments[place].memo.ljust(32, b"\0")
    return Log(VAULT, (PAID_EVENT, topic), b"")


def _skipped(batch: Transaction, place: int, reason: Reason) -> Log:
    topic = batch.payments[place].memo.ljust(32, b"\0")
    data = encode(("uint256", "uint8"), (place, reason))
    return Log(VAULT, (SKIPPED_EVENT, topic), data)


def _ends(batch: Transaction, *logs: Log) -> list[PaymentEnd]:
    ends = find_ends(batch, _receipt(*logs), NOW)
    assert list(ends) == [each.id for each in batch.payments]
    return list(ends.values())


def test_paid_items_are_confirmed() -> None:
    """Also two with the same recipient and amount: each has its own event."""
    batch = _two()
    logs = [_transfer(batch, 0), _paid(batch, 0), _transfer(batch, 1), _paid(batch, 1)]

    assert [each.state for each in _ends(batch, *logs)] == [PaymentState.CONFIRMED] * 2


@pytest.mark.parametrize("reason", [Reason.ABOVE_DAY_CAP, Reason.NOT_WITHIN_ITEM_CAP])
def test_what_a_cap_skipped_is_queued_again(reason: Reason) -> None:
    """It is due soon, and nothing of the others changes."""
    batch = _two()
    logs = [_skipped(batch, 0, reason), _transfer(batch, 1), _paid(batch, 1)]

    capped, paid = _ends(batch, *logs)

    assert (capped.state, capped.blocked_by) == (PaymentState.QUEUED, "vault-limit")
    assert capped.due_at is not None
    assert capped.due_at > NOW
    assert paid.state is PaymentState.CONFIRMED


@pytest.mark.parametrize(
    ("reason", "detail"),
    [
        (Reason.NO_CODE, "no code"),
        (Reason.REVERTED, "reverted"),
        (Reason.NOT_TRUE, "true"),
    ],
)
def test_what_the_token_refused_fails(reason: Reason, detail: str) -> None:
    """The payee was not paid, and another attempt would not change that."""
    batch = _two()
    logs = [_transfer(batch, 0), _paid(batch, 0), _skipped(batch, 1, reason)]

    paid, refused = _ends(batch, *logs)

    assert paid.state is PaymentState.CONFIRMED
    assert refused.state is PaymentState.FAILED
    assert refused.failure["failure_code"] == "reverted"
    assert detail in refused.failure["failure_detail"]


@pytest.mark.parametrize(
    "lie",
    [
        "paid without a transfer",
        "a transfer of another amount",
        *(f"a transfer, and {reason.name}" for reason in Reason),
    ],
)
def test_a_token_that_lies_is_never_asked_again(lie: str) -> None:
    """Vault and token disagree: the payment fails, and is not queued again."""
    batch = _two()
    other = _transfer(batch, 0, amount=1)
    first = {
        "paid without a transfer": [_paid(batch, 0)],
        "a transfer of another amount": [other, _paid(batch, 0)],
        **{
            f"a transfer, and {reason.name}": [
                _transfer(batch, 0),
                _skipped(batch, 0, reason),
            ]
            for reason in Reason
        },
    }[lie]

    found, paid = _ends(batch, *first, _transfer(batch, 1), _paid(batch, 1))

    assert found.state is PaymentState.FAILED
    assert found.failure["failure_code"] == "transfer-mismatch"
    assert paid.state is PaymentState.CONFIRMED


def test_events_that_are_not_the_items() -> None:
    """Nothing is proved: no payment is confirmed, and none is made again."""
    batch = _two()

    ends = _ends(batch, _transfer(batch, 0), _paid(batch, 0))

    assert {each.state for each in ends} == {PaymentState.FAILED}


@pytest.mark.parametrize("blocked_by", [None, "vault-limit"])
def test_a_batch_that_paid_nothing(blocked_by: str | None) -> None:
    """All of its payments are queued again, at once if nothing blocks them."""
    batch = _two()

    ends = queue_again(batch, NOW, blocked_by)

    assert set(ends) == set(batch.payment_ids)
    for each in ends.values():
        assert (each.state, each.blocked_by) == (PaymentState.QUEUED, blocked_by)
        assert each.due_at is not None
        assert (each.due_at > NOW) is (blocked_by is not None)
