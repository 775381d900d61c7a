"""Metrics, rules, dashboard and runbooks agree with each other."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.metrics import metric_names
from api.views.codes import load_codes
from backends.alert_webhook import FORMATS
from signer.alerts import LASTING, TICKETS, Alert
from tests.support.conditions import CONDITIONS, Condition
from tests.support.monitoring import (
    RULES,
    RULES_TEST,
    expressions,
    firing_expressions,
    labels_of,
    metrics_of,
    panels,
    promtool,
    rules,
)


ROOT = Path(__file__).resolve().parents[3]
ALARMS = (ROOT / "docs" / "how-to" / "alarms.md").read_text(encoding="utf-8")
METRICS = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
HEALTH = (ROOT / "docs" / "reference" / "health.md").read_text(encoding="utf-8")

ALL = metric_names.ALL
BY_SAMPLE = {name: spec for spec in ALL for name in spec.sample_names}

_LINK = re.compile(r"docs/how-to/alarms\.md#([a-z-]+|\{\{ \$labels\.alert \}\})")


@pytest.mark.parametrize(("name", "expression"), [*expressions()])
def test_expressions_use_metrics_of_the_catalogue(name: str, expression: str) -> None:
    """And only labels that one of these metrics has."""
    specs = [BY_SAMPLE.get(metric) for metric in metrics_of(expression)]
    known = {label for spec in specs if spec is not None for label in spec.labels}
    if any(spec in metric_names.OF_WORKERS for spec in specs):
        known.add("worker")

    assert specs, name
    assert None not in specs
    assert labels_of(expression) <= known


def test_every_metric_is_shown() -> None:
    """Each has a panel: nothing is measured in vain."""
    shown = {
        metric
        for panel in panels()
        for target in panel["targets"]
        for metric in metrics_of(target["expr"])
    }

    assert {spec.name for spec in ALL if not shown & spec.sample_names} == set()


def test_every_metric_is_measured() -> None:
    """Some module sets it, or counts it: none is declared in vain."""
    modules = (ROOT / "api").rglob("*.py")
    used = {
        name
        for module in modules
        for name in re.findall(
            r"\bmetric_names\.([A-Z_0-9]+)\b", module.read_text(encoding="utf-8")
        )
    }
    declared = {name for name, value in vars(metric_names).items() if value in (*ALL,)}

    assert declared - used == set()


@pytest.mark.parametrize("rule", rules(), ids=[rule["alert"] for rule in rules()])
def test_every_rule_has_its_runbook(rule: dict[str, Any]) -> None:
    """That of an alert of the service, if the rule is about all of them."""
    (anchor,) = _LINK.findall(rule["annotations"]["runbook_url"])

    assert rule["labels"]["severity"] in {"page", "ticket"}
    if rule["alert"] == "alert-raised":
        assert anchor == "{{ $labels.alert }}"
    else:
        assert anchor == rule["alert"]
        assert re.search(rf"^#+ {anchor}$", ALARMS, re.MULTILINE | re.IGNORECASE)


def test_an_alert_with_a_ticket_wakes_no_operator() -> None:
    """
    The rule about all alerts leaves out those whose own rule opens a ticket.

    The rule about waiting approvals has another name than the alert.
    """
    (general,) = (each for each in rules() if each["alert"] == "alert-raised")
    (left_out,) = re.findall(r'alert!~"([a-z|-]+)"', general["expr"])
    tickets = {r["alert"] for r in rules() if r["labels"]["severity"] == "ticket"}

    assert {*left_out.split("|")} == tickets & {*Alert} | {Alert.APPROVAL_REQUESTED}
    assert "approvals-waiting" in tickets
    # The pager gets the same problem from both.
    assert tickets & {*Alert} | {Alert.APPROVAL_REQUESTED} == TICKETS


def test_each_runbook_begins_with_its_severity() -> None:
    """That of its rule; an alert without one has that of the service."""
    rated = dict.fromkeys(Alert, "page") | dict.fromkeys(TICKETS, "ticket")
    rated |= {
        r["alert"]: r["labels"]["severity"]
        for r in rules()
        if r["alert"] != "alert-raised"  # Each alert has a runbook of its own.
    }
    runbooks = ALARMS.partition("\n## Runbooks\n")[2].partition("\n## ")[0]
    begins = re.findall(r"^### ([a-z-]+)\n\n(?:\*\*(\w+))?", runbooks, re.MULTILINE)

    assert {name: first.lower() for name, first in begins} == rated


def test_the_guide_lists_the_alerts_that_end() -> None:
    (listed,) = re.findall(r"end by\nthemselves: (.*)\.$", ALARMS, re.MULTILINE)

    assert set(re.findall(r"`([a-z-]+)`", listed)) == {*LASTING}
    receivers = ALARMS.partition("## Prometheus rules")[0]
    assert set(re.findall(r"\| `([a-z]+)` \|", receivers)) == set(FORMATS)


def test_every_link_of_the_dashboard_has_its_runbook() -> None:
    """If the text of a panel names a runbook, the panel has a link to it."""
    anchors = {
        anchor for panel in panels() for anchor in _LINK.findall(panel["description"])
    }
    links = {
        panel["title"]: [link["url"] for link in panel.get("links", [])]
        for panel in panels()
    }

    assert {"worker-stopped", "low-balance"} <= anchors
    assert links == {
        panel["title"]: [
            f"${{runbooks}}#{anchor}" for anchor in _LINK.findall(panel["description"])
        ]
        for panel in panels()
    }
    for anchor in anchors:
        assert re.search(rf"^#+ {anchor}$", ALARMS, re.MULTILINE | re.IGNORECASE)


def test_every_rule_and_alert_has_a_runbook() -> None:
    """And each runbook belongs to one."""
    section = ALARMS.partition("## Runbooks")[2].partition("\n## ")[0]
    names = {rule["alert"] for rule in rules()} - {"alert-raised"} | {*Alert}

    assert set(re.findall(r"^### (.+)$", section, re.MULTILINE)) == names


@pytest.mark.parametrize("condition", CONDITIONS, ids=[c.name for c in CONDITIONS])
def test_a_problem_has_the_same_name_everywhere(condition: Condition) -> None:
    """Its rule uses its metrics; the doctor's table, the codes and the page have it."""
    (rule,) = [each for each in rules() if each["alert"] == condition.name]
    codes = {each["code"] for each in load_codes() if each["kind"] == "alert"}
    rows = "".join(re.findall(r"^\| `.*", HEALTH, re.MULTILINE))
    checks = re.findall(r"`([^`]+)`", rows)

    assert {spec.name for spec in condition.metrics} == metrics_of(rule["expr"])
    assert condition.name in codes
    assert {condition.check, f"NAME {condition.check}"} & {*checks}
    assert f"\n### {condition.name}\n" in ALARMS.partition("## Runbooks")[2]


@pytest.mark.needs("promtool")
def test_promtool_accepts_the_documented_scrape(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", METRICS, re.MULTILINE | re.DOTALL)
    secret, configuration = tmp_path / "client", tmp_path / "prometheus.yml"
    secret.write_text("secret", encoding="utf-8")
    configuration.write_text(
        block.replace("/run/secrets/prometheus-client", str(secret)), encoding="utf-8"
    )

    assert "SUCCESS" in promtool("check", "config", configuration)


@pytest.mark.needs("promtool")
def test_promtool_accepts_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", RULES)


@pytest.mark.needs("promtool")
def test_the_rules_fire_when_they_should() -> None:
    assert "SUCCESS" in promtool("test", "rules", RULES_TEST)


def test_every_rule_is_tested() -> None:
    """Each has a case in which it fires; while all is well, no rule does."""
    document = yaml.safe_load(RULES_TEST.read_text(encoding="utf-8"))
    fires = {
        case["alertname"]
        for test in document["tests"]
        for case in test.get("alert_rule_test", [])
        if case["exp_alerts"]
    }
    healthy = document["tests"][0]
    shown = {metrics_of(each["series"]).pop() for each in healthy["input_series"]}
    used = {name for rule in rules() for name in metrics_of(rule["expr"])}

    assert fires == {rule["alert"] for rule in rules()}
    assert healthy["name"] == "a healthy service raises nothing"
    # What waits has no value while nothing does.
    assert used - shown == {"hotwallet_approvals_waiting"}


def test_the_dashboard_shows_which_rules_fire() -> None:
    """Each rule by its name, first of all."""
    (expression,) = firing_expressions()
    (names,) = re.findall(r'alertname=~"([a-z|-]+)"', expression)

    assert names.split("|") == [rule["alert"] for rule in rules()]
    assert panels()[0]["targets"][0]["expr"] == expression


@pytest.mark.parametrize(
    ("expression", "metrics", "labels"),
    [
        ('max(hotwallet_a{x="1"}) > 0', {"hotwallet_a"}, {"x"}),
        (
            'sum by (le, y) (rate(hotwallet_a_sum{x!="1", z=~"a"}[5m])) / hotwallet_b',
            {"hotwallet_a_sum", "hotwallet_b"},
            {"x", "y", "z"},
        ),
    ],
)
def test_expressions_are_read(
    expression: str, metrics: set[str], labels: set[str]
) -> None:
    assert metrics_of(expression) == metrics
    assert labels_of(expression) == labels
