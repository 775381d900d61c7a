"""``python -m tests.simulation SEED`` runs one schedule, and prints its trace."""

import argparse
import sys
from typing import Any

from tests.simulation.ledger import open_ledger
from tests.simulation.schedule import play


def main() -> int:
    """Run one seed; exit with 1 if an invariant is violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("seed", type=int)
    parser.add_argument(
        "--hides-sent",
        action="store_true",
        help="restore a ledger while nodes hide what it forgot (see plan.py)",
    )
    given = parser.parse_args()
    changes: dict[str, Any] = {}
    if given.hides_sent:
        changes = {"hides_sent": True, "is_restored": True}
    with open_ledger() as opened:
        outcome = play(given.seed, opened, traced=True, **changes)
    for line in (*outcome.lines, *outcome.violations):
        sys.stdout.write(f"{line}\n")
    return len(outcome.violations) > 0


if __name__ == "__main__":
    sys.exit(main())
