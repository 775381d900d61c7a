"""A batch is signed only as its rows say, and each payment ends as its receipt says."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from eth_abi.abi import encode

from signer.chain.chain import Chain
from signer.chain.vault import (
    ITEM_GAS,
    PAID_EVENT,
    SKIPPED_EVENT,
    Item,
    Reason,
    batch_gas,
    decode_pay,
    encode_pay,
)
from signer.config.networks import Network
from signer.crypto.transactions import AnyTransaction
from signer.errors import EncodingError
from signer.model.payment import PaymentPurpose, PaymentState
from signer.model.refund import Refund
from signer.model.transaction import Kind, PaymentEnd, Transaction
from signer.ports.chain import Block, Call, Log, Receipt
from signer.refunds.batch_ends import find_ends, queue_again
from signer.refunds.gas import estimate_gas
from signer.refunds.payload import payload_of
from signer.refunds.payment_checks import admit, check_batch
from signer.refunds.payment_policy import PolicyReview
from signer.refunds.transaction_signer import Attempt, build_transaction
from tests.fixtures.ledger import WALLET, queued
from tests.fixtures.scripted_chain import TOKEN
from tests.fixtures.scripted_vault import ScriptedItem, ScriptedVault
from tests.support.policy import SERVICE_POLICY
from tests.support.refunds import (
    NETWORK,
    NOON,
    REQUEST,
    VAULT,
    World,
    altered_chain,
    refused,
)


OTHER = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"
PAYS = NETWORK.model_copy(update={"vault": VAULT})
GAS = batch_gas([60_000] * 3)


@pytest.fixture
def batch(world: World) -> Transaction:
    """A batch of three refunds that was broadcast."""
    world.use_vault()
    refunds = [world.accepted() for _ in range(3)]
    world.work()
    found = world.store.find_transaction(
        PAYS.chain_id, world.signer.address, world.stored(refunds[0]).nonce or 0
    )
    assert found is not None
    assert len(found.payments) == 3
    return found


def _build(batch: Transaction) -> AnyTransaction:
    attempt = Attempt(Kind.TRANSFER, 0, GAS, 10**9, 1, is_legacy=False)
    return build_transaction(batch, attempt, PAYS)


def _check(
    built: AnyTransaction, batch: Transaction, network: Network = PAYS, gas: int = GAS
) -> None:
    check_batch(built, batch, network, gas=gas)


def test_what_was_reserved_may_be_signed(batch: Transaction) -> None:
    """As it is built from the rows."""
    _check(_build(batch), batch)


def _items(
    change: Callable[[list[Item]], list[Item]], token: str = TOKEN
) -> Callable[[AnyTransaction], AnyTransaction]:
    def changed(built: AnyTransaction) -> AnyTransaction:
        _, items = decode_pay(built.data)
        return replace(built, data=encode_pay(token, change([*items])))

    return changed


def _alter(**fields: Any) -> Callable[[list[Item]], list[Item]]:
    return lambda items: [replace(items[0], **fields), *items[1:]]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda built: replace(built, to=OTHER), "vault"),
        (lambda built: replace(built, to=TOKEN), "vault"),
        (lambda built: replace(built, value=1), "value"),
        (lambda built: replace(built, nonce=built.nonce + 1), "nonce"),
        (lambda built: replace(built, chain_id=1), "chain-id"),
        (lambda built: replace(built, gas=GAS + 1), "gas"),
        (lambda built: replace(built, max_fee_per_gas=10**15), "max-fee"),
        (_items(lambda items: items, token=OTHER), "token"),
        (_items(lambda items: items[1:]), "items"),
        (_items(lambda items: [*items, items[0]]), "items"),
        (_items(lambda items: items[::-1]), "items"),
        (_items(_alter(recipient=OTHER)), "items"),
        (_items(_alter(amount=1)), "items"),
        (_items(_alter(mark=bytes(16))), "items"),
    ],
    ids=map(str, count()),
)
def test_each_field_is_compared(
    batch: Transaction, change: Callable[[AnyTransaction], AnyTransaction], rule: str
) -> None:
    """With the row, and not with what was checked before."""
    with refused(rule):
        _check(change(_build(batch)), batch)


def test_other_calldata_is_no_payment(batch: Transaction) -> None:
    """Nor is one with bytes after its items."""
    built = _build(batch)
    for data in (b"", built.data + bytes(32), built.data[:-1]):
        with pytest.raises(EncodingError):
            _check(replace(built, data=data), batch)


def test_the_configuration_of_today_decides(batch: Transaction) -> None:
    """Another vault, no vault, and a payment above a lower ``max_amount``."""
    token = PAYS.tokens["TUSD"].model_copy(update={"max_amount": "1"})
    for changes, rule in (
        ({"vault": OTHER}, "vault"),
        ({"vault": None}, "vault"),
        ({"tokens": {"TUSD": token}}, "max-amount"),
    ):
        with refused(rule):
            _check(_build(batch), batch, PAYS.model_copy(update=changes))


def test_the_gas_is_bounded(batch: Transaction) -> None:
    """By what its transfers may use, not by that of any transaction."""
    gas = batch_gas([ITEM_GAS] * 3) + 1
    with refused("gas"):
        _check(replace(_build(batch), gas=gas), batch, gas=gas)


def test_a_vault_pays_refunds_only(batch: Transaction) -> None:
    """A sweep moves what an address of the wallet holds."""
    swept = replace(batch.payments[0], purpose=PaymentPurpose.SWEEP)
    with refused("purpose"):
        _check(_build(batch), replace(batch, payments=(swept, *batch.payments[1:])))


def test_a_batch_pays_one_token(batch: Transaction) -> None:
    """Rows of two tokens have no calldata."""
    other = replace(batch.payments[0], token_address=OTHER)
    with pytest.raises(ValueError, match="unpack"):
        payload_of(replace(batch, payments=(other, *batch.payments[1:])))


def test_the_policy_reviews_each_payment(world: World, batch: Transaction) -> None:
    """As the transfer that would make it alone."""
    review = PolicyReview(world.store, SERVICE_POLICY, {"local": PAYS})
    for payment in batch.payments:
        (found,) = review.review(payment)
        assert found.decision.rules == ("refund",)


def test_a_transfer_of_before_the_vault_is_estimated_as_the_wallet(
    world: World,
) -> None:
    """It has a nonce, and the wallet still holds what it pays."""
    asked = []

    def estimate(call: Call) -> int:
        asked.append(call.sender)
        return 60_000

    client = altered_chain(world.chain, estimate_gas=estimate)
    estimate_gas(world.accepted(), Chain(PAYS, client), OTHER)

    assert asked == [OTHER]


def test_refunds_of_one_span_are_due_together() -> None:
    """With ``batch_wait``, so that one transaction pays them; a call waits for none."""
    network = PAYS.model_copy(update={"batch_wait": 30})

    def due_after(seconds: float, calldata: str | None = None) -> float:
        now = NOON + timedelta(seconds=seconds)
        token = "COIN" if calldata else "TUSD"
        found = admit(
            replace(REQUEST, calldata=calldata, token=token),
            refund_id="rf_1",
            tenant="gateway",
            idempotency_key="key-1",
            networks={"local": network},
            wallets=[],
            now=now,
        )
        return (found.due_at - NOON).total_seconds()

    assert [due_after(seconds) for seconds in (0, 0.001, 29, 30, 31)] == [
        *(0, 30, 30, 30, 60)
    ]
    assert due_after(7, calldata="0x12345678") == 6


NOW = datetime(2026, 1, 2, 23, 59, 50, tzinfo=UTC)


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
