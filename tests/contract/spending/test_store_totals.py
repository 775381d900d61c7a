"""Rules about earlier payments hold under concurrent reservations, on each database."""

from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from backends.sql import SQLStore
from signer.config.tenants import TenantRegistry
from signer.crypto.transactions import DynamicFeeTransaction
from signer.errors import (
    HotWalletError,
    PolicyViolationError,
    StaleStateError,
    StoreError,
)
from signer.model.payment import PaymentPurpose
from signer.model.refund import COIN, COIN_ADDRESS, Refund, Status
from signer.model.spending_limits import PaymentTotals
from signer.policy.default_rules import service_files
from signer.policy.facts import (
    Caller,
    KnownNetwork,
    KnownToken,
    Surroundings,
    TransactionFacts,
)
from signer.policy.policy import Policy
from signer.policy.rules import PolicyFile
from signer.policy.transaction_facts import transaction_facts
from signer.ports.refund_store import Permit, Reservation
from signer.refunds.payload import transfer_of
from signer.refunds.payment_policy import path_of
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accepted,
    mined,
    moved,
    now,
    opened,
    paid,
    save,
    signed,
    step_to,
    stored,
)
from tests.fixtures.races import race
from tests.support.keys import key_at, made_active
from tests.support.ledgers import open_ledger
from tests.support.refunds import NOON, FakeClock


COIN_SENT = {
    "token": COIN,
    "token_address": COIN_ADDRESS,
    "calldata": b"",
    "purpose": PaymentPurpose.CALL,
    "decimals": 18,
    "amount": 125 * 10**17,
}
"""A payment of 12.5 coins."""

CUSTOMERS = [f"0x{n:040x}" for n in range(0x10, 0x15)]
TOKEN = KnownToken("TUSD", 6, 10**12, None, 100_000)
NETWORK = KnownNetwork("local", 31337, 10**11, {OTHER_WALLET.lower(): TOKEN})

# Each lets 20 payments of 12.5 pass, to one recipient or to several.
LIMITS = {
    each: f'context has {each} && context.{each}.greaterThan(decimal("250.0"))'
    for each in ("spent_hour", "spent_day", "spent_recipient")
}
OF_TENANT = {
    each: f'context has {each} && context.{each}.greaterThan(decimal("250.0"))'
    for each in ("spent_tenant_hour", "spent_tenant_day")
}
ONCE = "context has first_payment && !context.first_payment"


@cache
def _policy(condition: str) -> Policy:
    text = (
        '@id("own") forbid (principal, action == Action::"sign-transaction", resource)'
        f" when {{ {condition} }};"
        '@id("coin") permit (principal, action == Action::"sign-transaction", resource)'
        ' when { context.path == "call" };'
    )
    files = service_files({}, TenantRegistry())
    return Policy.compile(files, [PolicyFile("own.cedar", text)])


def _facts(refund: Refund) -> TransactionFacts:
    payload = transfer_of(refund)
    transaction = DynamicFeeTransaction(
        chain_id=refund.chain_id,
        nonce=0,
        max_priority_fee_per_gas=1,
        max_fee_per_gas=10**9,
        gas=65_000,
        to=payload.to,
        value=payload.value,
        data=payload.data,
    )
    path = path_of(refund)
    caller = Caller(path, tenant=refund.tenant)
    surroundings = Surroundings(caller, WALLET, NOON, NETWORK)
    digest = transaction.signing_digest()
    return transaction_facts(transaction, digest, surroundings, refund.memo)


def _permit(refund: Refund, condition: str) -> Permit:
    """Return what a worker gives the store: the policy, about the transaction."""
    facts = _facts(refund)

    def permit(totals: PaymentTotals) -> None:
        _policy(condition).require(replace(facts, totals=totals))

    return permit


def _reserve(
    store: SQLStore, condition: str, *refunds: Refund
) -> list[Refund | HotWalletError]:
    if store.wallet(31337, WALLET) is None:
        opened(store, 31337, WALLET)
    made_active(store, key_at(WALLET))
    return paid(
        store.reserve_all(
            [
                Reservation(each, 65_000, permit=_permit(each, condition))
                for each in refunds
            ],
            sender=WALLET,
            key_id=key_at(WALLET).key_id,
            counted=0,
            at=now(),
        )
    )


def _count(outcomes: list[Refund | HotWalletError]) -> int:
    """Return how many got a nonce; the others were refused by the rule."""
    refused = [each for each in outcomes if not isinstance(each, Refund)]
    assert all(isinstance(each, PolicyViolationError) for each in refused), refused
    return len(outcomes) - len(refused)


def _pay(store: SQLStore, condition: str, **changes: object) -> int:
    return _count(_reserve(store, condition, accepted(store, **changes)))


@pytest.mark.parametrize("fact", [*LIMITS, *OF_TENANT])
def test_a_rule_allows_exactly_its_number(store: SQLStore, fact: str) -> None:
    """The last unit fits in, and none after it."""
    rule = (LIMITS | OF_TENANT)[fact]

    assert _pay(store, rule, amount=249_999_999)
    assert not _pay(store, rule, amount=2)
    assert _pay(store, rule, amount=1)
    assert not _pay(store, rule, amount=1)


def test_each_fact_has_its_period(store: SQLStore, clock: FakeClock) -> None:
    """A clock hour; that hour and the 23 before it; the same to one recipient."""
    hour, day, recipient = LIMITS.values()

    assert _pay(store, hour, amount=250_000_000)
    assert not _pay(store, hour, amount=1)
    clock.advance(hours=1)
    assert _pay(store, hour, amount=1)
    clock.advance(hours=22)
    assert not _pay(store, day, amount=1, recipient=CUSTOMERS[0])
    assert not _pay(store, recipient, amount=1)
    assert _pay(store, recipient, amount=1, recipient=CUSTOMERS[0])
    clock.advance(hours=1)
    assert _pay(store, day, amount=1)
    assert _pay(store, recipient, amount=1)


def test_a_batch_counts_each_tenant_alone(store: SQLStore) -> None:
    """Refunds of two tenants in turn, in one transaction."""
    refunds = [accepted(store, tenant=f"shop-{n % 2}") for n in range(50)]

    outcomes = _reserve(store, OF_TENANT["spent_tenant_day"], *refunds)

    paid = [each.tenant for each in outcomes if isinstance(each, Refund)]
    assert [paid.count("shop-0"), paid.count("shop-1")] == [20, 20]
    assert _count(outcomes) == 40


def test_a_first_payment_is_first_for_ever(store: SQLStore, clock: FakeClock) -> None:
    """Of a token on a network; also after a year."""
    assert _pay(store, ONCE)
    clock.advance(hours=24 * 365)
    assert not _pay(store, ONCE)
    assert _pay(store, ONCE, recipient=CUSTOMERS[0])
    assert not _pay(store, ONCE, tenant="other")


OLD = "context has spent_day && !({} && {})".format(
    "context has first_paid_hours && context.first_paid_hours >= 24",
    "context has first_paid_amount"
    ' && context.first_paid_amount.greaterThanOrEqual(decimal("10.0"))',
)
"""Forbids a payment unless a day has passed since a first one of at least 10."""


def _confirm(store: SQLStore, clock: FakeClock, **changes: Any) -> Refund:
    """Return a refund that is confirmed now."""
    at = clock()
    refund = accepted(store, created_at=at, updated_at=at, **changes)
    (reserved,) = _reserve(store, "context.nonce < 0", refund)
    assert isinstance(reserved, Refund)
    sent = moved(store, signed(store, reserved), Status.BROADCAST)
    found = mined(store, sent)
    done = step_to(found, Status.CONFIRMED, at)
    save(store, found, done)
    return done


def test_a_recipient_is_known_a_day_after_the_first_confirmed_payment(
    store: SQLStore, clock: FakeClock
) -> None:
    """Not after one that only has a nonce; of a token, on a network."""
    assert not _pay(store, OLD)
    assert _pay(store, "context.nonce < 0", amount=1)  # It is not confirmed.
    clock.advance(hours=100)
    assert not _pay(store, OLD)
    _confirm(store, clock, amount=10_000_000)
    clock.advance(hours=24)
    assert not _pay(store, OLD)
    clock.advance(hours=1)
    assert _pay(store, OLD)
    for changes in ({"recipient": CUSTOMERS[0]}, {"token_address": WALLET}, COIN_SENT):
        assert not _pay(store, OLD, **changes)
    assert _pay(store, OLD, tenant="other")


def test_a_small_first_payment_makes_no_recipient_known(
    store: SQLStore, clock: FakeClock
) -> None:
    """A larger one later does not change that: a person has to look."""
    _confirm(store, clock, amount=9_999_900)
    clock.advance(hours=30)
    _confirm(store, clock, amount=10_000_000)
    clock.advance(hours=30)

    assert not _pay(store, OLD)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE refunds SET amount = :amount",
        "UPDATE refunds SET recipient = :other",
        "UPDATE refunds SET updated_at = '2020-01-01 00:00:00.000000'",
    ],
)
def test_a_changed_row_makes_no_recipient_known(
    store: SQLStore, clock: FakeClock, change: str
) -> None:
    """The MAC covers amount, recipient and acceptance; nothing is older than that."""
    paid = _confirm(store, clock, amount=10_000_000, recipient=CUSTOMERS[0])
    amount: object = 10**7 + 1
    if store._database.path:
        amount = str(amount).rjust(78, "0")
    text_ = text(f"{change} WHERE id = :id")
    given = {"id": paid.id, "amount": amount, "other": CUSTOMERS[1]}
    params = {name: given[name] for name in text_.compile().params}
    with suppress(SQLAlchemyError, StoreError):  # A trigger keeps what is paid.
        store._database.write(lambda c: c.execute(text_, params))
    clock.advance(hours=23)

    for customer in CUSTOMERS[:2]:
        assert not _pay(store, OLD, recipient=customer)


def test_a_batch_counts_itself(store: SQLStore) -> None:
    """Refunds that share a transaction see those before them."""
    refunds = [accepted(store) for _ in range(25)]

    outcomes = _reserve(store, LIMITS["spent_day"], *refunds)

    nonces = [each.nonce for each in outcomes if isinstance(each, Refund)]
    assert nonces == list(range(20))
    assert _count(outcomes) == 20
    assert stored(store, refunds[20]) == refunds[20]


def test_a_batch_counts_only_what_gets_a_nonce(store: SQLStore) -> None:
    """The first of two refunds changed meanwhile: the second is the first payment."""
    changed, second = accepted(store), accepted(store)
    later = changed.with_due_at(now(), attempts=1, blocked_by="x")
    save(store, changed, later)

    first, paid = _reserve(store, ONCE, changed, second)

    assert isinstance(first, StaleStateError)
    assert isinstance(paid, Refund)
    assert _count(_reserve(store, ONCE, later)) == 0


def test_what_a_rule_refuses_is_not_counted(store: SQLStore) -> None:
    assert not _pay(store, "context has spent_hour && context.nonce == 0")

    refund = accepted(store)
    assert store.payment_totals(refund).is_first_payment
    assert store.payment_totals(refund).spent.day == 0


def test_coin_is_counted_beside_tokens(store: SQLStore) -> None:
    """By the wei, in whole coins; and coin is no token that was paid before."""
    day = LIMITS["spent_day"]

    assert _pay(store, day, amount=250_000_000)
    assert _pay(store, ONCE, **COIN_SENT)
    assert not _pay(store, ONCE, **COIN_SENT)
    assert _pay(store, day, **{**COIN_SENT, "amount": 2375 * 10**17 - 1})
    assert not _pay(store, day, **{**COIN_SENT, "amount": 2})
    assert _pay(store, day, **{**COIN_SENT, "amount": 1})
    assert not _pay(store, day, **{**COIN_SENT, "calldata": b"any", "amount": 1})


def _take(
    rule: str, size: int, asset: Mapping[str, Any], url: str, _: SQLStore, index: int
) -> int:
    """
    Pay each customer twice, *size* at once, in one of several processes.

    Each customer is that of one of two tenants.
    """
    with closing(open_ledger(url, clock=lambda: NOON)) as store:
        refunds = [
            accepted(store, recipient=each, tenant=f"shop-{int(each, 16) % 2}", **asset)
            for each in CUSTOMERS * 2
        ]
        starts = range(0, len(refunds), size)
        batches = [refunds[start : start + size] for start in starts]
        return sum(_count(_reserve(store, rule, *batch)) for batch in batches)


HALF = {each: rule.replace("250.0", "125.0") for each, rule in OF_TENANT.items()}


@pytest.mark.parametrize(
    ("rule", "size", "asset", "paid"),
    [
        (LIMITS["spent_hour"], 1, {}, 20),
        (LIMITS["spent_day"], 5, {}, 20),
        (LIMITS["spent_recipient"].replace("250.0", "87.5"), 1, {}, 7 * len(CUSTOMERS)),
        (ONCE, 5, {}, len(CUSTOMERS)),
        (HALF["spent_tenant_day"], 5, {}, 2 * 10),
        (HALF["spent_tenant_hour"], 1, COIN_SENT, 2 * 10),
    ],
    ids=["hour", "day", "recipient", "first payment", "tenant", "coin of a tenant"],
)
def test_four_processes_exceed_no_rule_together(
    database_url: str, rule: str, size: int, asset: Mapping[str, Any], paid: int
) -> None:
    """Of 40 payments exactly as many are made as the rule allows."""
    with closing(open_ledger(database_url)) as store:
        opened(store, 31337, WALLET)
        made_active(store, key_at(WALLET))

    take = partial(_take, rule, size, asset, database_url)
    assert sum(race(take, database_url, 4)) == paid
