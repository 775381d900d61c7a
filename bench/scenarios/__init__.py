"""What is measured: one scenario per file, each with its own baselines."""

from collections.abc import Mapping
from importlib import import_module

from bench.harness import Scenario


# In the order in which they run.
NAMES: Mapping[str, str] = {
    "softhsm": "softhsm",
    "steps": "steps",
    "kms": "kms",
    "kms-latency": "kms_latency",
    "kms-quota": "kms_quota",
    "kms-brown-out": "kms_brown_out",
    "refunds-sqlite": "refunds_sqlite",
    "refunds-postgresql": "refunds_postgresql",
    "vault": "vault",
    "webhooks": "webhooks",
    "open-loop": "open_loop",
    "sweep-sqlite": "sweep_sqlite",
    "sweep-postgresql": "sweep_postgresql",
    "fsyncs": "fsyncs",
    "shipping": "shipping",
    "processes": "processes",
    "growth": "growth",
    "shares": "shares",
    "backlog": "backlog",
}

# Their code is that of others, so a quick run leaves them out.
NOT_QUICK = frozenset({"refunds-sqlite", "sweep-sqlite"})


def load_scenario(name: str) -> Scenario:
    """Return the scenario with *name*; its module imports what it measures."""
    scenario: Scenario = import_module(f"bench.scenarios.{NAMES[name]}").SCENARIO
    return scenario
