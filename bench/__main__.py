"""
``make bench``: measures the service against baselines of the same run.

Without options it runs every scenario and prints a table.
"""

import argparse
import json
import sys
from pathlib import Path

from bench import results
from bench.scenarios import NAMES, NOT_QUICK
from bench.table import missed_goals, terminal


def main() -> int:
    """Measure, and print a table or JSON; return 1 if a scenario failed."""
    options = _arguments()
    passed = ["--quick"] if options.quick else []
    if options.rounds:
        passed += ["--rounds", str(options.rounds)]
    if options.seconds:
        passed += ["--seconds", str(options.seconds)]
    left_out = NOT_QUICK if options.quick else frozenset()
    names = options.only or [name for name in NAMES if name not in left_out]
    # A quick run compares nothing, so other load disturbs no figure.
    at_once = 2 if options.quick else 1
    run = results.run_scenarios(names, passed, _report, at_once=at_once)
    if options.output:
        results.write(options.output, run)
    if options.docs:
        from bench.documents import update_documents  # noqa: PLC0415  It draws plots.

        update_documents(run)
    print(json.dumps(run, indent=1) if options.json else terminal(run))
    if not options.quick and (missed := missed_goals(run)):
        _report(f"{missed} goals missed")
    return 1 if any("error" in each for each in run["scenarios"]) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--only",
        action="append",
        choices=list(NAMES),
        metavar="NAME",
        help=f"a scenario, repeatable: {', '.join(NAMES)}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="one short round: only whether it runs"
    )
    parser.add_argument("--rounds", type=int, help="instead of each scenario's own")
    parser.add_argument("--seconds", type=float, help="per row and round")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--output", type=Path, help="write the JSON to this file")
    parser.add_argument(
        "--docs", action="store_true", help="update docs/explanation/performance.md"
    )
    options = parser.parse_args()
    if options.docs and options.quick:
        parser.error("figures of a quick run do not belong in the documentation")
    return options


def _report(text: str) -> None:
    sys.stderr.write(f"{text}\n")  # At once, since two scenarios may report.
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
