"""``python -m tests.simulation SEED`` runs one schedule, and prints its trace."""

import argparse
import sys

from tests.simulation.ledger import open_ledger
from tests.simulation.plan import RESTORED, SHORT, VAULT_RESTORED, WITH_VAULT
from tests.simulation.schedule import play


def main() -> int:
    """Run one seed; exit with 1 if an invariant is violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("seed", type=int)
    for name, changes, meaning in (
        ("--restore", RESTORED, "restore a ledger in it"),
        ("--short-restore", SHORT, "the same in a schedule that takes less time"),
        ("--vault", WITH_VAULT, "let a vault pay"),
        ("--vault-restore", VAULT_RESTORED, "the same with a restore without the log"),
    ):
        parser.add_argument(
            name, dest="changes", action="store_const", const=changes, help=meaning
        )
    given = parser.parse_args()
    with open_ledger() as opened:
        outcome = play(given.seed, opened, traced=True, **given.changes or {})
    for line in (*outcome.lines, *outcome.violations):
        sys.stdout.write(f"{line}\n")
    return len(outcome.violations) > 0


if __name__ == "__main__":
    sys.exit(main())
