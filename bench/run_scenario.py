"""
Runs one scenario and prints its figures as JSON: ``python -m bench.run_scenario NAME``.

Each scenario has a process of its own, because a PKCS#11 module, boto3's credentials
and the environment belong to a process.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from bench import servers
from bench.harness import run_rounds, summarise
from bench.scenarios import NAMES, load_scenario


def main() -> int:
    """Run the scenario; progress goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m bench.run_scenario")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float)
    options = parser.parse_args()
    if options.quick:
        # A fork imports nothing again, and no figure is compared.
        from tests.support.forked_processes import (  # noqa: PLC0415  It imports all.
            ForkedHotWallet,
        )

        servers.program = ForkedHotWallet()
    scenario = load_scenario(options.name)
    rounds = options.rounds or (1 if options.quick else scenario.rounds)
    seconds = options.seconds or (
        scenario.quick_seconds if options.quick else scenario.seconds
    )
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        scenario.open(Path(folder), options.quick) as prepared,
    ):
        taken = run_rounds(
            prepared.works,
            rounds=rounds,
            seconds=seconds,
            report=lambda text: print(f"  {text}", file=sys.stderr, flush=True),
        )
        document = {
            "name": scenario.name,
            "title": scenario.title,
            "rounds": rounds,
            "seconds": seconds,
            "figures": summarise(prepared.figures, taken),
            "notes": prepared.notes,
        }
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
