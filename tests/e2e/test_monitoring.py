"""What the running service shows: its metrics, and a worker that stops."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from api.metrics import metric_names
from dev.stack import SYMBOL, Stack
from tests.e2e.gateway import Gateway
from tests.e2e.operator import SPECS, Operator
from tests.support.monitoring import expressions, labels_of, metrics_of
from tests.support.waiting import eventually


WITHIN_SECONDS = 30.0
"""How soon a problem must be visible everywhere."""

_eventually = partial(eventually, pause=0.5)

_MAY_BE_ABSENT = frozenset(
    {
        "hotwallet_approvals_waiting",
        "hotwallet_audit_checkpoint_age_seconds",
        "hotwallet_batch_size",
        "hotwallet_batch_unpaid",
        "hotwallet_refund_delays",
        "hotwallet_refunds_open",
        "hotwallet_refusals",
        "hotwallet_top_up_failing",
        "hotwallet_vault_revoked_operators",
        "hotwallet_webhook_deliveries",
    }
)
"""What has no sample while nothing waits, or no treasury or vault is configured."""

_ALL = metric_names.ALL


@pytest.fixture(scope="module")
def operator(stack: Stack) -> Operator:
    return Operator.of(stack)


@contextmanager
def _stopped_worker(stack: Stack) -> Iterator[float]:
    """Stop the only worker; yield until when that must be visible."""
    pid = stack.processes["worker"].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield time.monotonic() + WITHIN_SECONDS
    finally:
        os.kill(pid, signal.SIGCONT)


def test_the_metrics_of_rules_and_dashboard_exist(
    stack: Stack, operator: Operator
) -> None:
    """After a refund, each has the type and the labels of the catalogue."""
    gateway = Gateway(stack)
    _, _, refund = gateway.post()
    gateway.wait(refund["id"], "confirmed")
    confirmed = "hotwallet_refund_confirmed_seconds_count"
    assert _eventually(lambda: operator.value(confirmed) >= 1, WITHIN_SECONDS)
    # Known once a refund is confirmed, and a worker has looked after that.
    left = "hotwallet_wallet_refunds_left"
    late = 2 * WITHIN_SECONDS  # It looks every 30 seconds, and then writes its row.
    assert _eventually(lambda: operator.value(left, asset=SYMBOL), late)
    # The worker has counted the decision about its signature.
    signed = partial(
        operator.value,
        "hotwallet_policy_decisions_total",
        path="refund",
        verdict="allow",
        rule="refund",
    )
    assert _eventually(lambda: signed() >= 1, WITHIN_SECONDS)
    counted = "hotwallet_signatures_total"
    assert _eventually(lambda: operator.values(counted), WITHIN_SECONDS)
    families = operator.metrics()
    used = {each for _, expression in expressions() for each in metrics_of(expression)}

    assert {SPECS[name].family_name for name in used} <= set(families)
    assert set(families) == {spec.family_name for spec in _ALL}
    for spec in _ALL:
        family = families[spec.family_name]
        of_workers = {"worker"} if spec in metric_names.OF_WORKERS else set()
        assert family.type == spec.kind
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == {*spec.labels} | of_workers
    without = {name for name, each in families.items() if not each.samples}
    assert without <= _MAY_BE_ABSENT


def test_the_labels_of_rules_and_dashboard_exist(operator: Operator) -> None:
    """Each label that an expression uses is a label of a sample of its metrics."""
    families = operator.metrics()
    for name, expression in expressions():
        samples = [
            sample
            for metric in metrics_of(expression)
            for sample in families[SPECS[metric].family_name].samples
        ]
        labels = {label for sample in samples for label in sample.labels}
        assert not samples or labels_of(expression) <= labels, name


def test_all_processes_count_refusals_together(
    stack: Stack, operator: Operator
) -> None:
    """Whichever of the four gunicorn workers refuses, and whichever is scraped."""
    gateway = Gateway(stack)
    refused = partial(
        operator.value, "hotwallet_refusals_total", code="policy-violation"
    )
    decided = partial(
        operator.value,
        "hotwallet_policy_decisions_total",
        path="refund",
        verdict="refuse",
        rule="token",
    )
    before, decided_before = refused(), decided()
    codes = {gateway.post(token="NONE")[2]["code"] for _ in range(12)}

    assert codes == {"policy-violation"}
    assert _eventually(lambda: refused() == before + 12, WITHIN_SECONDS)
    assert _eventually(lambda: decided() == decided_before + 12, WITHIN_SECONDS)


def test_a_worker_that_is_stopped_is_visible(stack: Stack, operator: Operator) -> None:
    """In metrics, alerts, ``/readyz`` and the doctor, and it ends after SIGCONT."""
    assert _eventually(lambda: operator.readiness()[1]["status"] == "ready", 10)
    before = operator.stopped_alerts()

    def is_visible() -> bool:
        status, body = operator.readiness()
        return (
            status == 200
            and body["status"] == "degraded"
            and body["checks"]["worker"] == "worker-stopped"
            and operator.value("hotwallet_workers", state="stopped") == 1
            and operator.value("hotwallet_worker_last_pass_age_seconds") > 20
        )

    with _stopped_worker(stack) as until:
        assert _eventually(is_visible, until - time.monotonic())
        found = operator.doctor()["workers"]
        assert (found["state"], found["code"]) == ("failed", "worker-stopped")
        assert _eventually(
            lambda: operator.stopped_alerts() > before, until - time.monotonic()
        )
        # A client is served all the same.
        status, _, refund = Gateway(stack).post()
        assert (status, refund["status"]) == (201, "queued")
    assert _eventually(lambda: operator.readiness()[1]["status"] == "ready", 10)
    Gateway(stack).wait(refund["id"], "confirmed")

    assert operator.value("hotwallet_workers", state="stopped") == 0
    assert operator.value("hotwallet_workers", state="running") == 1
    assert operator.doctor()["workers"]["state"] == "ok"
    # Four processes watch; one speaks, unless two look at once.
    assert operator.stopped_alerts() < before + 4
