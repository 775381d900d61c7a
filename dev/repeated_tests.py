"""
Runs the suite ten times, each from a fresh clone, and lists what failed.

``make test-ten`` needs hours, ``make test-ten RUNS=3 ARGS=tests/unit`` less.  Run 1
is a plain ``make test``.  The others differ in the order of the tests, in the seeds of
Hypothesis and of the crash laboratory, and in how many cores another program uses.  If
root calls it, every second run is an ordinary user's, with an empty home.  The table is
printed and is in ``test-ten.md``; the logs of runs that failed are in its folder.
"""

import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree as ET

from dev.anvil import ROOT


_TABLE = ROOT / "test-ten.md"
_LOGS = ROOT / "test-ten"
_HEADER = "| run | user | busy cores | seed | seconds | tests | failed |\n"
_BUSY = (sys.executable, "-c", "while True: pass")


@dataclass(frozen=True)
class Run:
    """One run; what differs follows from its ``number``."""

    number: int
    user: str
    busy: int

    @property
    def seed(self) -> int:
        """The seed; 0 leaves order and seeds as they are."""
        return self.number - 1

    def command(self, report: Path, arguments: Sequence[str]) -> list[str]:
        """Return the command to run in the clone."""
        options = [*arguments, f"--junitxml={report}"]
        seeded = [f"TEST_ORDER={self.seed}", f"CRASH_SEED={self.seed}"]
        if self.seed:
            options.append(f"--hypothesis-seed={self.seed}")
        command = ["make", "--silent", "test", f"ARGS={' '.join(options)}"]
        if self.user == "root" or os.geteuid():
            return ["env", *(seeded if self.seed else ()), *command]
        home = f"HOME={report.parent / 'home'}"
        return [
            *("setpriv", "--reuid", self.user, "--regid", "nogroup", "--clear-groups"),
            *("env", "--unset=PYTHONDONTWRITEBYTECODE", home),
            *(seeded if self.seed else ()),
            *command,
        ]


@dataclass
class Result:
    """What a run left; ``failed`` are tests, or the end of a run without a report."""

    seconds: float
    tests: int = 0
    failed: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, report: Path, seconds: float, status: int) -> "Result":
        """Read pytest's report."""
        result = cls(seconds)
        if report.exists():
            for case in ET.parse(report).iter("testcase"):  # noqa: S314
                result.tests += 1
                if case.find("failure") is not None or case.find("error") is not None:
                    result.failed.append(f"{case.get('classname')}::{case.get('name')}")
        if status and not result.failed:
            result.failed.append(f"the run ended with status {status}")
        return result


def perform(run: Run, arguments: Sequence[str]) -> Result:
    """Run the suite in a fresh clone."""
    with TemporaryDirectory(prefix="ten-") as name:
        folder = Path(name)
        clone, report, log = folder / "clone", folder / "report.xml", folder / "log"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        (folder / "home").mkdir()
        if run.user != "root" and not os.geteuid():
            subprocess.run(["chown", "-R", run.user, folder], check=True)
        started = time.monotonic()
        with log.open("wb") as output, _busy(run.busy):
            done = subprocess.run(
                run.command(report, arguments),
                cwd=clone,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        seconds = time.monotonic() - started
        result = Result.read(report, seconds, done.returncode)
        if result.failed:
            _LOGS.mkdir(exist_ok=True)
            shutil.copy(log, _LOGS / f"{run.number}.log")
        return result


@contextmanager
def _busy(cores: int) -> Iterator[None]:
    """Keep *cores* busy meanwhile."""
    programs = [subprocess.Popen(_BUSY) for _ in range(cores)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def plan(runs: int) -> list[Run]:
    """Return the runs; another program uses all cores in four of ten, one in two."""
    cores = os.cpu_count() or 1
    busy = (0, cores, 1)
    me = pwd.getpwuid(os.geteuid()).pw_name
    users = (me, "nobody") if me == "root" else (me,)
    return [
        Run(number, users[(number - 1) % len(users)], busy[(number - 1) // 2 % 3])
        for number in range(1, runs + 1)
    ]


def main(arguments: Sequence[str]) -> int:
    """Return the exit status: 1 if a test failed in any run."""
    failed: dict[str, list[int]] = {}
    rows = [_HEADER, "|---" * _HEADER.count(" | ") + "|---|\n"]
    for run in plan(int(os.environ.get("RUNS") or 10)):
        result = perform(run, arguments)
        for name in result.failed:
            failed.setdefault(name, []).append(run.number)
        cells = (
            *(run.number, run.user, run.busy, run.seed),
            *(round(result.seconds), result.tests, len(result.failed)),
        )
        rows.append(f"| {' | '.join(map(str, cells))} |\n")
        print(rows[-1], end="", flush=True)
        lines = [f"* `{name}` in {numbers}\n" for name, numbers in failed.items()]
        _TABLE.write_text("".join([*rows, "\n", *lines]), encoding="utf-8")
    print(_TABLE.read_text(encoding="utf-8"))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
