"""A batch is signed only if its calldata has exactly the payments of its rows."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from signer.chain.chain import Chain
from signer.chain.vault import ITEM_GAS, Item, batch_gas, decode_pay, encode_pay
from signer.config.networks import Network
from signer.crypto.transactions import AnyTransaction
from signer.errors import (
    ChainUnavailableError,
    EncodingError,
    PolicyViolationError,
)
from signer.model.payment import PaymentPurpose
from signer.model.transaction import Kind, Transaction
from signer.ports.chain import Call
from signer.refunds.gas import estimate_batches, estimate_gas
from signer.refunds.payload import payload_of
from signer.refunds.payment_checks import admit, check_batch
from signer.refunds.payment_policy import PolicyReview
from signer.refunds.transaction_signer import Attempt, build_transaction
from tests.fixtures.scripted_chain import TOKEN
from tests.support.policy import SERVICE_POLICY
from tests.support.refunds import NETWORK, NOON, REQUEST, VAULT, World, altered_chain


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
    with pytest.raises(PolicyViolationError) as refused:
        _check(change(_build(batch)), batch)
    assert refused.value.rule == rule


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
        with pytest.raises(PolicyViolationError) as refused:
            _check(_build(batch), batch, PAYS.model_copy(update=changes))
        assert refused.value.rule == rule


def test_the_gas_is_bounded(batch: Transaction) -> None:
    """By what its transfers may use, not by that of any transaction."""
    gas = batch_gas([ITEM_GAS] * 3) + 1
    with pytest.raises(PolicyViolationError) as refused:
        _check(replace(_build(batch), gas=gas), batch, gas=gas)
    assert refused.value.rule == "gas"


def test_a_vault_pays_refunds_only(batch: Transaction) -> None:
    """A sweep moves what an address of the wallet holds."""
    swept = replace(batch.payments[0], purpose=PaymentPurpose.SWEEP)
    with pytest.raises(PolicyViolationError) as refused:
        _check(_build(batch), replace(batch, payments=(swept, *batch.payments[1:])))
    assert refused.value.rule == "purpose"


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


def test_a_batch_without_an_estimate_has_what_was_reserved(
    world: World, batch: Transaction
) -> None:
    """Nodes that do not answer stop no signature, nor those of other transactions."""
    down = altered_chain(world.chain, preflight=ChainUnavailableError("no node"))

    assert estimate_batches([batch], Chain(PAYS, down)) == {}
    assert estimate_batches([batch], Chain(PAYS, world.chain)).keys() == {batch.id}


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
