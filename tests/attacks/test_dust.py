"""A client whose refunds cost more gas than they pay."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest

from signer.config.tenants import Tenant, TenantRegistry
from signer.errors import LimitReachedError, PolicyViolationError
from signer.model.refund import Refund, Status
from signer.refunds.eth_send_transaction import TransactionSender
from signer.refunds.token_transfer import ContractCall
from tests.fixtures.scripted_chain import CHAIN_ID
from tests.support.approvals import ruled
from tests.support.ledgers import open_ledger
from tests.support.other_payments import RULES
from tests.support.refunds import ACTOR, CUSTOMER, REQUEST, FakeClock, World
from tests.support.rpc import ScriptedProxy


DUST = "0.000001"
GAS_PER_HOUR = 2_000_000


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    """Return a service on an empty ledger, whose clock is that of the service."""
    clock = FakeClock()
    with closing(open_ledger(sqlite_url, clock=clock)) as store:
        yield World(store, clock=clock)


def _tenants(**limits: int) -> TenantRegistry:
    """Return two tenants, each with *limits* of its own on the network."""
    return TenantRegistry(
        {
            name: Tenant.model_validate(
                {"subjects": [name], "networks": {"local": limits}}
            )
            for name in ("gateway", "other")
        }
    )


def _gas(world: World, refunds: list[Refund]) -> int:
    """Return the gas that the transactions of *refunds* may burn."""
    found = [world.stored(refund) for refund in refunds]
    return sum(refund.gas_limit or 0 for refund in found)


def test_dust_is_refused(world: World) -> None:
    """Refunds below the token's minimum are refused, and none is stored."""
    world.change_token(min_amount="0.01")
    service = world.service

    for number in range(3):
        request = replace(REQUEST, amount=DUST, reference=f"r-{number}")
        with pytest.raises(PolicyViolationError, match=r"at least 0\.01 TUSD"):
            world.submit(request, key=f"key-{number}", service=service)

    assert world.store.list("gateway").refunds == ()


def test_dust_burns_at_most_the_gas_of_an_hour(world: World) -> None:
    """Of 70 refunds of 0.000001, more than half wait for the next hours."""
    world.network = world.network.model_copy(update={"gas_per_hour": GAS_PER_HOUR})
    refunds = [world.accepted(amount=DUST) for _ in range(70)]

    for _ in range(6):
        world.work(after=timedelta(seconds=31))
    burnt = _gas(world, refunds)
    waiting = [each for each in map(world.stored, refunds) if each.nonce is None]
    world.work(after=timedelta(hours=1))

    assert GAS_PER_HOUR * 0.9 < burnt <= GAS_PER_HOUR
    assert {each.status for each in waiting} == {Status.QUEUED}
    assert {each.moving.blocked_by for each in waiting} == {"limit-reached"}
    assert burnt < _gas(world, refunds) <= 2 * GAS_PER_HOUR


def test_dust_is_bounded_by_default(world: World) -> None:
    """
    A tenant of a tenants file has 50 million gas an hour, if nothing is configured.

    When they are used up, nothing more is accepted until the next clock hour; the
    repetition of a request that was accepted is, and another tenant's refunds are.
    """
    gateway, other = (Tenant(subjects=(name,)) for name in ("gateway", "other"))
    world.tenants = TenantRegistry({"gateway": gateway, "other": other})
    world.change_token(max_gas=2_500_000)
    world.chain.gas = 1_999_999  # A quarter is added.
    burnt = [world.accepted(amount=DUST) for _ in range(25)]
    for _ in range(3):
        world.work(after=timedelta(seconds=31))
    submission = world.submit(key="more", service=world.service, tenant="other")

    assert 45_000_000 < _gas(world, burnt) <= 50_000_000
    assert submission.created
    more = replace(REQUEST, amount=DUST, reference="more")
    for _ in range(2):
        with pytest.raises(LimitReachedError, match="gas_per_hour on local, 50000000"):
            world.submit(more, key="dust", service=world.service)
    first = world.stored(burnt[0])
    repeated = replace(REQUEST, amount=DUST, reference=first.reference)
    again = world.submit(repeated, key=first.idempotency_key, service=world.service)
    assert (again.refund.id, again.created) == (first.id, False)
    world.clock.advance(hours=1)
    assert world.submit(more, key="dust", service=world.service).created


def test_one_tenants_dust_leaves_gas_for_others(world: World) -> None:
    """Its refunds wait, and another tenant's refund is paid in the same hour."""
    world.tenants = _tenants(gas_per_hour=GAS_PER_HOUR)
    refunds = [world.accepted(amount=DUST) for _ in range(60)]
    for _ in range(4):
        world.work(after=timedelta(seconds=31))
    submission = world.submit(tenant="other")

    assert GAS_PER_HOUR * 0.9 < _gas(world, refunds) <= GAS_PER_HOUR
    assert submission.refund.status is Status.BROADCAST


def test_transactions_of_one_wei_meet_the_same_limit(world: World) -> None:
    """Those of ``eth_sendTransaction``, which a rule of the operator permits."""
    world.tenants = _tenants(gas_per_hour=GAS_PER_HOUR)
    node = ScriptedProxy({"eth_getTransactionCount": "0x0"})
    service = ruled(world, RULES).service
    sender = TransactionSender(service, world.store, world.clock, {"local": node}, {})
    one_wei = ContractCall(world.signer.address, CHAIN_ID, CUSTOMER, 1, b"")

    def send(number: int) -> Refund:
        return sender.accept(one_wei, "local", "gateway", ACTOR, f"key-{number}")

    calls = [send(number) for number in range(70)]
    for _ in range(6):
        world.work(after=timedelta(seconds=31))
    burnt = _gas(world, calls)

    assert GAS_PER_HOUR * 0.9 < burnt <= GAS_PER_HOUR
    with pytest.raises(LimitReachedError, match="gas_per_hour"):
        send(150)
    world.work(after=timedelta(hours=1))
    assert burnt < _gas(world, calls) <= 2 * GAS_PER_HOUR
