"""What a worker measures, and what the rows of workers add to ``/metrics``."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from api.metrics import metric_names
from api.metrics.ledger import LedgerCollector
from api.metrics.process import ProcessFigures, server_figures, worker_figures
from api.metrics.readings import OTHER, Names
from api.metrics.worker_meter import WorkerMeter
from backends.sql import SQLStore
from signer.keys.signing_alarm import WINDOW_SECONDS
from signer.model.network_view import Funds, NetworkView, NodeView
from signer.model.refund import OPERATOR, Refund, Status
from signer.model.worker_row import WorkerRow
from signer.ports.ledger import Ledger
from tests.api.readings import exposed
from tests.api.support import NOW, SettableClock
from tests.fixtures.ledger import as_if, queued
from tests.support.refunds import altered


VIEW = NetworkView(
    [
        NodeView("node-1", 0, is_trusted=True),
        NodeView("node-2", None, is_trusted=False, disagrees=True),
    ],
    [Funds("coin", 5 * 10**17, 18, 40, 6.5), Funds("TUSD", 1_500_000, 6)],
    max_fee=3 * 10**9,
    chain_nonce=17,
    missing_nonces=2,
    is_delegated=True,
    revoked_operators=1,
    head_age=12,
)


def _samples(text: str) -> dict[str, float]:
    """Return every sample by its name, and its labels in alphabetical order."""
    return {
        " ".join([sample.name, *_ordered(sample.labels)]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _shown(meter: WorkerMeter) -> dict[str, float]:
    return _samples(exposed(meter.text()))


def _ordered(labels: Mapping[str, str]) -> list[str]:
    return [labels[name] or "none" for name in sorted(labels)]


@pytest.fixture
def meter() -> WorkerMeter:
    return WorkerMeter(Names(["local"], ["shop"]))


def _refund(status: Status, seconds: float = 0, **changes: object) -> Refund:
    given = {"tenant": "shop", "created_at": NOW, "id": "rf_1"}
    at = NOW + timedelta(seconds=seconds)
    refund = as_if(queued(**{**given, **changes}), status=status, updated_at=at)
    if refund.transaction is None:
        return refund
    return refund.inside(replace(refund.transaction, updated_at=at))


def test_signatures_are_measured(meter: WorkerMeter) -> None:
    meter.signed("aws-kms", "success", 0.03, attempts=3, throttled=2)
    meter.signed("aws-kms", "success", 0.2, attempts=1, throttled=0)
    meter.signed("aws-kms", "backend-throttled", 9, attempts=4, throttled=4)
    samples = _shown(meter)

    name = "hotwallet_signature_seconds"
    assert samples[f"{name}_count aws-kms success"] == 2
    assert samples[f"{name}_bucket aws-kms 0.05 success"] == 1
    assert samples[f"{name}_count aws-kms backend-throttled"] == 1
    assert samples["hotwallet_signature_attempts_total aws-kms"] == 8
    assert samples["hotwallet_signature_throttled_total aws-kms"] == 6


def test_the_share_of_rejected_calls_is_that_of_a_minute() -> None:
    now = [0.0]
    meter = WorkerMeter(Names([], []), lambda: now[0])
    meter.signed("aws-kms", "success", 0.03, attempts=10, throttled=5)
    meter.signed("pkcs11", "success", 0.03, attempts=1, throttled=0)
    shares = [_shown(meter)]
    now[0] = WINDOW_SECONDS + 1
    shares.append(_shown(meter))

    name = "hotwallet_signature_throttled_share"
    assert [each[f"{name} aws-kms"] for each in shares] == [0.5, 0]
    assert [each[f"{name} pkcs11"] for each in shares] == [0, 0]


def test_fees_are_added_up_in_coins(meter: WorkerMeter) -> None:
    meter.paid_fee("local", 10**18)
    meter.paid_fee("local", 5 * 10**17)
    meter.paid_fee("unknown", 1)
    samples = _shown(meter)

    assert samples["hotwallet_fees_paid_total local"] == 1.5
    assert samples[f"hotwallet_fees_paid_total {OTHER}"] == 1e-18


def test_refunds_are_measured_from_their_acceptance(meter: WorkerMeter) -> None:
    steps = (
        (Status.QUEUED, Status.SIGNED, 1),
        (Status.SIGNED, Status.BROADCAST, 2),
        (Status.BROADCAST, Status.MINED, 4),
        (Status.MINED, Status.CONFIRMED, 9),
    )
    for before, after, seconds in steps:
        meter.moved(_refund(before), _refund(after, seconds))
    samples = _shown(meter)

    assert samples["hotwallet_refund_broadcast_seconds_sum local"] == 2
    assert samples["hotwallet_refund_confirmed_seconds_sum local"] == 9
    assert samples["hotwallet_refunds_ended_total none local confirmed shop"] == 1


def test_only_the_first_broadcast_is_measured(meter: WorkerMeter) -> None:
    """Not one with higher fees, and not one after a reorganisation."""
    steps = (
        (Status.SIGNED, Status.BROADCAST),
        (Status.BROADCAST, Status.SIGNED),
        (Status.SIGNED, Status.BROADCAST),
        (Status.BROADCAST, Status.MINED),
        (Status.MINED, Status.BROADCAST),
        (Status.BROADCAST, Status.FAILED),
    )
    for before, after in steps:
        meter.moved(_refund(before), _refund(after, 1, failure_code="reverted"))
    samples = _shown(meter)

    assert samples["hotwallet_refund_broadcast_seconds_count local"] == 1
    assert samples["hotwallet_refunds_ended_total reverted local failed shop"] == 1
    assert meter._replaced == set()


def test_what_is_remembered_is_bounded(
    meter: WorkerMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.metrics.worker_meter._MOST_REPLACED", 2)
    for number in range(5):
        sent = _refund(Status.BROADCAST, id=f"rf_{number}")
        meter.moved(sent, as_if(sent, status=Status.SIGNED))

    assert meter._replaced == {"rf_0", "rf_1"}


def test_labels_are_bounded(meter: WorkerMeter) -> None:
    """Unknown networks and tenants are one each, and so are codes after the 100th."""
    for number in range(200):
        refund = _refund(Status.QUEUED, tenant=f"subject-{number}", network=str(number))
        meter.delayed(refund, f"code-{number}")
        meter.moved(refund, as_if(refund, status=Status.REFUSED))
    sweep = _refund(Status.MINED, tenant=OPERATOR)
    meter.moved(sweep, as_if(sweep, status=Status.CONFIRMED))
    samples = _shown(meter)

    assert samples["hotwallet_refund_delays_total code-99 other"] == 1
    assert samples[f"hotwallet_refund_delays_total {OTHER} other"] == 100
    assert samples["hotwallet_refunds_ended_total none other refused other"] == 200
    of_operator = "hotwallet_refunds_ended_total none local {} hotwallet operator"
    assert samples[of_operator.format("confirmed")] == 1
    assert of_operator.format("failed") not in samples


def test_the_newest_view_counts(meter: WorkerMeter) -> None:
    meter.looked("local", VIEW)
    samples = _shown(meter)

    assert samples == {
        "hotwallet_wallet_balance coin local": 0.5,
        "hotwallet_wallet_balance TUSD local": 1.5,
        "hotwallet_wallet_refunds_left coin local": 40,
        "hotwallet_wallet_hours_left coin local": 6.5,
        "hotwallet_wallet_chain_nonce local": 17,
        "hotwallet_wallet_missing_nonces local": 2,
        "hotwallet_wallet_delegated local": 1,
        "hotwallet_vault_revoked_operators local": 1,
        "hotwallet_network_max_fee_gwei local": 3,
        "hotwallet_node_up local node-1": 1,
        "hotwallet_node_up local node-2": 0,
        "hotwallet_node_disagrees local node-1": 0,
        "hotwallet_node_disagrees local node-2": 1,
        "hotwallet_node_lag_blocks local node-1": 0,
        "hotwallet_network_problem none local": 0,
        "hotwallet_network_quorum local": 1,
        "hotwallet_network_head_age_seconds local": 12,
    }
    at = datetime(2026, 1, 1, tzinfo=UTC)
    lost = NetworkView([], has_quorum=False, problem="chain-unavailable", at=at)
    meter.looked("local", lost)
    meter.looked("other", VIEW)
    meter.looked("other", None)

    assert _shown(meter) == {
        "hotwallet_network_quorum local": 0,
        "hotwallet_network_problem chain-unavailable local": 1,
        "hotwallet_network_looked_timestamp_seconds local": at.timestamp(),
    }


def test_signatures_and_batches_are_counted(meter: WorkerMeter) -> None:
    """And what the batches did not pay."""
    for signatures in (1, 1, 3):
        meter.ended("local", signatures=signatures)
    meter.ended_batch("local", 3, ["reverted", "vault-limit", "vault-limit"])
    meter.ended_batch("local", 2, [])
    samples = _shown(meter)

    assert samples["hotwallet_refund_signatures_sum local"] == 5
    assert samples["hotwallet_refund_signatures_count local"] == 3
    assert samples["hotwallet_batch_size_sum local"] == 5
    assert samples["hotwallet_batch_size_count local"] == 2
    assert samples["hotwallet_batch_unpaid_total reverted local"] == 1
    assert samples["hotwallet_batch_unpaid_total vault-limit local"] == 2


def test_failing_top_ups_are_shown_by_the_worker_that_asks(meter: WorkerMeter) -> None:
    for asset, is_failing in (("TUSD", True), ("TEUR", False)):
        meter.topped_up("local", asset, is_failing=is_failing)
    assert _shown(meter) == {
        "hotwallet_top_up_failing TUSD local": 1,
        "hotwallet_top_up_failing TEUR local": 0,
    }
    meter.topped_up("local", "TUSD", is_failing=None)

    assert _shown(meter) == {}


def _collected(store: SQLStore, clock: SettableClock) -> dict[str, float]:
    """Return the samples of workers: those that a ledger without any does not have."""
    empty = _scraped(altered(store, workers=lambda: ()), clock)
    found = _scraped(store, clock).items()
    return {
        name: value
        for name, value in found
        if name not in empty or name.startswith("hotwallet_workers ")
    }


def _scraped(ledger: Ledger, clock: SettableClock) -> dict[str, float]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(LedgerCollector(ledger, clock, networks={}))
    return _samples(generate_latest(registry).decode())


def _row(name: str, metrics: str, seconds: float = 0) -> WorkerRow:
    return WorkerRow(name, NOW, NOW + timedelta(seconds=seconds), metrics)


def test_running_workers_are_reported_with_their_names(
    sqlite_store: SQLStore, meter: WorkerMeter
) -> None:
    """And that there is none."""
    none = _collected(sqlite_store, SettableClock())
    meter.signed("pkcs11", "success", 0.03, attempts=1, throttled=0)
    for name, seconds in (("a", 30), ("b", 28), ("c", 1)):
        sqlite_store.record_pass(_row(name, meter.text(), seconds))
    samples = _collected(sqlite_store, SettableClock(NOW + timedelta(seconds=30)))

    assert none == {"hotwallet_workers running": 0, "hotwallet_workers stopped": 0}
    assert samples["hotwallet_workers running"] == 2
    assert samples["hotwallet_workers stopped"] == 1
    assert samples["hotwallet_worker_last_pass_age_seconds b"] == 2
    assert samples["hotwallet_worker_last_pass_age_seconds c"] == 29
    found = {
        name.rpartition(" ")[2]
        for name in samples
        if name.startswith("hotwallet_signature_attempts_total pkcs11")
    }
    assert found == {"a", "b"}
    assert samples["hotwallet_signature_seconds_bucket pkcs11 0.05 success a"] == 1


def _json(name: str, labels: object, *numbers: object) -> str:
    return json.dumps({f"hotwallet_{name}": [[labels, numbers]]})


@pytest.mark.parametrize(
    "metrics",
    [
        _json("alerts_total", ["x"], 7.0),
        _json("wallet_balance", ["local"], 7.0),
        _json("wallet_balance", ["local", "x", "x"], 7.0),
        _json("wallet_balance", ["x" * 65, "x"], 7.0),
        _json("wallet_balance", ["<script>", "x"], 7.0),
        _json("wallet_balance", ["local", 7], 7.0),
        _json("wallet_balance", ["local", "x"], "seven"),
        _json("wallet_balance", ["local", "x"], 7.0, 7.0),
        _json("wallet_balance", "local", 7.0),
        '{"hotwallet_wallet_balance":[[["local","x"],[NaN]]]}',
        '{"hotwallet_wallet_balance":[[["local","x"],[1e999]]]}',
        '{"hotwallet_wallet_balance":{"local":7}}',
        '{"hotwallet_wallet_balance":[7]}',
        '{"hotwallet_wallet_balance":[[["local","x"],[7.0]]',
        "[" * 99,
        "[]",
        json.dumps(
            {
                "hotwallet_wallet_balance": [
                    [["local", str(n)], [7.0]] for n in range(1100)
                ]
            }
        ),
    ],
)
def test_a_changed_row_adds_nothing(
    sqlite_store: SQLStore, metrics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only metrics of the catalogue, with their labels, and not too many."""
    monkeypatch.setattr("api.metrics.readings._MOST_NUMBERS", 1000)
    sqlite_store.record_pass(_row("a", metrics))
    samples = _collected(sqlite_store, SettableClock(NOW))

    assert set(samples) == {
        "hotwallet_workers running",
        "hotwallet_workers stopped",
        "hotwallet_worker_last_pass_age_seconds a",
    }


def test_a_worker_measures_what_the_catalogue_has() -> None:
    names, figures = Names(["local"], ["shop"]), worker_figures(lambda: (0, 8))
    meter = WorkerMeter(names, figures=figures)
    refund = _refund(Status.SIGNED)
    meter.signed("pkcs11", "success", 0.03, attempts=1, throttled=0)
    meter.delayed(refund, "x")
    meter.paid_fee("local", 1)
    for before, after in (
        (Status.SIGNED, Status.BROADCAST),
        (Status.MINED, Status.CONFIRMED),
    ):
        meter.moved(as_if(refund, status=before), as_if(refund, status=after))
    meter.ended("local", signatures=1)
    meter.ended_batch("local", 2, ["x"])
    meter.topped_up("local", "TUSD", is_failing=True)
    meter.called("local", "node-1", [("eth_call", "ok")], 0.1)
    meter.looked("local", replace(VIEW, at=NOW))
    kinds = {
        family.name: family.type
        for family in text_string_to_metric_families(exposed(meter.text()))
    }

    assert kinds == {spec.family_name: spec.kind for spec in metric_names.OF_WORKERS}


def test_calls_of_nodes_are_counted(meter: WorkerMeter) -> None:
    """By node, method and outcome; an exchange may have several calls."""
    calls = [("eth_call", "ok"), ("eth_call", "ok"), ("eth_gasPrice", "chain-failed")]
    meter.called("local", "node-1", calls, 0.2)
    meter.called("unknown", "node-1", [("eth_call", "ok")], 9.0)
    samples = _shown(meter)

    name = "hotwallet_rpc_requests_total"
    assert {k: v for k, v in samples.items() if k.startswith(name)} == {
        f"{name} eth_call local node-1 ok": 2,
        f"{name} eth_gasPrice local node-1 chain-failed": 1,
        f"{name} eth_call other node-1 ok": 1,
    }
    assert samples["hotwallet_rpc_exchange_seconds_count local node-1"] == 1
    assert samples["hotwallet_rpc_exchange_seconds_sum local node-1"] == 0.2


def test_too_many_nodes_cost_no_other_metric() -> None:
    """A worker's row is bounded, and all metrics would be lost otherwise."""
    meter = WorkerMeter(Names([], []))
    meter.looked("local", VIEW)
    for number in range(1000):
        meter.called("local", f"node-{number}", [("eth_call", "ok")], 0.1)
    text = meter.text()

    assert "hotwallet_node_up" in text
    assert "hotwallet_rpc" not in text


def test_a_worker_shows_its_process() -> None:
    """CPU time, memory and connections; of a server, all of its workers count."""
    meter = WorkerMeter(Names([], []), figures=worker_figures(lambda: (1, 8)))
    samples = _shown(meter)

    assert samples["hotwallet_worker_cpu_seconds_total"] > 0
    assert samples["hotwallet_worker_memory_bytes"] > 1_000_000
    assert samples["hotwallet_worker_database_connections used"] == 1
    assert samples["hotwallet_worker_database_connections most"] == 8


def test_a_process_that_has_ended_counts_nothing() -> None:
    ours, _, _ = server_figures(lambda: (0, 8)).collect()
    specs = (
        metric_names.SERVER_CPU,
        metric_names.SERVER_MEMORY,
        metric_names.SERVER_CONNECTIONS,
    )
    gone, _, _ = ProcessFigures(specs, lambda: (0, 8), lambda: [2**22 + 1]).collect()

    assert ours.samples[0].value > 0
    assert gone.samples[0].value == 0
