"""An alert is logged, counted and sent to the notifier, in this order."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from backends.sql import SQLStore
from signer.alerts import LASTING, REMIND_SECONDS, Alert, Alerts, Facts
from signer.audit.log import AuditLog
from signer.errors import StoreUnavailableError
from tests.support.ledgers import open_ledger, seal
from tests.support.refunds import FakeClock, altered
from tests.support.ring import SILENCE


ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-canary"


class Outside:
    """A notifier that records its documents."""

    def __init__(self) -> None:
        self.documents: list[Mapping[str, object]] = []

    def notify(self, document: Mapping[str, object]) -> None:
        """Record *document*."""
        self.documents.append(document)


@pytest.fixture
def events() -> Iterator[list[Any]]:
    """The logged events."""
    with capture_logs() as captured:
        yield captured


def test_alert_is_logged_counted_and_sent(store: SQLStore, events: list[Any]) -> None:
    """All three have the same content."""
    outside = Outside()
    clock = FakeClock()
    alerts = Alerts(store, outside, clock)

    alerts.sound(Alert.ROTATION_REFUSED, code="new-key-unhealthy", epoch=3)

    facts = {"code": "new-key-unhealthy", "epoch": 3}
    (event,) = events
    assert event == {
        "event": "alert",
        "log_level": "error",
        "alert": "rotation-refused",
        **facts,
    }
    assert store.alert_counts() == {"rotation-refused": 1}
    assert outside.documents == [
        {
            "alert": "rotation-refused",
            "status": "firing",
            "severity": "page",
            "environment": "test",
            "source": "hotwallet",
            "key": "hotwallet/rotation-refused",
            "at": clock().isoformat(),
            "facts": facts,
            "runbook": "docs/how-to/alarms.md#rotation-refused",
        }
    ]


def test_alert_has_a_link_to_its_runbook(events: list[Any]) -> None:
    """On the page that the operators read."""
    outside = Outside()

    Alerts(None, outside, runbooks="https://docs.example/alarms").sound(
        Alert.BREAK_GLASS, key=ARN, count=None
    )

    (document,) = outside.documents
    assert document["runbook"] == "https://docs.example/alarms#break-glass"
    assert document["facts"] == {"key": "[redacted]", "count": None}


def test_processes_share_the_counts(database_url: str, events: list[Any]) -> None:
    """
    Two processes that share a ledger have one count of each alert.

    A problem that lasts counts once, and an intruder's work as often as it is seen.
    """
    stores = [open_ledger(database_url) for _ in range(2)]
    for store in stores:
        for alert in Alert:
            Alerts(store).sound(alert)
        Alerts(store).sound(Alert.CHAIN_BROKEN)
    counts = stores[0].alert_counts()
    for store in stores:
        store.close()

    once = {alert for alert, remind in LASTING.items() if remind}
    assert counts == {
        **{str(alert): 1 if alert in once else 2 for alert in Alert},
        "audit-chain-broken": 4,
    }


def _statuses(outside: Outside) -> list[tuple[object, object]]:
    return [(each["key"], each["status"]) for each in outside.documents]


@dataclass
class Processes:
    """Three processes that share a ledger, and a receiver; the last has no ledger."""

    outside: Outside
    clock: FakeClock
    first: Alerts
    second: Alerts
    alone: Alerts


@pytest.fixture
def processes(store: SQLStore) -> Processes:
    outside, clock = Outside(), FakeClock()
    first, second, alone = (
        Alerts(each, outside, clock, environment="production", source="hotwallet/eu")
        for each in (store, store, None)
    )
    return Processes(outside, clock, first, second, alone)


def test_a_problem_is_one_alert_until_it_is_resolved(
    processes: Processes, events: list[Any]
) -> None:
    """Of all processes together; any of them may see its end, and one reports it."""
    node: Any = {"network": "local", "node": "node-2"}
    for lag in (11, 12):
        for process in (processes.first, processes.second):
            process.sound(Alert.NODE_LAGGING, **node, lag=lag)
        processes.clock.advance(hours=1)
    processes.first.sound(Alert.NODE_LAGGING, network="local", node="node-3")
    for process in (processes.second, processes.first):
        process.resolve(Alert.NODE_LAGGING, **node)
    processes.first.sound(Alert.NODE_LAGGING, **node)

    two, three = "node-lagging/local/node-2", "node-lagging/local/node-3"
    assert _statuses(processes.outside) == [
        (f"hotwallet/eu/{two}", "firing"),
        (f"hotwallet/eu/{three}", "firing"),
        (f"hotwallet/eu/{two}", "resolved"),
        (f"hotwallet/eu/{two}", "firing"),
    ]
    severities = {each["severity"] for each in processes.outside.documents}
    assert severities == {"ticket"}
    assert processes.outside.documents[2]["facts"] == node
    assert processes.outside.documents[2]["environment"] == "production"
    assert [each["event"] for each in events].count("alert-resolved") == 1


def test_a_problem_is_repeated_while_it_lasts(processes: Processes) -> None:
    """By the first process that is due: another one has seen it meanwhile."""
    for _ in range(13):
        for process in (processes.first, processes.second):
            process.sound(Alert.LOW_BALANCE, network="local", asset="coin")
        processes.clock.advance(hours=1)

    assert len(processes.outside.documents) == 3


def test_a_new_process_knows_what_lasts(processes: Processes) -> None:
    """The one that raised it may have been killed; what has not lasted has no end."""
    processes.first.resolve(Alert.LOW_BALANCE, network="local", asset="coin")
    processes.first.resolve(Alert.SIGNING_STOPPED, is_known=False, network="local")

    processes.first.sound(Alert.QUORUM_LOST, network="local")
    processes.second.refresh()
    processes.second.refresh()  # Not again so soon.
    processes.second.resolve(Alert.QUORUM_LOST, network="local")
    processes.first.sound(Alert.SIGNING_STOPPED, network="local", actor="alice")
    processes.second.resolve(Alert.SIGNING_STOPPED, is_known=False, network="local")
    processes.alone.refresh()

    statuses = [status for _, status in _statuses(processes.outside)]
    assert statuses == ["firing", "resolved"] * 2


def test_a_process_without_the_ledger_raises_and_resolves_alone(
    processes: Processes, sqlite_store: SQLStore
) -> None:
    """Such as the alert that the ledger does not answer."""
    gone = StoreUnavailableError("gone")
    down = altered(
        sqlite_store, count_alert=gone, raise_problem=gone, resolve_problem=gone
    )
    cut_off = Alerts(down, processes.outside, processes.clock)
    for process in (processes.alone, cut_off):
        for _ in range(3):
            process.sound(Alert.DATABASE_UNREACHABLE, code="store-unavailable")
            processes.clock.advance(seconds=200)
        process.resolve(Alert.DATABASE_UNREACHABLE)
        process.resolve(Alert.DATABASE_UNREACHABLE)

    statuses = [status for _, status in _statuses(processes.outside)]
    assert statuses == ["firing", "firing", "resolved"] * 2


def test_the_end_of_a_problem_that_the_ledger_lacks_is_reported(
    processes: Processes, sqlite_store: SQLStore
) -> None:
    """By each process that raised it; once the ledger had it, by one."""
    gone = StoreUnavailableError("gone")
    down = altered(sqlite_store, count_alert=gone, raise_problem=gone)
    both = [Alerts(down, processes.outside, processes.clock) for _ in range(2)]
    for is_written in (False, True):
        for each in both:
            each.counters = down
            each.sound(Alert.DATABASE_UNREACHABLE, code="store-unavailable")
        for each in both:
            each.counters = sqlite_store
            if is_written:
                processes.clock.advance(seconds=600)
                each.sound(Alert.DATABASE_UNREACHABLE, code="store-unavailable")
        for each in both:
            each.resolve(Alert.DATABASE_UNREACHABLE)
        statuses = [status for _, status in _statuses(processes.outside)]
        processes.outside.documents.clear()

        assert statuses.count("resolved") == (1 if is_written else 2)


def test_alert_is_sent_if_it_cannot_be_counted(
    sqlite_store: SQLStore, events: list[Any]
) -> None:
    """With the database down, the alert is still logged and sent."""
    outside = Outside()
    broken = altered(sqlite_store, count_alert=StoreUnavailableError("gone"))

    Alerts(broken, outside).sound(Alert.KEY_UNHEALTHY, code="key-unusable")

    assert [event["event"] for event in events] == ["alert", "alert-not-counted"]
    assert events[1]["code"] == "store-unavailable"
    assert outside.documents[0]["alert"] == "key-unhealthy"


def test_failed_checks_are_recorded(sqlite_store: SQLStore) -> None:
    """Without tickets, and what has a record of its own; a failure is logged."""
    recorded: list[Any] = []
    audit = AuditLog(SILENCE, FakeClock(), journal=sqlite_store)

    def record(alert: str, facts: Facts) -> None:
        recorded.append((alert, dict(facts)))
        audit.write(audit.alert(alert, facts))

    alerts = Alerts(sqlite_store, record=record)
    for alert in (Alert.KEY_MISMATCH, Alert.NODE_DOWN, Alert.BREAK_GLASS):
        alerts.sound(alert, subject="0xa")
    seal(sqlite_store)
    (found,) = (each.record.fields for each in sqlite_store.sealed(0, 9))
    names = "event", "actor", "operation", "outcome", "details"

    assert recorded == [("key-mismatch", {"subject": "0xa"})]
    assert [found[name] for name in names] == [
        *("alert-raised", "alerts", "check", "key-mismatch", {"subject": "0xa"})
    ]
    with capture_logs() as logs:
        broken = altered(sqlite_store, append=StoreUnavailableError("gone"))
        audit = AuditLog(SILENCE, journal=broken)
        alerts.sound(Alert.KEY_MISMATCH, subject="0xb")
    assert [each["event"] for each in logs] == ["alert", "alert-not-counted"]


def _reminds(alerts: Alerts, alert: Alert, *about: str, **facts: str) -> bool:
    with capture_logs() as logs:
        alerts.remind(alert, *about, **facts)
    return [each["event"] for each in logs] == ["alert"]


def test_reminders_come_every_five_minutes() -> None:
    """An alert sounds at once, and again only while the problem lasts long."""
    seconds = [0.0]
    alerts = Alerts(clock=lambda: datetime.fromtimestamp(seconds[0], UTC))
    due = []
    for seconds[0] in (9, 10, 8 + REMIND_SECONDS, 9 + REMIND_SECONDS, 0):
        due.append(_reminds(alerts, Alert.KEY_UNHEALTHY, address="0xa"))

    # A clock that was set back suppresses nothing.
    assert due == [True, False, False, True, True]


def test_reminders_separate_problems_and_alerts() -> None:
    """Another subject, another alert, and a problem that comes back are due at once."""
    alerts = Alerts(clock=lambda: datetime.fromtimestamp(0, UTC))
    assert _reminds(alerts, Alert.WEBHOOK_FAILING, tenant="a")
    assert _reminds(alerts, Alert.WEBHOOK_FAILING, tenant="b")
    assert _reminds(alerts, Alert.APPROVAL_REQUESTED, "a")
    assert _reminds(alerts, Alert.APPROVAL_REQUESTED, "b")
    assert not _reminds(alerts, Alert.APPROVAL_REQUESTED, "a")
    assert not _reminds(alerts, Alert.WEBHOOK_FAILING, tenant="a")

    alerts.resolve(Alert.WEBHOOK_FAILING, due_at_once=False, tenant="a")
    assert not alerts.is_due(Alert.WEBHOOK_FAILING, tenant="a")
    alerts.resolve(Alert.WEBHOOK_FAILING, tenant="a")

    assert alerts.is_due(Alert.WEBHOOK_FAILING, tenant="a")
    assert not alerts.is_due(Alert.WEBHOOK_FAILING, tenant="b")
