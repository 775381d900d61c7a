"""
Changes single places of the core, and reports the changes that no test notices.

Usage: ``make mutants``, or ``python -m tests.mutation --help``.
"""

import argparse
import difflib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.mutation.coverage_map import CoverageMap, measure
from tests.mutation.trial import BROKEN, KILLED, SURVIVED, TIMEOUT, preload, run


ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("signer", "backends/sql")
SEED = 20261130

_SECONDS = 120.0


show = partial(print, flush=True)


def generate(
    count: int, seed: int, folders: Sequence[str] = FOLDERS
) -> Iterator[Mapping[str, Any]]:
    """Yield a sample of mutants of the files in *folders*."""
    files = [
        str(path.relative_to(ROOT))
        for folder in folders
        for path in _modules(ROOT / folder)
        if "migrations" not in path.parts and path.name != "__init__.py"
    ]
    python = ROOT / ".venv-mutation" / "bin" / "python"
    program = Path(__file__).with_name("generate.py")
    done = subprocess.run(
        [python, program, str(count), str(seed), *files],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    yield from map(json.loads, done.stdout.splitlines())


def _modules(place: Path) -> Sequence[Path]:
    return sorted(place.rglob("*.py")) if place.is_dir() else [place]


def difference(mutant: Mapping[str, Any]) -> str:
    """Return the changed lines."""
    before = (ROOT / mutant["file"]).read_text(encoding="utf-8").splitlines()
    lines = difflib.unified_diff(
        before, mutant["code"].splitlines(), lineterm="", n=0, fromfile=mutant["file"]
    )
    return "\n".join(line for line in lines if line[:2] not in {"--", "++", "@@"})


def judge(mutant: Mapping[str, Any], coverage: CoverageMap) -> str:
    """Return what the tests say of *mutant*: first the quick ones, then the others."""
    result = SURVIVED
    found = coverage.tests(mutant["file"], mutant["line"], mutant["end"])
    for tests in filter(None, found):
        result = run(mutant["file"], mutant["code"], tests, _SECONDS)
        if result != SURVIVED:
            break
    return result


def main() -> int:
    """See the module; return 1 if a change was not noticed."""
    options = argparse.ArgumentParser(prog="python -m tests.mutation")
    options.add_argument("--count", type=int, default=500)
    options.add_argument("--seed", type=int, default=SEED)
    options.add_argument("folders", nargs="*", default=FOLDERS)
    options.add_argument("--skip", type=int, default=0, help="so many, done before")
    given = options.parse_args()
    data = ROOT / ".mutation" / "coverage.data"
    if not data.exists():
        data.parent.mkdir(exist_ok=True)
        measure(data, FOLDERS)
    coverage = CoverageMap(data, ROOT)
    preload()
    unchanged = FOLDERS[0] + "/amounts.py"
    code = (ROOT / unchanged).read_text(encoding="utf-8")
    assert run(unchanged, code, coverage.tests(unchanged, 1, 999)[0], 600) == SURVIVED
    results = Counter[str]()
    for number, mutant in enumerate(generate(given.count, given.seed, given.folders)):
        if number < given.skip:
            continue
        began = time.monotonic()
        result = judge(mutant, coverage)
        results[result] += 1
        place = f"{mutant['file']}:{mutant['line']}"
        seconds = f"{time.monotonic() - began:.0f} s"
        show(f"{number} {result} {place} {mutant['operator']} {seconds}")
        if result == SURVIVED:
            show(difference(mutant))
    noticed = results[KILLED] + results[TIMEOUT] + results[BROKEN]
    show(f"{noticed} of {results.total()} changes were noticed: {dict(results)}")
    return int(results[SURVIVED] > 0)


if __name__ == "__main__":
    sys.exit(main())
