"""A host whose clock is wrong."""

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import cast

import pytest
from falcon.testing import TestClient

from api.container import Container
from api.extras.signing_api.routes import open_transaction_sender
from signer.errors import LimitReachedError
from signer.model.audit_record import Actor
from signer.model.refund import Status
from signer.ports.clock import utc_now
from signer.ports.key_backend import KeyDirectory
from signer.refunds.token_transfer import TransferRequest
from tests.api.access_app import build
from tests.api.service import container_over
from tests.api.support import NOW, SettableClock, bearer
from tests.fixtures.scripted_chain import CHAIN_ID
from tests.support.devices import honest
from tests.support.ledgers import open_ledger
from tests.support.refunds import AMOUNT, CUSTOMER, KEY, World


@pytest.fixture
def world(postgresql_url: str) -> Iterator[World]:
    """Return a host, with a clock of its own, that shares PostgreSQL with others."""
    with closing(open_ledger(postgresql_url)) as store:
        yield World(store)


@pytest.mark.parametrize("hours", [24, 25, -24, 24 * 365])
@pytest.mark.parametrize("limit", ["daily_limit", "daily_limit_per_recipient"])
def test_a_wrong_clock_gets_no_fresh_limit(
    world: World, limit: str, hours: int
) -> None:
    """The day is the database server's, so the second refund waits."""
    world.change_token(**{limit: "12.5"})
    paid = world.broadcast()
    world.clock.advance(hours=hours)
    refund = world.accepted()

    with pytest.raises(LimitReachedError, match=limit):
        world.step(refund)
    world.work()
    world.chain.mine()

    assert world.stored(refund).status is Status.QUEUED
    assert world.stored(refund).moving.blocked_by == "limit-reached"
    assert world.stored(paid).nonce == 0
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_a_clock_that_jumps_back_and_forth_gets_no_fresh_limit(world: World) -> None:
    """A host cannot spend a day's limit once per jump."""
    world.change_token(daily_limit="12.5")
    refunds = [world.accepted() for _ in range(6)]

    for hours in (25, -50, 75, -100, 125, 25):
        world.clock.advance(hours=hours)
        world.worker.work()

    assert sum(world.stored(each).nonce is not None for each in refunds) == 1


def _container(world: World, *, hours: float) -> Container:
    """Return what runs on a host whose clock is *hours* off."""

    def clock() -> datetime:
        return utc_now() + timedelta(hours=hours)

    device = cast("KeyDirectory", honest(KEY))
    container = container_over(world.store, device, world.chains, clock=clock)
    del container.ledger_clock  # The one of production, in place of the tests'.
    container.ring = world.ring
    return container


@pytest.mark.parametrize("hours", [24, 25, -24])
def test_a_wrong_clock_raises_no_fees(world: World, hours: int) -> None:
    """Two hosts a day apart do not take each other's transactions for stuck."""
    world.clock.now = utc_now()
    refund = world.broadcast()
    workers = [_container(world, hours=skew).worker for skew in (0, hours)]

    for number in range(20):
        workers[number % 2].work()

    assert len(world.store.transactions(refund.id)) == 1


@pytest.mark.parametrize("seconds", [-121, 121, 3600])
def test_a_wrong_clock_pays_no_call_twice(world: World, seconds: float) -> None:
    """The two minutes in which JSON-RPC's clients may repeat are the database's."""
    transfer = TransferRequest(
        world.signer.address, CHAIN_ID, "TUSD", CUSTOMER, "1.000000"
    )
    accepted = [
        open_transaction_sender(_container(world, hours=hours)).accept(
            transfer, "local", "shop", Actor("shop")
        )
        for hours in (0, seconds / 3600, 0)
    ]

    assert len({each.id for each in accepted}) == 1


@pytest.mark.parametrize("hours", [-24, -1])
def test_a_slow_clock_accepts_no_old_token(postgresql_url: str, hours: int) -> None:
    """An administrator's token that was used and forgotten cannot be used again."""
    clock = SettableClock()
    ledger_clock = SettableClock(NOW + timedelta(hours=-hours))
    with closing(open_ledger(postgresql_url)) as store:
        app = build(store, clock, ledger_clock=ledger_clock)
        old = bearer(NOW, roles=["admin"], scope="keys:rotate")
        answer = TestClient(app).simulate_post("/rotation", headers=old)

    assert (answer.status_code, answer.json["code"]) == (401, "unauthenticated")
