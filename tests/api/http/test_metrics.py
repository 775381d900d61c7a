"""Prometheus metrics come from the ledger, the same from every process."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import falcon
import falcon.testing
import pytest
from falcon.testing import Result
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from api.container import Container
from api.http import problems as errors
from api.http.app import App
from api.http.metrics import Metrics, OpenMetrics
from api.http.middleware import AuthorizationMiddleware, RequestLog
from api.metrics.ledger import LedgerCollector
from api.metrics.metric_names import DECISIONS, REFUSALS, SIGNATURES
from backends.sql import SQLStore
from signer.alerts import Alert, Alerts
from signer.audit.checkpointer import CheckpointSettings
from signer.audit.checkpoints import CheckpointKey, Verify
from signer.errors import StoreUnavailableError
from signer.model.approval import Approval, Proposal
from signer.model.event import DeliveryState
from signer.model.hold import EVERYTHING, name_of_chain
from signer.model.refund import OPEN, Status
from signer.model.wallet import Pause
from signer.ports.audit_journal import Checkpoint
from signer.ports.event_store import DeliveryAttempt
from signer.ports.ledger import Ledger
from tests.api.support import NOW, SettableClock, bearer
from tests.fixtures.ledger import (
    accepted,
    filled,
    moved,
    now,
    opened,
    queued,
    save,
    stopped,
)
from tests.support.audit import KEY, ORIGIN, chain, checkpoint, record
from tests.support.keys import key_at, made_active
from tests.support.ledgers import open_ledger, seal
from tests.support.refunds import NETWORK, altered


ADDRESSES = (
    "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    "0x5FbDB2315678afecb367f032d93F642f64180aa3",
)
SECRET_ID = "arn:aws:kms:eu-central-1:111122223333:key/canary"


def _app(container: Container, resource: Metrics) -> falcon.testing.TestClient:
    app = App(container.tenants)
    authorization = AuthorizationMiddleware(container.authenticator, container.access)
    app.add_middleware([RequestLog(), authorization])
    errors.install(app)
    app.add_route("/metrics", resource)
    return falcon.testing.TestClient(app)


@pytest.fixture
def empty(sqlite_url: str) -> Iterator[SQLStore]:
    store = open_ledger(f"{sqlite_url}-metrics")
    store.migrate()
    yield store
    store.close()


def _samples(text: str) -> dict[str, float]:
    """Return every sample by its name, and its labels in alphabetical order."""
    return {
        " ".join(
            [
                sample.name,
                *(sample.labels[each] or "none" for each in sorted(sample.labels)),
            ]
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _collectors(
    ledger: Ledger, clock: SettableClock, verify: Verify | None = None
) -> list[Collector]:
    collector = LedgerCollector(
        ledger,
        clock,
        verify,
        networks={"local": NETWORK},
        tenants=["shop"],
        rules=lambda: ["refund", "our-rule"],
    )
    return [collector]


Answer = Callable[..., Result]
Scrape = Callable[..., dict[str, float]]


@pytest.fixture
def answer(container: Container, empty: SQLStore, clock: SettableClock) -> Answer:
    """Return a function that asks for the metrics of a ledger, without a token."""

    def run(ledger: Ledger = empty, verify: Verify | None = None) -> Result:
        resource = OpenMetrics(_collectors(ledger, clock, verify))
        return _app(container, resource).simulate_get("/metrics")

    return run


@pytest.fixture
def scrape(answer: Answer) -> Scrape:
    return lambda *given: _samples(answer(*given).text)


def test_all_metrics_exist_from_the_start(scrape: Scrape) -> None:
    samples = scrape()

    assert samples == {
        **{f"hotwallet_alerts_total {alert}": 0 for alert in Alert},
        **{
            f"hotwallet_keys {state}": 0
            for state in (
                "pending",
                "active",
                "draining",
                "retired",
                "rejected",
                "blocked",
            )
        },
        "hotwallet_key_epoch": 0,
        "hotwallet_stopped": 0,
        "hotwallet_audit_records": 0,
        "hotwallet_audit_unsealed_seconds": 0,
        "hotwallet_audit_checkpoint_records": 0,
        **{
            f"hotwallet_refund_oldest_seconds local {status}": 0
            for status in sorted(OPEN)
        },
        "hotwallet_wallets_paused local": 0,
        "hotwallet_workers running": 0,
        "hotwallet_workers stopped": 0,
        "hotwallet_database_up": 1,
    }


def test_counts_alerts_keys_and_records(
    scrape: Scrape, empty: SQLStore, clock: SettableClock
) -> None:
    made_active(empty, key_at(ADDRESSES[0], key_id=SECRET_ID))
    made_active(empty, key_at(ADDRESSES[1]))
    seal(empty)
    sealed, _ = empty.head()
    empty.append([record(at=NOW)])
    Alerts(empty).sound(Alert.KEY_UNHEALTHY)
    Alerts(empty).sound(Alert.KEY_UNHEALTHY)
    clock.now = NOW + timedelta(seconds=42)

    samples = scrape()

    assert samples["hotwallet_alerts_total key-unhealthy"] == 2
    assert samples["hotwallet_keys active"] == 1
    assert samples["hotwallet_keys draining"] == 1
    assert samples["hotwallet_key_epoch"] == 2
    assert samples["hotwallet_audit_records"] == sealed > 0
    assert samples["hotwallet_audit_unsealed_seconds"] == 42


def test_counts_stops_in_force(scrape: Scrape, empty: SQLStore) -> None:
    stopped(empty, 1)
    stopped(empty, EVERYTHING)
    both = scrape()
    empty.end_hold(name_of_chain(EVERYTHING), NOW)

    assert both["hotwallet_stopped"] == 2
    assert scrape()["hotwallet_stopped"] == 1


def test_shows_size_and_age_of_the_last_checkpoint(
    scrape: Scrape, empty: SQLStore, clock: SettableClock
) -> None:
    links = chain(3)
    empty.append([each.record for each in links])
    seal(empty)
    empty.keep_checkpoint(checkpoint(links, 2, at=NOW))
    clock.now = NOW + timedelta(seconds=90)

    samples = scrape()

    assert samples["hotwallet_audit_records"] == 3
    assert samples["hotwallet_audit_checkpoint_records"] == 2
    assert samples["hotwallet_audit_checkpoint_age_seconds"] == 90


def test_shows_the_age_of_secrets(
    scrape: Scrape, empty: SQLStore, clock: SettableClock
) -> None:
    """Of the active key here, as its row has it; and after how long it is due."""
    key = made_active(empty, key_at(f"0x{'11' * 20}"))
    clock.now = key.created_at + timedelta(hours=1)

    samples = scrape()

    assert samples["hotwallet_secret_age_seconds wallet-key"] == 3600
    assert samples["hotwallet_secret_life_seconds wallet-key"] == 365 * 86400


def test_a_forged_checkpoint_is_not_the_last(
    scrape: Scrape, empty: SQLStore, clock: SettableClock
) -> None:
    """The gauges show the newest one that is signed with the key of the process."""
    links = chain(3)
    empty.append([each.record for each in links])
    seal(empty)
    clock.now = NOW
    verify = CheckpointSettings(KEY, ORIGIN).verify
    for key, size in ((KEY, 1), (CheckpointKey.generate(), 2)):
        empty.keep_checkpoint(checkpoint(links, size, key=key, at=NOW))
    empty.keep_checkpoint(Checkpoint(2**62, "x"))
    samples = scrape(empty, verify)

    assert samples["hotwallet_audit_checkpoint_records"] == 1


def test_counts_open_refunds_and_their_age(
    scrape: Scrape, empty: SQLStore, clock: SettableClock
) -> None:
    """Tenants and networks that are not configured are counted together."""
    clock.now = now()
    old = clock.now - timedelta(seconds=90)
    filled(
        empty,
        [
            queued(tenant="shop", updated_at=old),
            queued(tenant="shop"),
            queued(tenant="subject-1"),
            queued(tenant="subject-2", network="unknown", updated_at=old),
        ],
    )
    waiting = accepted(empty, tenant="shop")
    save(empty, waiting, waiting.with_due_at(now(), attempts=1, blocked_by="no-gas"))
    moved(empty, accepted(empty, tenant="shop"), Status.CANCELLED)
    samples = scrape()

    assert samples["hotwallet_refunds_open none local queued shop"] == 2
    assert samples["hotwallet_refunds_open no-gas local queued shop"] == 1
    assert samples["hotwallet_refunds_open none local queued other"] == 1
    assert samples["hotwallet_refunds_open none other queued other"] == 1
    assert samples["hotwallet_refund_oldest_seconds local queued"] == 90
    assert samples["hotwallet_refund_oldest_seconds local signed"] == 0
    assert samples["hotwallet_refunds_accepted_5m local shop"] == 4
    assert samples["hotwallet_refunds_accepted_5m local other"] == 1


def test_shows_wallets(scrape: Scrape, empty: SQLStore) -> None:
    wallet = opened(empty, first=7)
    opened(empty, chain_id=99)  # Of a network that the file no longer has.
    running = scrape()
    empty.pause(wallet, Pause.CHAIN_AHEAD, NOW)

    assert running["hotwallet_wallet_next_nonce local"] == 7
    assert running["hotwallet_wallets_paused local"] == 0
    assert scrape()["hotwallet_wallets_paused local"] == 1


def test_counts_approvals_that_wait(
    scrape: Scrape, empty: SQLStore, clock: SettableClock
) -> None:
    for number, hours in enumerate((1, 1, -1)):
        waiting = Approval.of(
            Proposal("signing-resume", {"version": number}),
            reason="a test",
            requested_by="token:alice",
            at=NOW,
            expires_at=clock() + timedelta(hours=hours),
        )
        empty.put_approval(None, waiting, record(at=NOW))
    samples = scrape()

    assert samples["hotwallet_approvals_waiting signing-resume"] == 2


def test_counts_webhook_deliveries_and_refusals(
    scrape: Scrape, empty: SQLStore
) -> None:
    """A code that another program wrote is a label at most."""
    for tenant in ("shop", "unknown"):
        accepted(empty, tenant=tenant)
        accepted(empty, tenant=tenant)
    empty.sequence_events(9, now(), lambda _: True)
    (failed, *_) = empty.claim_deliveries({"shop": 1}, 1, now(), now())
    attempt = DeliveryAttempt(failed.delivery, DeliveryState.PENDING, now(), "x")
    empty.record_attempts([attempt], now())
    empty.add_counts({(REFUSALS.name, "policy-violation"): 3}, now())
    samples = scrape()

    name = "hotwallet_webhook_deliveries"
    assert {k: v for k, v in samples.items() if k.startswith(name)} == {
        f"{name} waiting shop": 1,
        f"{name} failing shop": 1,
        f"{name} given-up shop": 0,
        f"{name} waiting other": 2,
        f"{name} failing other": 0,
        f"{name} given-up other": 0,
    }
    assert samples["hotwallet_refusals_total policy-violation"] == 3


def test_counts_decisions_of_the_policy(scrape: Scrape, empty: SQLStore) -> None:
    """By the rules of the configuration; what another program wrote is no label."""
    empty.add_counts(
        {
            (DECISIONS.name, "refund", "allow", "refund"): 5,
            (DECISIONS.name, "rest", "needs-approval", "our-rule"): 4,
            (DECISIONS.name, "refund", "needs-approval", "approve-above"): 3,
            (DECISIONS.name, "json-rpc", "refuse", "a-former-rule"): 2,
            (DECISIONS.name, "json-rpc", "refuse", "0x" + "ab" * 20): 1,
            (DECISIONS.name, "else", "allow", "refund"): 1,
            (DECISIONS.name, "refund", "perhaps", "refund"): 1,
            (DECISIONS.name, "refund", "allow"): 1,
            ("else", "refund"): 1,
        },
        now(),
    )
    samples = scrape()

    name = "hotwallet_policy_decisions_total"
    assert {k: v for k, v in samples.items() if k.startswith(name)} == {
        f"{name} refund refund allow": 5,
        f"{name} rest our-rule needs-approval": 4,
        f"{name} refund approve-above needs-approval": 3,
        f"{name} json-rpc other refuse": 3,
    }


def test_counts_signatures(scrape: Scrape, empty: SQLStore) -> None:
    """Of all processes; what another program wrote is no label."""
    empty.add_counts(
        {
            (SIGNATURES.name, "aws-kms", "success"): 5,
            (SIGNATURES.name, "aws-kms", "backend-throttled"): 2,
            (SIGNATURES.name, "aws-kms", "<b>"): 7,
            (SIGNATURES.name, "A" * 200, "success"): 7,
            (SIGNATURES.name, "aws-kms"): 7,
        },
        now(),
    )
    samples = scrape()

    name = "hotwallet_signatures_total"
    assert {k: v for k, v in samples.items() if k.startswith(name)} == {
        f"{name} aws-kms success": 5,
        f"{name} aws-kms backend-throttled": 2,
    }


def test_metrics_have_neither_key_ids_nor_addresses(
    answer: Answer, empty: SQLStore
) -> None:
    """They are text of Prometheus, which is not kept."""
    made_active(empty, key_at(ADDRESSES[0], key_id=SECRET_ID))
    found = answer()

    assert "canary" not in found.text
    assert ADDRESSES[0].lower() not in found.text.lower()
    assert found.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert found.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        (bearer(), 403),
        (bearer(roles=["admin"]), 403),
        (bearer(roles=["devops"]), 200),
        (bearer(roles=["devops"], scope="metrics:read"), 200),
        (bearer(roles=["devops"], scope="keys:read"), 403),
    ],
)
def test_metrics_need_the_role_devops(
    container: Container,
    empty: SQLStore,
    clock: SettableClock,
    headers: dict[str, str],
    status: int,
) -> None:
    """A scope is required only if the token has scopes."""
    client = _app(container, Metrics(_collectors(empty, clock)))

    assert client.simulate_get("/metrics", headers=headers).status_code == status


def test_concurrent_scrapes_are_answered(answer: Answer, empty: SQLStore) -> None:
    together = Barrier(2, timeout=2)

    def slowly() -> Mapping[str, int]:
        together.wait()
        return {}

    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(answer, [altered(empty, alert_counts=slowly)] * 2)

    assert [each.status_code for each in answers] == [200, 200]


def test_a_scrape_shows_that_the_database_is_down(
    answer: Answer, empty: SQLStore
) -> None:
    """And what the process knows of itself, instead of an error."""
    found = answer(altered(empty, head=StoreUnavailableError("no")))

    assert found.status_code == 200
    assert _samples(found.text) == {"hotwallet_database_up": 0}


def test_requests_of_the_application_are_counted(
    container: Container,
    client: falcon.testing.TestClient,
    sqlite_store: SQLStore,
    clock: SettableClock,
) -> None:
    """By the route's template, whatever the path is; probes and scrapes are not."""
    for path in ("/v1/refunds/canary-1", "/v1/refunds/canary-2", "/canary-3"):
        client.simulate_get(path, headers=bearer())
    for path in ("/healthz", "/metrics"):
        client.simulate_get(path)
    container.shared_meter.flush(sqlite_store, clock)
    metrics = client.simulate_get("/metrics", headers=bearer(roles=["devops"]))
    samples = _samples(metrics.text)

    name = "hotwallet_http_requests_total GET"
    assert {k: v for k, v in samples.items() if "http_requests" in k} == {
        f"{name} /v1/refunds/{{refund_id}} 404": 2,
        f"{name} none 404": 1,
    }
    count = "hotwallet_http_request_seconds_count /v1/refunds/{refund_id}"
    assert samples[count] == 2
    assert samples["hotwallet_server_memory_bytes"] > 0
    assert samples["hotwallet_server_database_connections most"] == 4
    assert "canary" not in metrics.text
