"""A worker that is killed while it deletes old events loses nothing that is needed."""

import random
from collections.abc import Mapping
from contextlib import closing
from datetime import timedelta
from itertools import count
from multiprocessing.connection import Connection

import pytest

from backends.sql import SQLStore
from backends.sql.tables import events, webhook_deliveries
from signer.model.acceptance import Acceptance
from signer.model.event import DeliveryState
from signer.ports.clock import utc_now
from signer.ports.event_store import DeliveryAttempt
from signer.webhooks.event_feed import EventRetention
from tests.fixtures.ledger import queued
from tests.fixtures.races import start_process
from tests.support.ledgers import open_ledger
from tests.support.waiting import eventually


KEEP = timedelta(days=90)
AGO = timedelta(days=100)

_PER_TENANT = 20
_TENANTS = ("gateway", "shop", "other")


def prune_forever(url: str, line: Connection) -> None:
    """Delete old events in batches of three until the process is killed."""
    store, timer = open_ledger(url), count()
    retention = EventRetention(
        store, KEEP, utc_now, timer=lambda: 1000.0 * next(timer), batch=3
    )
    line.send("running")
    while not line.poll(0.005):  # Others write meanwhile.
        retention.work()


def _states(store: SQLStore) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return the tenants of events, and the states of deliveries, by event."""
    tenants = store._database.rows(events.select().order_by(events.c.sequence))
    deliveries = store._database.rows(webhook_deliveries.select())
    return (
        {row.id: row.tenant for row in tenants},
        {row.event_id: row.state for row in deliveries},
    )


def _fill(store: SQLStore) -> list[str]:
    """Return old events in their order; every tenth one is given up."""
    store.accept_all(
        [
            Acceptance(queued(tenant=_TENANTS[n % len(_TENANTS)]))
            for n in range(_PER_TENANT * len(_TENANTS))
        ]
    )
    at = utc_now() - AGO
    store.sequence_events(1000, at, lambda _: True)
    free, until = dict.fromkeys(_TENANTS, 1000), at + timedelta(minutes=1)
    due = store.claim_deliveries(free, 1000, at, until)
    states = (
        DeliveryState.DELIVERED if n % 10 else DeliveryState.DEAD
        for n in range(len(due))
    )
    store.record_attempts(
        [
            DeliveryAttempt(each.delivery, state, at)
            for each, state in zip(due, states, strict=True)
        ],
        at,
    )
    return list(_states(store)[0])


@pytest.mark.parametrize("database", ["sqlite_url", "postgresql_url"])
def test_killed_while_it_deletes(database: str, request: pytest.FixtureRequest) -> None:
    """An operator replays events meanwhile: each is kept, or it was gone before."""
    url, chosen = request.getfixturevalue(database), random.Random(7)
    replayed: set[str] = set()
    with closing(open_ledger(url)) as store:
        ids = _fill(store)
        tenants, first = _states(store)
        needed = {id_ for id_, state in first.items() if state != "delivered"}
        newest = {tenants[id_]: id_ for id_ in ids}.values()
        for left in (50, 40, 30):
            process, line = start_process(prune_forever, url)
            assert line.recv() == "running"
            replayed |= {
                *store.replay_deliveries(
                    chosen.sample(ids, 2), utc_now(), lambda _: True
                )
            }
            assert eventually(lambda most=left: len(_states(store)[0]) <= most, 60)  # type: ignore[misc]
            process.kill()
            process.join()
            _check(store, needed | replayed | {*newest})
        process, line = start_process(prune_forever, url)
        kept = needed | replayed | {*newest}
        assert eventually(lambda: _states(store)[0].keys() == kept, 60)
        process.kill()
        process.join()
        _check(store, kept)


def _check(store: SQLStore, needed: set[str]) -> None:
    """What is needed is there, and no delivery is without its event."""
    found, deliveries = _states(store)

    assert needed <= found.keys()
    assert deliveries.keys() <= found.keys()
