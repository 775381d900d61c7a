"""The rules for requests and for transactions to sign."""

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from signer.chain.erc20 import encode_transfer
from signer.config.networks import NOOP_GAS, Network
from signer.config.tenants import NO_LIMITS, Tenant
from signer.crypto.secp256k1 import Signature
from signer.crypto.transactions import (
    AccessListTransaction,
    AnyTransaction,
    Authorization,
    BlobTransaction,
    DynamicFeeTransaction,
    SetCodeTransaction,
)
from signer.errors import EncodingError, InvalidInputError, PolicyViolationError
from signer.model.payment import PaymentState
from signer.model.refund import Refund, RefundRequest, Status
from signer.model.spending_limits import (
    Bound,
    Limits,
    LimitScope,
    list_allowances,
    list_bounds,
)
from signer.refunds.payment_checks import (
    LAST_PRECOMPILE,
    ZERO_ADDRESS,
    admit,
    check_noop,
    check_transfer,
)
from tests.fixtures.ledger import as_if
from tests.fixtures.scripted_chain import CHAIN_ID, DECIMALS, TOKEN
from tests.support.refunds import CUSTOMER, NETWORK, REQUEST, refused


WALLET = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _admit(configured: Network = NETWORK, **changes: Any) -> Refund:
    return admit(
        replace(REQUEST, **changes),
        refund_id="rf_1",
        tenant="gateway",
        idempotency_key="key-1",
        networks={"local": configured},
        wallets=[WALLET],
        now=NOW,
    )


def test_a_valid_request_becomes_a_queued_refund() -> None:
    """It has the request's fields and those of the configuration."""
    assert _admit() == Refund(
        id="rf_1",
        tenant="gateway",
        idempotency_key="key-1",
        fingerprint=REQUEST.fingerprint(),
        reference=REQUEST.reference,
        payment_session_id=REQUEST.payment_session_id,
        network="local",
        chain_id=CHAIN_ID,
        token="TUSD",
        token_address=TOKEN,
        decimals=DECIMALS,
        recipient=CUSTOMER,
        amount=12_500_000,
        reason=None,
        state=PaymentState.QUEUED,
        created_at=NOW,
        updated_at=NOW,
        due_at=NOW - timedelta(seconds=1),
    )


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"network": "mainnet"}, "network"),
        ({"network": ""}, "network"),
        ({"network": "LOCAL"}, "network"),
        ({"token": "USDT"}, "token"),
        ({"token": "tusd"}, "token"),
        ({"token": TOKEN}, "token"),
        ({"amount": "1000.000001"}, "max-amount"),
        ({"amount": "1001"}, "max-amount"),
    ],
)
def test_requests_against_the_policy(changes: dict[str, Any], rule: str) -> None:
    """Unknown networks and tokens, and amounts above the maximum."""
    with refused(rule):
        _admit(**changes)


def test_a_token_may_have_a_minimum_amount() -> None:
    """Less is refused by name; the minimum itself, and no minimum, are allowed."""
    network = NETWORK.model_copy(update=_with_token(min_amount="0.5"))

    with refused("min-amount"):
        _admit(network, amount="0.499999")
    assert _admit(network, amount="0.5").amount == 500_000
    assert _admit(amount="0.000001").amount == 1


def test_an_accepted_refund_stays_accepted_below_a_new_minimum() -> None:
    """It only costs gas, which has a limit of its own."""
    network = NETWORK.model_copy(update=_with_token(min_amount="13"))

    check_transfer(TRANSACTION, REFUND, network, gas=TRANSACTION.gas)


def test_an_address_above_the_precompiled_contracts_is_allowed() -> None:
    """Their error names them."""
    recipient = f"0x{LAST_PRECOMPILE + 1:040x}"

    assert _admit(recipient=recipient).recipient == recipient
    with pytest.raises(InvalidInputError, match="precompiled contract"):
        _admit(recipient=f"0x{1:040x}")


MALFORMED: dict[str, list[Any]] = {
    "recipient": [
        "",
        "0x",
        ZERO_ADDRESS,
        *(f"0x{number:040x}" for number in (*range(1, 0x12), 0x100, 0xFFFF)),
        TOKEN,
        WALLET,
        CUSTOMER.lower(),
        "0x" + CUSTOMER[2:].upper(),
        CUSTOMER[2:],
        CUSTOMER[:-1],
        CUSTOMER[:-2],
        CUSTOMER + "0",
        CUSTOMER + "00",
        CUSTOMER[:-1] + ("1" if CUSTOMER[-1] == "0" else "0"),
        " " + CUSTOMER,
        CUSTOMER + "\n",
        "vitalik.eth",
        None,
        5,
        bytes.fromhex(CUSTOMER[2:]),
    ],
    "amount": ["0", "1e18", "-1", " 1", "0.0000001", "", "\u0663"],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in MALFORMED.items() for value in values],
    ids=repr,
)
def test_malformed_fields_are_refused(field: str, value: Any) -> None:
    """
    The error names the field.

    A recipient must have its checksum, and be no zero, token or wallet address (T10).
    A malformed amount is not refused as too large (T9).
    """
    with pytest.raises(InvalidInputError) as caught:
        _admit(**{field: value})

    assert caught.value.field == field


REFUND = as_if(
    _admit(), status=Status.RESERVED, sender=WALLET, nonce=7, gas_limit=60_000
)
CAP = NETWORK.max_fee_per_gas_gwei * 10**9
TRANSACTION = DynamicFeeTransaction(
    chain_id=CHAIN_ID,
    nonce=7,
    max_priority_fee_per_gas=1,
    max_fee_per_gas=CAP,
    gas=60_000,
    to=TOKEN,
    value=0,
    data=encode_transfer(CUSTOMER, 12_500_000, REFUND.memo),
)


NOOP = replace(TRANSACTION, to=WALLET, data=b"", gas=NOOP_GAS)


check_payment = partial(check_transfer, gas=60_000)


def test_the_transactions_of_a_refund_are_allowed() -> None:
    """A transfer and a no-op that match the refund, up to the fee cap (R14)."""
    check_payment(TRANSACTION, REFUND, NETWORK)
    check_noop(NOOP, REFUND.reserved(), NETWORK)


TRANSFER_CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"chain_id": 1}, "chain-id"),
    ({"nonce": 6}, "nonce"),
    ({"nonce": 8}, "nonce"),
    ({"to": CUSTOMER}, "token"),
    ({"value": 1}, "value"),
    ({"data": encode_transfer(WALLET, 12_500_000, REFUND.memo)}, "recipient"),
    ({"data": encode_transfer(CUSTOMER, 12_500_001, REFUND.memo)}, "amount"),
    ({"data": encode_transfer(CUSTOMER, 12_499_999, REFUND.memo)}, "amount"),
    ({"data": encode_transfer(CUSTOMER, 12_500_000)}, "memo"),
    ({"data": encode_transfer(CUSTOMER, 12_500_000, bytes(16))}, "memo"),
    ({"gas": 60_001}, "gas"),
    ({"gas": 59_999}, "gas"),
    ({"max_fee_per_gas": CAP + 1}, "max-fee"),
    ({"to": None}, "token"),
    ({"gas": 2**24 + 1}, "max-gas"),
    ({"access_list": ((TOKEN, ()),)}, "access-list"),
]
NOOP_CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"chain_id": 1}, "chain-id"),
    ({"nonce": 8}, "nonce"),
    ({"to": CUSTOMER}, "recipient"),
    ({"to": TOKEN}, "recipient"),
    ({"value": 1}, "value"),
    ({"data": TRANSACTION.data}, "calldata"),
    ({"data": b"\0"}, "calldata"),
    ({"gas": 60_000}, "gas"),
    ({"max_fee_per_gas": CAP + 1}, "max-fee"),
    ({"to": None}, "recipient"),
    ({"gas": 2**24 + 1}, "max-gas"),
    ({"access_list": ((TOKEN, ()),)}, "access-list"),
]


@pytest.mark.parametrize(
    ("check", "transaction", "changes", "rule"),
    [
        *((check_payment, TRANSACTION, *each) for each in TRANSFER_CHANGES),
        *((check_noop, NOOP, *each) for each in NOOP_CHANGES),
    ],
)
def test_every_difference_is_found(
    check: Callable[..., None],
    transaction: DynamicFeeTransaction,
    changes: dict[str, Any],
    rule: str,
) -> None:
    """Each field is compared with the refund, and named (T5, T8, T11, R14)."""
    with refused(rule):
        check(replace(transaction, **changes), REFUND, NETWORK)


_FIELDS = {each.name: getattr(TRANSACTION, each.name) for each in fields(TRANSACTION)}
_UNPRICED = {name: value for name, value in _FIELDS.items() if "fee" not in name}
OTHER_TYPES: list[AnyTransaction] = [
    AccessListTransaction(**_UNPRICED, gas_price=CAP),
    BlobTransaction(
        **_FIELDS, max_fee_per_blob_gas=1, blob_versioned_hashes=(b"\x01" + bytes(31),)
    ),
    SetCodeTransaction(
        **_FIELDS, authorization_list=(Authorization(0, TOKEN, 0, Signature(1, 1, 0)),)
    ),
]


@pytest.mark.parametrize("transaction", OTHER_TYPES, ids=lambda t: f"type{t.type}")
def test_other_types_are_refused(transaction: AnyTransaction) -> None:
    """Blobs and authorizations would change more than the refund pays (T6)."""
    with pytest.raises(PolicyViolationError) as caught:
        check_payment(transaction, REFUND, NETWORK)
    with pytest.raises(PolicyViolationError) as of_noop:
        check_noop(transaction, REFUND.reserved(), NETWORK)

    assert (caught.value.rule, of_noop.value.rule) == ("transaction-type",) * 2


def _with_token(**changes: Any) -> dict[str, Any]:
    token = NETWORK.tokens["TUSD"].model_copy(update=changes)
    return {"tokens": {"TUSD": token}}


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        (_with_token(address=CUSTOMER), "token"),
        (_with_token(decimals=18), "token"),
        (_with_token(max_amount="12.499999"), "max-amount"),
        (_with_token(max_gas=59_999), "gas"),
        ({"tokens": {}}, "token"),
        ({"chain_id": 1}, "chain-id"),
    ],
)
def test_a_network_that_was_reconfigured_is_noticed(
    changes: dict[str, Any], rule: str
) -> None:
    """Chain, contract, decimals, amount and gas must still be allowed (T5)."""
    network = NETWORK.model_copy(update=changes)

    with refused(rule):
        check_payment(TRANSACTION, REFUND, network)


@pytest.mark.parametrize("data", [b"", TRANSACTION.data[:-1], b"\0" * 68])
def test_other_calldata_is_refused(data: bytes) -> None:
    """The calldata is decoded again."""
    with pytest.raises(EncodingError):
        check_payment(replace(TRANSACTION, data=data), REFUND, NETWORK)


def test_a_refund_without_a_reservation_is_not_signed() -> None:
    """A refund without a nonce matches no transaction."""
    with pytest.raises(PolicyViolationError):
        check_payment(TRANSACTION, replace(REFUND, nonce=None), NETWORK)


def test_an_attempt_may_have_another_gas_limit() -> None:
    """A later attempt of the nonce has its own gas limit, up to ``max_gas``."""
    largest = NETWORK.tokens["TUSD"].max_gas

    check_transfer(replace(TRANSACTION, gas=largest), REFUND, NETWORK, gas=largest)
    excessive = replace(TRANSACTION, gas=largest + 1)
    with refused("gas"):
        check_transfer(excessive, REFUND, NETWORK, gas=largest + 1)


def test_transfer_and_noop_are_not_interchangeable() -> None:
    """Neither passes the check of the other."""
    with pytest.raises(PolicyViolationError):
        check_noop(TRANSACTION, REFUND.reserved(), NETWORK)
    with pytest.raises(EncodingError):
        check_payment(NOOP, REFUND, NETWORK)


def test_fingerprints_differ_by_request() -> None:
    """The same request has the same fingerprint, and each changed field another."""
    same = RefundRequest(**{name: getattr(REQUEST, name) for name in _fields()})
    others = [replace(REQUEST, **{name: "other"}) for name in _fields()]

    assert same.fingerprint() == REQUEST.fingerprint()
    assert len({request.fingerprint() for request in [REQUEST, *others]}) == 9


def _fields() -> tuple[str, ...]:
    return tuple(RefundRequest.__dataclass_fields__)


def _tenant(**limits: str) -> Tenant:
    networks = {"local": {"gas_per_hour": 30_000, "tokens": {"TUSD": limits}}}
    table = {"subjects": ["shop"], "networks": networks}
    return Tenant.model_validate(table)


def test_the_stricter_amounts_count() -> None:
    token = NETWORK.tokens["TUSD"].model_copy(
        update={"min_amount": "2", "max_amount": "1000", "approve_above": "600"}
    )
    network = NETWORK.model_copy(update={"tokens": {"TUSD": token}})
    strict = _tenant(min_amount="5", max_amount="500", approve_above="100")
    loose = _tenant(min_amount="1", max_amount="2000", approve_above="900")
    found = [
        next(list_allowances({"local": network}, each)) for each in (strict, loose)
    ]

    assert [each.min_amount for each in found] == [5_000_000, 2_000_000]
    assert [each.max_amount for each in found] == [500_000_000, 1_000_000_000]
    assert [each.approve_above for each in found] == [100_000_000, 600_000_000]


def test_bounds_of_the_service_come_first() -> None:
    limits = Limits(hourly=5, gas_per_hour=7, tenant=Limits(daily=3))

    assert list_bounds(limits) == (
        Bound("hourly_limit", LimitScope.SERVICE, 5),
        Bound("gas_per_hour", LimitScope.SERVICE, 7),
        Bound("daily_limit", LimitScope.TENANT, 3),
    )
    assert list_bounds(Limits()) == ()


def test_a_tenant_without_limits() -> None:
    (found,) = list_allowances({"local": NETWORK}, NO_LIMITS)

    assert (found.network, found.symbol, found.chain_id) == ("local", "TUSD", 31337)
    assert (found.min_amount, found.approve_above, found.bounds) == (None, None, ())
