"""``DeliveryAdmin``: what an operator may ask for, and what is recorded of it."""

from typing import Any

import pytest

from backends.sql import SQLStore
from signer.audit.log import AuditLog
from signer.config.tenants import Tenant, TenantRegistry
from signer.errors import InvalidInputError, NotFoundError, StoreUnavailableError
from signer.keys.admin_audit import AdminAudit
from signer.model.audit_record import Actor, Operation
from signer.model.event import DeliveryState
from signer.ports.clock import utc_now
from signer.ports.event_store import DeliveryAttempt, DeliveryFilter
from signer.webhooks.delivery_admin import MAX_DEAD, MAX_EVENTS, DeliveryAdmin, Replay
from tests.fixtures.ledger import accepted, later
from tests.support.ledgers import seal
from tests.support.refunds import altered
from tests.support.ring import SILENCE


ALICE = Actor("cli:alice")

_WEBHOOK = {"url": "https://shop.example/hook"}

REGISTRY = TenantRegistry(
    {
        "shop": Tenant.model_validate({"subjects": ["shop"], "webhook": _WEBHOOK}),
        "gateway": Tenant.model_validate({"subjects": ["gateway"]}),
    }
)


def _admin(store: SQLStore, over: Any = None) -> DeliveryAdmin:
    audit = AdminAudit(AuditLog(SILENCE, journal=store), Operation.ADMINISTRATION)
    return DeliveryAdmin(over or store, REGISTRY, audit, utc_now)


def _events(store: SQLStore, count: int = 1, tenant: str = "shop") -> list[str]:
    """Return the ids of new events with deliveries, the oldest first."""
    for _ in range(count):
        accepted(store, tenant=tenant)
    store.sequence_events(99, utc_now(), lambda _: True)
    rows = store.deliveries(count, DeliveryFilter(tenant))
    return [row.event_id for row, _ in reversed(rows)]


def _give_up_all(store: SQLStore) -> None:
    found = store.claim_deliveries({"shop": 99}, 99, later(1), later(60))
    store.record_attempts(
        [
            DeliveryAttempt(each.delivery, DeliveryState.DEAD, utc_now(), "status-500")
            for each in found
        ],
        utc_now(),
    )


def _records(store: SQLStore) -> list[tuple[str, str, Any]]:
    seal(store)
    records = [each.record.fields for each in store.sealed(0, 100)]
    assert {each["actor"] for each in records} <= {"cli:alice"}
    return [(each["event"], each["outcome"], each["details"]) for each in records]


def test_pages(sqlite_store: SQLStore) -> None:
    """A page that is not the last one has the number to continue before."""
    ids = _events(sqlite_store, 3)
    admin = _admin(sqlite_store)
    first = admin.list(DeliveryFilter(), 2)
    rest = admin.list(DeliveryFilter(), 2, first.next_before)

    assert [row.event_id for row, _ in first.deliveries] == [ids[2], ids[1]]
    assert [row.event_id for row, _ in rest.deliveries] == [ids[0]]
    assert rest.next_before is None
    assert admin.find(ids[0])[0] == rest.deliveries[0][0]


@pytest.mark.parametrize("event_id", ["evt_none", "", f"evt_{'0' * 32}", "\0"])
def test_an_unknown_event(sqlite_store: SQLStore, event_id: str) -> None:
    """It is not found; its replay is recorded as refused, without a strange text."""
    admin = _admin(sqlite_store)
    with pytest.raises(NotFoundError):
        admin.find(event_id)
    with pytest.raises(NotFoundError, match="no such event of a tenant with a webhook"):
        admin.replay([event_id], ALICE)
    known = [event_id] if event_id.endswith("00") else []

    assert _records(sqlite_store) == [
        ("webhook-replay-requested", "success", {"events": known}),
        ("webhook-replay-refused", "not-found", {"events": known}),
    ]


def test_a_replay_of_events(sqlite_store: SQLStore) -> None:
    """Those without a webhook are missing; the record has what was done."""
    (sent,), (other,) = _events(sqlite_store), _events(sqlite_store, tenant="gateway")
    _give_up_all(sqlite_store)
    result = _admin(sqlite_store).replay([sent, other, sent], ALICE)

    assert result == Replay([sent], [other])
    assert sqlite_store.deliveries(9, DeliveryFilter(state=DeliveryState.DEAD)) == []
    assert _records(sqlite_store) == [
        ("webhook-replay-requested", "success", {"events": [sent, other]}),
        ("webhook-replay-succeeded", "success", {"events": [sent], "count": 1}),
    ]


def test_too_many_events(sqlite_store: SQLStore) -> None:
    """Nothing is done, nor recorded."""
    ids = [f"evt_{n:032x}" for n in range(MAX_EVENTS + 1)]
    with pytest.raises(InvalidInputError, match="at most 100 events"):
        _admin(sqlite_store).replay(ids, ALICE)

    assert _records(sqlite_store) == []


def test_a_replay_of_what_was_given_up(sqlite_store: SQLStore) -> None:
    _events(sqlite_store, 3)
    _give_up_all(sqlite_store)
    done = _admin(sqlite_store).replay_dead("shop", ALICE)

    assert (done.count, done.is_complete) == (3, True)
    # A call makes a limited number due, in one short transaction.
    full = altered(sqlite_store, replay_dead=lambda *_: MAX_DEAD)
    more = _admin(sqlite_store, full).replay_dead("shop", ALICE)
    assert (more.count, more.is_complete) == (MAX_DEAD, False)
    broken = altered(sqlite_store, replay_dead=StoreUnavailableError("gone"))
    with pytest.raises(StoreUnavailableError):
        _admin(sqlite_store, broken).replay_dead("shop", ALICE)

    first, last = _records(sqlite_store)[:2], _records(sqlite_store)[-1]
    assert first == [
        ("webhook-replay-requested", "success", {"tenant": "shop"}),
        ("webhook-replay-succeeded", "success", {"tenant": "shop", "count": 3}),
    ]
    assert last[:2] == ("webhook-replay-refused", "store-unavailable")


@pytest.mark.parametrize("tenant", ["gateway", "unknown", "\0"])
def test_a_tenant_without_a_webhook(sqlite_store: SQLStore, tenant: str) -> None:
    with pytest.raises(NotFoundError, match="no webhook for this tenant"):
        _admin(sqlite_store).replay_dead(tenant, ALICE)

    assert _records(sqlite_store)[-1][:2] == ("webhook-replay-refused", "not-found")
