"""Which tests execute which line, by a run with a context per test."""

import ast
import sqlite3
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from coverage.numbits import numbits_to_nums


TESTS = ("tests/unit/signer", "tests/unit/backends/sql", "tests/contract")

# Each process that runs them starts a server first.
_SLOW = ("postgresql", "ministack", "moto", "kms", "softhsm", "anvil", "chain_client")

_MOST = 300


def measure(data: Path, folders: Sequence[str]) -> None:
    """
    Run the tests of the core, and note in *data* which lines each executes.

    Beside it is a report of how long each takes.
    """
    config = data.with_suffix(".rc")
    sources = ",".join(folders)
    config.write_text(f"[run]\nsource = {sources}\ndata_file = {data}\n", "utf-8")
    options = ("--cov", f"--cov-config={config}", "--cov-context=test", "--cov-report=")
    report = f"--junitxml={data.with_suffix('.xml')}"
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n2", *options, report, *TESTS],
        check=True,
    )


def _read_seconds(report: Path) -> Mapping[str, float]:
    """Return how long each test took, by its id."""
    found = {}
    for case in ET.parse(report).iter("testcase"):
        *folders, last = str(case.get("classname")).split(".")
        # A class has a capital letter, and a module has none.
        place = [*folders, f"{last}.py"] if last.islower() else folders
        file = "/".join(place) if last.islower() else f"{'/'.join(place)}.py::{last}"
        found[f"{file}::{case.get('name')}"] = float(case.get("time") or 0)
    return found


class CoverageMap:
    """The tests of each line."""

    def __init__(self, data: Path, root: Path) -> None:
        self._root = root
        self._seconds = _read_seconds(data.with_suffix(".xml"))
        self._lines: dict[str, Mapping[int, set[str]]] = {}
        with closing(sqlite3.connect(data)) as db:
            rows = db.execute(
                "SELECT path, context, numbits FROM line_bits"
                " JOIN file ON file.id = file_id"
                " JOIN context ON context.id = context_id"
            )
            for path, context, bits in rows:
                name = str(Path(path).relative_to(root))
                lines = self._lines.setdefault(name, defaultdict(set))
                for line in numbits_to_nums(bits):
                    lines[line].add(context.rpartition("|")[0])

    def tests(self, file: str, first: int, last: int) -> list[list[str]]:
        """
        Return the tests of these lines of *file*, the quick ones and the others.

        A line that runs when the module is imported has those of the whole module: the
        first test that imports it proves nothing.
        """
        lines = self._lines.get(file, {})
        if _is_in_function((self._root / file).read_text(encoding="utf-8"), first):
            lines = {n: lines.get(n, set()) for n in range(first, last + 1)}
        found = set[str]().union(*lines.values())
        ordered = sorted(
            found - {""},
            key=lambda test: (_distance(file, test), self._seconds.get(test, 0), test),
        )
        quick = [each for each in ordered if not any(name in each for name in _SLOW)]
        slow = [each for each in ordered if each not in {*quick}]
        return [quick[:_MOST], slow[:_MOST]]


def _is_in_function(code: str, line: int) -> bool:
    return any(
        node.body[0].lineno <= line <= (node.end_lineno or 0)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.FunctionDef)
    )


def _distance(file: str, test: str) -> int:
    """Rank the tests that are named after the file or its folder first."""
    parts = Path(file).with_suffix("").parts
    return sum(part not in test for part in parts)
