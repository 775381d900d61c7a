"""
Searches every configuration of the model, and prints states and seconds.

Exits with 1 if one violates a property, or if a planted bug violates none.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.model.configurations import CONFIGURATIONS, PLANTED_BUGS
from tests.model.spin import Spin


def main() -> int:
    """Return the exit status."""
    bad = 0
    with TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        spin = Spin(Path(folder), optimised=True)
        spin.compile()
        searches = [
            (each, pool.submit(spin.search, each.bounds, is_live=each.is_live))
            for each in (*CONFIGURATIONS, *PLANTED_BUGS)
        ]
        _print(f"{'states':>10} {'seconds':>8}")
        for each, future in searches:
            found = future.result()
            expected = getattr(each, "violates", None)
            is_good = (
                found.violation is None
                if expected is None
                else expected in (found.violation or "")
            )
            bad += not is_good
            verdict = "" if is_good else f"  WRONG: {found.violation}"
            if expected is not None and is_good:
                verdict = f"  found: {expected}"
            _print(f"{found.states:10} {found.seconds:8.2f}  {each.name}{verdict}")
    return int(bad > 0)


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
