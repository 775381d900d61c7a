"""Rules about earlier payments hold under concurrent reservations, on each database."""

from contextlib import closing
from dataclasses import replace
from functools import cache, partial

import pytest

from backends.sql import SQLStore
from signer.chain.erc20 import encode_transfer
from signer.config.tenants import TenantRegistry
from signer.crypto.transactions import DynamicFeeTransaction
from signer.errors import HotWalletError, PolicyViolationError, StaleStateError
from signer.model.payment_totals import PaymentTotals
from signer.model.refund import Refund
from signer.policy.default_rules import service_files
from signer.policy.facts import Caller, Path, TransactionFacts
from signer.policy.policy import Policy
from signer.policy.policy_text import PolicyFile
from signer.policy.surroundings import KnownNetwork, KnownToken, Surroundings
from signer.policy.transaction_facts import transaction_facts
from signer.ports import Permit, Reservation
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accepted,
    now,
    opened,
    stored,
)
from tests.fixtures.races import race
from tests.support.keys import key_at, made_active
from tests.support.ledgers import open_ledger
from tests.support.refunds import NOON, FakeClock


AMOUNT = 12_500_000
CUSTOMERS = [f"0x{n:040x}" for n in range(0xA0, 0xA5)]
TOKEN = KnownToken("TUSD", 6, 10**12, None, 100_000)
NETWORK = KnownNetwork("local", 31337, 10**11, {OTHER_WALLET.lower(): TOKEN})

# Each lets 20 payments of 12.5 pass, to one recipient or to several.
LIMITS = {
    each: f'context has {each} && context.{each}.greaterThan(decimal("250.0"))'
    for each in ("spent_hour", "spent_day", "spent_recipient")
}
ONCE = "context has first_payment && !context.first_payment"


@cache
def _policy(condition: str) -> Policy:
    text = (
        '@id("own") forbid (principal, action == Action::"sign-transaction", resource)'
        f" when {{ {condition} }};"
    )
    files = service_files({}, TenantRegistry())
    return Policy.compile(files, [PolicyFile("own.cedar", text)])


def _facts(refund: Refund) -> TransactionFacts:
    transaction = DynamicFeeTransaction(
        chain_id=refund.chain_id,
        nonce=0,
        max_priority_fee_per_gas=1,
        max_fee_per_gas=10**9,
        gas=65_000,
        to=refund.token_address,
        value=0,
        data=encode_transfer(refund.recipient, refund.amount, refund.mark),
    )
    caller = Caller(Path.REFUND, tenant=refund.tenant)
    surroundings = Surroundings(caller, WALLET, NOON, NETWORK)
    digest = transaction.signing_digest()
    return transaction_facts(transaction, digest, surroundings, refund.mark)


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
    return list(
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


@pytest.mark.parametrize("fact", LIMITS)
def test_a_rule_allows_exactly_its_number(store: SQLStore, fact: str) -> None:
    """The last unit fits in, and none after it."""
    rule = LIMITS[fact]

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


def test_a_first_payment_is_first_for_ever(store: SQLStore, clock: FakeClock) -> None:
    """Of a token on a network; also after a year."""
    assert _pay(store, ONCE)
    clock.advance(hours=24 * 365)
    assert not _pay(store, ONCE)
    assert _pay(store, ONCE, recipient=CUSTOMERS[0])
    assert not _pay(store, ONCE, tenant="other")


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
    store.save(changed, later)

    first, paid = _reserve(store, ONCE, changed, second)

    assert isinstance(first, StaleStateError)
    assert isinstance(paid, Refund)
    assert _count(_reserve(store, ONCE, later)) == 0


def test_what_a_rule_refuses_is_not_counted(store: SQLStore) -> None:
    assert not _pay(store, "context has spent_hour && context.nonce == 0")

    refund = accepted(store)
    assert store.payment_totals(refund).is_first_payment
    assert store.payment_totals(refund).spent.day == 0


def _take(rule: str, size: int, url: str, _: SQLStore, index: int) -> int:
    """Pay each customer twice, *size* at once, in one of several processes."""
    with closing(open_ledger(url, clock=lambda: NOON)) as store:
        refunds = [accepted(store, recipient=each) for each in CUSTOMERS * 2]
        starts = range(0, len(refunds), size)
        batches = [refunds[start : start + size] for start in starts]
        return sum(_count(_reserve(store, rule, *batch)) for batch in batches)


@pytest.mark.parametrize(
    ("rule", "size", "paid"),
    [
        (LIMITS["spent_hour"], 1, 20),
        (LIMITS["spent_day"], 5, 20),
        (LIMITS["spent_recipient"].replace("250.0", "87.5"), 1, 7 * len(CUSTOMERS)),
        (ONCE, 5, len(CUSTOMERS)),
    ],
    ids=["hour", "day", "recipient", "first payment"],
)
def test_eight_processes_exceed_no_rule_together(
    database_url: str, rule: str, size: int, paid: int
) -> None:
    """Of 80 payments exactly as many are made as the rule allows."""
    with closing(open_ledger(database_url)) as store:
        opened(store, 31337, WALLET)
        made_active(store, key_at(WALLET))

    assert sum(race(partial(_take, rule, size, database_url), database_url, 8)) == paid
