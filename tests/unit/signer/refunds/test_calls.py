"""Calls and transfers of coin in the ledger: only what an operator's rule permits."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from signer.chain.vault import Item, encode_pay
from signer.config.deny_list import DenyList
from signer.config.tenants import Tenant, TenantRegistry
from signer.crypto.transactions import MAX_GAS
from signer.errors import GasLimitError, InvalidInputError, PolicyViolationError
from signer.model.audit_record import Actor, Record
from signer.model.payment import PaymentPurpose
from signer.model.refund import COIN, COIN_ADDRESS, Refund, Status
from signer.model.spending_limits import Limits
from signer.model.transaction import Kind
from signer.refunds.payload import Payload, transfer_of
from signer.refunds.payment_checks import MAX_CALLDATA, check_call
from signer.refunds.transaction_signer import Attempt, build_transaction
from tests.fixtures.ledger import refund_page
from tests.fixtures.scripted_chain import TOKEN, Sent
from tests.support.approvals import approve_waiting, rule, ruled
from tests.support.other_payments import (
    APPROVE,
    CALL_REQUEST,
    COIN_SENT,
    CONTRACT,
    PING,
    RULES,
    WITH_MEMO,
    call_request,
    called,
)
from tests.support.refunds import AMOUNT, CUSTOMER, NETWORK, World, refused
from tests.support.restores import keep_log


REVIEW = rule("review", 1).replace('"refund"', '"call"')


@pytest.fixture
def ruling(world: World) -> World:
    """A service whose operator permits some calls."""
    return ruled(world, RULES)


@pytest.fixture
def log(ruling: World) -> Sequence[Record]:
    """The audit log of the service, which grows."""
    return keep_log(ruling)


def _stuck(world: World, call: Refund) -> tuple[Status, str | None, int | None]:
    """Return what keeps *call* waiting, after a pass of the worker."""
    world.work()
    return (*world.blocked(call), world.stored(call).nonce)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({}, "coin"),
        (CALL_REQUEST, "function"),
        ({**CALL_REQUEST, "amount": "1"}, "value"),
        (APPROVE, "allowance"),
        ({"amount": "0"}, "empty"),
        ({"calldata": f"0x{WITH_MEMO.hex()}"}, "extra-calldata"),
        ({"calldata": f"0x{WITH_MEMO[:-17].hex()}"}, "calldata"),
        ({"calldata": f"0x{WITH_MEMO[:-16].hex()}", "amount": "0"}, "token"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_default_refuses_each(
    world: World, changes: dict[str, Any], refusal: str
) -> None:
    """The rules have the names that they have for every other signature."""
    with refused(refusal):
        called(world, **changes)
    assert refund_page(world.store, "gateway").refunds == ()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"recipient": CUSTOMER.lower()}, "recipient"),
        ({"amount": "-1"}, "amount"),
        ({"calldata": "0x1"}, "data"),
        ({"calldata": "0x" + "00" * (MAX_CALLDATA + 1)}, "data"),
    ],
    ids=["no checksum", "no amount", "no bytes", "too long"],
)
def test_a_malformed_call(ruling: World, changes: dict[str, Any], field: str) -> None:
    """It is no input of a rule."""
    with pytest.raises(InvalidInputError) as caught:
        called(ruling, **changes)

    assert caught.value.field == field


@pytest.mark.parametrize(
    ("changes", "payload"),
    [
        ({}, Payload(CUSTOMER, COIN_SENT, b"")),
        (CALL_REQUEST, Payload(CONTRACT, 0, PING)),
        (
            {**CALL_REQUEST, "amount": "0.000000000000000001"},
            Payload(CONTRACT, 1, PING),
        ),
    ],
    ids=["coin", "call", "call with coin"],
)
def test_a_permitted_call_is_sent(
    ruling: World, changes: dict[str, Any], payload: Payload, log: Sequence[Record]
) -> None:
    """The chain gets exactly what the client asked for, under a nonce of the ledger."""
    call = called(ruling, **changes)

    assert ruling.explainer.explain(call).policy is None  # No limit of a token is its.
    sent = ruling.step(call, times=3)
    transaction = Sent.read(ruling.chain.broadcasts[-1])
    ruling.settle()

    assert (call.token, call.token_address, call.purpose) == (
        COIN,
        COIN_ADDRESS,
        PaymentPurpose.CALL,
    )
    assert transfer_of(call) == payload
    assert (transaction.to, transaction.value, transaction.data) == (
        payload.to,
        payload.value,
        payload.data,
    )
    assert (sent.nonce, transaction.gas_limit) == (0, 62_500)
    assert ruling.stored(call).status is Status.CONFIRMED
    details = [each.fields.get("details") or {} for each in log]
    signed = [each["calldata"] for each in details if "calldata" in each]
    assert set(signed) == {f"0x{payload.data.hex()}"}
    assert len(signed) >= 3  # The acceptance, the intent and the signature.


def test_no_tenant_calls_the_vault(ruling: World) -> None:
    """Not even if a rule of the operator permits its address and function."""
    ruling.network = ruling.network.model_copy(update={"vault": CONTRACT})

    with refused("vault"):
        called(ruling, **CALL_REQUEST)


def test_no_tenant_makes_a_call_that_looks_like_a_batch(world: World) -> None:
    """It could bear the memo of another tenant's refund."""
    everything = ruled(
        world,
        '@id("all") permit'
        ' (principal, action == Action::"sign-transaction", resource);',
    )
    data = encode_pay(TOKEN, [Item(CUSTOMER, 1, bytes(16))])

    with refused("vault"):
        called(everything, recipient=CONTRACT, amount="0", calldata=f"0x{data.hex()}")


def test_a_reserved_call_is_signed_late(ruling: World) -> None:
    """With the gas limit that it needs then, and at most the reserved one."""
    call = ruling.step(called(ruling, **CALL_REQUEST))
    ruling.clock.advance(hours=1)
    ruling.chain.gas = 40_000

    ruling.step(call)

    assert ruling.sent(call).gas_limit == 50_000


def test_the_largest_gas_limits(ruling: World) -> None:
    """That of the token that is called, or else that of any transaction."""
    approval = called(ruling, **APPROVE)
    call = called(ruling, **CALL_REQUEST)
    ruling.chain.gas = 2_000_001

    with pytest.raises(GasLimitError, match="the call would need"):
        ruling.step(approval)
    assert ruling.step(call).gas_limit == 2_500_001
    ruling.chain.gas = MAX_GAS - 1
    assert ruling.step(called(ruling, **CALL_REQUEST)).gas_limit == MAX_GAS


def test_coin_waits_for_a_top_up(ruling: World) -> None:
    """Without a nonce, which would hold up all later refunds."""
    call = called(ruling)
    ruling.chain.coin = COIN_SENT - 1
    poor = _stuck(ruling, call)
    # Now it suffices for the coin, and not for the gas.
    ruling.chain.coin = COIN_SENT
    poor_of_gas = _stuck(ruling, call)
    ruling.chain.coin = 2 * COIN_SENT
    ruling.work(after=ruling.stored(call).moving.due_at - ruling.clock())

    assert poor == poor_of_gas == (Status.QUEUED, "insufficient-funds", None)
    assert ruling.stored(call).nonce == 0


def test_a_token_that_is_the_coin_pays_for_its_own_gas(world: World) -> None:
    """A transfer of all of it would revert, and end the refund."""
    world.network = world.network.model_copy(update={"coin_is": "TUSD"})
    refund = world.accepted()
    world.chain.coin = AMOUNT * 10**12
    waiting = _stuck(world, refund)
    world.chain.coin += 10**18
    world.work(after=world.stored(refund).moving.due_at - world.clock())

    assert waiting == (Status.QUEUED, "insufficient-funds", None)
    assert world.stored(refund).nonce == 0

    world.chain.coin = AMOUNT * 10**12 + 10**18
    assert _stuck(world, world.accepted()) == waiting  # The first one sends it.


def test_two_calls_do_not_send_the_same_coin(ruling: World) -> None:
    """In one batch: the second one waits until the first is mined."""
    ruling.chain.coin = COIN_SENT + COIN_SENT // 2
    calls = called(ruling), called(ruling)

    ruling.work()
    found = [ruling.stored(call) for call in calls]
    ended = ruling.finish(*calls)

    assert {(each.nonce, each.moving.blocked_by) for each in found} == {
        (0, None),
        (None, "insufficient-funds"),
    }
    assert {each.status for each in ended} == {Status.CONFIRMED}


def test_coin_that_another_batch_sends_is_counted(ruling: World) -> None:
    """A worker reads what has a nonce and is not mined."""
    ruling.chain.coin = COIN_SENT + COIN_SENT // 2
    first = ruling.step(called(ruling), times=3)

    second = called(ruling)
    waiting = _stuck(ruling, second)

    assert first.nonce == 0
    assert waiting == (Status.QUEUED, "insufficient-funds", None)


def test_a_rule_can_demand_an_approval(ruling: World) -> None:
    """The proposal has the calldata, so that people see what they approve."""
    ruled(ruling, RULES + REVIEW)
    call = called(ruling, **CALL_REQUEST)
    ruling.work()
    waiting = ruling.stored(call)

    approval = approve_waiting(ruling, call, Actor("token:carol"))
    (ended,) = ruling.finish(call)

    assert (call.status, waiting.status) == (Status.AWAITING_APPROVAL,) * 2
    assert f'"calldata":"0x{PING.hex()}"' in approval.proposal.replace(" ", "")
    assert ended.status is Status.CONFIRMED


def _forbid(condition: str) -> str:
    return (
        '@id("totals") forbid (principal, action == Action::"sign-transaction",'
        f' resource) when {{ context.path == "call" && {condition} }};'
    )


@pytest.mark.parametrize(
    "condition",
    [
        'context has spent_hour && context.spent_hour.greaterThan(decimal("-1.0"))',
        "context has first_payment",
    ],
)
def test_rules_know_no_totals_of_a_call_without_coin(
    ruling: World, condition: str
) -> None:
    """A call of a token may move anything: sums of its coin would mislead."""
    ruled(ruling, RULES + _forbid(condition))

    (ended,) = ruling.finish(called(ruling, **APPROVE))

    assert ended.status is Status.CONFIRMED


@pytest.mark.parametrize("fact", ["spent_day", "spent_tenant_day", "spent_recipient"])
def test_rules_bound_what_is_sent_of_coin(ruling: World, fact: str) -> None:
    """To the last unit of four digits; the second call waits."""
    bound = f'context has {fact} && context.{fact}.greaterThan(decimal("0.1"))'
    first = called(ruling)
    ruling.clock.now += timedelta(seconds=1)  # The worker takes the older one first.
    second = called(ruling, amount="0.000000000000000001")
    ruled(ruling, RULES + _forbid(bound))

    (ended,) = ruling.finish(first)
    waiting = _stuck(ruling, second)

    assert ended.status is Status.CONFIRMED
    assert waiting == (Status.QUEUED, "policy-violation", None)


def test_a_first_payment_of_coin(ruling: World) -> None:
    """Tokens that the address got before are no coin; a repetition is not a second."""
    ruling.finish(ruling.accepted())
    ruled(
        ruling, RULES + _forbid("context has first_payment && !context.first_payment")
    )

    submit = partial(
        ruling.service.submit,
        tenant="gateway",
        idempotency_key="key-1",
        request=call_request(),
        actor=Actor.from_token("gateway", "req-1", None),
    )

    (ended,) = ruling.finish(submit().refund)
    repeated = submit().refund
    with pytest.raises(PolicyViolationError) as refused:
        called(ruling)

    assert ended.status is Status.CONFIRMED
    assert repeated.id == ended.id
    assert refused.value.rule == "totals"


def test_a_rule_that_was_removed(ruling: World) -> None:
    """The call gets no nonce: only a signature's refusal would hold up later ones."""
    call = called(ruling, **CALL_REQUEST)
    ruled(ruling, REVIEW)

    assert _stuck(ruling, call) == (Status.QUEUED, "policy-violation", None)


def test_a_call_of_a_denied_address(ruling: World, tmp_path: Any) -> None:
    """Also of one that a rule permits."""
    path = tmp_path / "denied.txt"
    path.write_text(f"{CONTRACT}\n")
    ruling.deny_list = DenyList(path)

    with refused("recipient-denied"):
        called(ruling, **CALL_REQUEST)


def test_a_lost_transaction_with_the_nonce_is_the_call(ruling: World) -> None:
    """What a restored ledger finds is compared by recipient, coin and calldata."""
    call = ruling.step(called(ruling), times=3)
    ruling.chain.forget()
    hash_ = ruling.chain.mine_foreign(
        ruling.signer.address, b"", to=CUSTOMER, value=COIN_SENT
    )

    found = ruling.step(call)

    assert (found.status, found.tx_hash) == (Status.MINED, hash_)


@pytest.mark.parametrize(
    ("to", "value", "data"),
    [
        (CONTRACT, COIN_SENT, b""),
        (CUSTOMER, COIN_SENT - 1, b""),
        (CUSTOMER, COIN_SENT, b"\0"),
    ],
    ids=["recipient", "coin", "calldata"],
)
def test_another_transaction_with_the_nonce_is_not_the_call(
    ruling: World, to: str, value: int, data: bytes
) -> None:
    """The call fails once that one is final."""
    call = ruling.step(called(ruling), times=3)
    ruling.chain.forget()
    ruling.chain.mine_foreign(ruling.signer.address, data, to=to, value=value)
    ruling.chain.mine_empty(5)

    found = ruling.step(call)

    assert (found.status, found.failure_code) == (Status.FAILED, "nonce-taken")


@pytest.mark.parametrize(
    ("change", "violated"),
    [
        ({"to": TOKEN}, "recipient"),
        ({"value": 1}, "value"),
        ({"data": PING + b"\0"}, "calldata"),
        ({"gas": 60_001}, "gas"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_transaction_that_is_not_the_call(
    ruling: World, change: dict[str, Any], violated: str
) -> None:
    """Each field is compared before the signature."""
    reserved = ruling.step(called(ruling, **CALL_REQUEST))
    attempt = Attempt(Kind.TRANSFER, 0, 60_000, 10**9, 1, is_legacy=False)
    transaction: Any = build_transaction(reserved.reserved(), attempt, NETWORK)

    check_call(transaction, reserved, NETWORK, gas=60_000)
    with refused(violated):
        check_call(replace(transaction, **change), reserved, NETWORK, gas=60_000)


def test_calls_have_the_limits_of_gas(ruling: World) -> None:
    """Those of the network and the tenant; of a token's amounts, none."""
    call = called(ruling, **CALL_REQUEST)
    ruling.network = NETWORK.model_copy(update={"gas_per_hour": 200_000})
    limits = {"gas_per_hour": 100_000}
    tenant = Tenant.model_validate(
        {"subjects": ["shop-1"], "networks": {"local": limits}}
    )
    ruling.tenants = TenantRegistry({"gateway": tenant})

    found = ruling.nonces.limits(call, ruling.chains["local"])

    assert found == Limits(gas_per_hour=200_000, tenant=Limits(gas_per_hour=100_000))


def test_a_call_has_the_key_of_its_content(ruling: World) -> None:
    """The fingerprint covers the calldata, and that of other requests is as before."""
    one, other = call_request(reference="a"), call_request(reference="a")
    other = replace(other, payment_session_id=one.payment_session_id)

    assert one.fingerprint() == other.fingerprint()
    assert replace(other, calldata="0x00").fingerprint() != one.fingerprint()
    assert replace(one, calldata=None).fingerprint() != one.fingerprint()
