"""Webhooks lose nothing, for any worker that is killed and any answer they get."""

import threading
from contextlib import closing

import pytest

from signer.model.event import DeliveryState, Event
from signer.ports.clock import utc_now
from signer.ports.event_store import DeliveryFilter
from tests.crash.webhook_lab import (
    TENANTS,
    FailingReceiver,
    killed_workers,
    make_events,
    wait_until_delivered,
)
from tests.support.ledgers import open_ledger


def _run(database: str, refunds: int, changes: int, kills: int, most: float) -> None:
    with FailingReceiver(seed=kills) as receiver:
        making = threading.Thread(target=make_events, args=(database, refunds, changes))
        making.start()
        with killed_workers(f"{database} {receiver.url}/hook", kills, kills, most):
            making.join()
            wait_until_delivered(database, patience=400)

    with closing(open_ledger(database)) as store:
        stored: dict[str, Event] = {}
        for tenant in TENANTS:
            after = 0
            while page := store.events(tenant, after, 1000, utc_now()).events:
                stored |= {event.id: event for event, _ in page}
                after = page[-1][0].sequence or 0
        assert store.deliveries(1, DeliveryFilter(state=DeliveryState.PENDING)) == []
        assert store.deliveries(1, DeliveryFilter(state=DeliveryState.DEAD)) == []
    assert receiver.problems == []
    assert receiver.ids == {*stored}
    assert len(stored) == refunds * changes
    for refund_id, messages in receiver.accepted.items():
        versions = [stored[message["id"]].version for message in messages]
        assert versions == sorted(versions), refund_id
        assert {message["data"]["id"] for message in messages} == {refund_id}
    assert receiver.requests > len(stored) * 4 / 3


def test_killed_workers_lose_no_event(postgresql_url: str) -> None:
    """Each event arrives at least once, in the order of its refund, verifiably."""
    _run(postgresql_url, refunds=30, changes=4, kills=6, most=0.5)


@pytest.mark.soak
@pytest.mark.parametrize("database", ["sqlite_url", "postgresql_url"])
def test_ten_thousand_events(database: str, request: pytest.FixtureRequest) -> None:
    """The same, with 10,000 events and 50 kills."""
    url = request.getfixturevalue(database)
    _run(url, refunds=2500, changes=4, kills=50, most=2.0)
