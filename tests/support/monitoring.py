"""Metrics that dashboard and rules use, and ``promtool``, which checks the rules."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from dev.anvil import ROOT


RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
RULES_TEST = RULES.with_name("rules.test.yaml")
DASHBOARD = ROOT / "deploy" / "grafana" / "hotwallet.json"

# A metric, and its label matchers if it has some.
_METRIC = re.compile(r"\b(hotwallet_[a-z0-9_]+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r"([a-z_]+)\s*(?:=~|!~|!=|=)")
_GROUPING = re.compile(r"\bby \(([^)]*)\)")

# Prometheus adds it to each sample, and the parts of a histogram have "le".
ADDED_LABELS = frozenset({"instance", "le"})


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    document = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [panel for panel in document["panels"] if panel["type"] != "row"]


def firing_expressions() -> Iterator[str]:
    """Yield the expressions of panels that show which rules fire."""
    for panel in panels():
        for target in panel["targets"]:
            if "ALERTS" in target["expr"]:
                yield target["expr"]


def expressions() -> Iterator[tuple[str, str]]:
    """Yield a name and an expression, of each rule and panel, and of the variables."""
    firing = {*firing_expressions()}  # They use no metric of the service.
    for rule in rules():
        yield f"rule {rule['alert']}", rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            if target["expr"] not in firing:
                yield f"panel {panel['title']}", target["expr"]
    document = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    for variable in document["templating"]["list"]:
        if variable["type"] == "query":
            yield f"variable {variable['name']}", variable["query"]["query"]


def metrics_of(expression: str) -> set[str]:
    return {name for name, _ in _METRIC.findall(expression)}


def labels_of(expression: str) -> set[str]:
    """Return the labels that *expression* selects or groups by."""
    labels = {
        label
        for _, matchers in _METRIC.findall(expression)
        for label in _MATCHER.findall(matchers)
    }
    for group in _GROUPING.findall(expression):
        labels |= {label.strip() for label in group.split(",")}
    return labels - ADDED_LABELS


def promtool(*arguments: str | Path) -> str:
    """Run ``promtool``, and return its output; fail if it does."""
    done = subprocess.run(
        ["promtool", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
