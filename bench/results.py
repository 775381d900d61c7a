"""Results as JSON: a run in processes of its own, and the file of the latest run."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.machine import describe_machine, describe_moment
from bench.scenarios import NAMES
from dev.anvil import ROOT


Document = dict[str, Any]

FOLDER = ROOT / "docs" / "explanation" / "performance"
FILE = FOLDER / "results.json"


def run_scenarios(
    names: Sequence[str],
    options: Sequence[str],
    report: Callable[[str], None],
    *,
    at_once: int = 1,
) -> Document:
    """
    Run each scenario in a process of its own; return the document of the run.

    A scenario that fails has an ``error`` in the place of its figures.
    """

    def run(name: str) -> Document:
        report(name)
        moment, started = describe_moment(), time.monotonic()
        finished = subprocess.run(
            [sys.executable, "-m", "bench.run_scenario", name, *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        report(f"{name}: {time.monotonic() - started:.0f} s")
        if finished.returncode == 0:
            return {**json.loads(finished.stdout), **moment}
        return {"name": name, "error": "it failed; see standard error"}

    with ThreadPoolExecutor(at_once) as pool:
        scenarios = [*pool.map(run, names)]
    return {"machine": describe_machine(), "scenarios": scenarios}


def merge(previous: Document | None, run: Document) -> Document:
    """
    Return *run* with the scenarios of *previous* that it did not repeat, in order.

    Every scenario has its own baselines, so its ratios stay valid.
    """
    fresh = {each["name"]: each for each in run["scenarios"] if "error" not in each}
    kept = [] if previous is None else previous["scenarios"]
    scenarios = {each["name"]: each for each in kept} | fresh
    ordered = [scenarios[name] for name in NAMES if name in scenarios]
    return {**run, "scenarios": ordered}


def median_of(run: Document, scenario: str, figure: str) -> float:
    """
    Return the median of a figure.

    Raises:
        ValueError: *run* does not have it.
    """
    for each in run["scenarios"]:
        for measured in each.get("figures", []):
            if (each["name"], measured["name"]) == (scenario, figure):
                return float(measured["values"]["median"])
    raise ValueError(f"{scenario} was not measured: run `make bench`")


def read(path: Path) -> Document | None:
    """Return the results in *path*; None if there is no such file."""
    if not path.exists():
        return None
    document: Document = json.loads(path.read_text(encoding="utf-8"))
    return document


def write(path: Path, document: Document) -> None:
    """Write *document* to *path*."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
