"""Compiles the model with spin, searches it, and simulates single runs."""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dev.programs import use_fetched
from tests.model.configurations import Bounds


MODEL = Path(__file__).with_name("nonces.pml")

_PREPROCESSED = ("spin", "-Pcc -E -x c")
_CC = ("-w", "-DNOREDUCE")
_KINDS = {False: "safety", True: "liveness"}
_BUILD = {False: ("-DSAFETY",), True: ("-DNFAIR=3",)}
_SPIN = {False: (), True: ("-DLIVENESS",)}
# Processes that wait for an event that never comes are no error.
_SEARCH = {False: ("-E",), True: ("-E", "-a", "-f")}
_DEPTH = 500_000
_SECONDS = 500
_STEPS = 40_000

_STATES = re.compile(r"(\d+(?:\.\d+e\+\d+)?) states, stored")
_VIOLATION = re.compile(
    r"pan:\d+: (?:assertion violated )?(.*?) \(at depth \d+\)", re.DOTALL
)
_UNREACHED = re.compile(r"nonces\.pml:(\d+), state \d+, \"")


@dataclass(frozen=True, slots=True)
class Search:
    """
    The result of an exhaustive search; ``seconds`` are processor time.

    ``violation`` is the violated property, and None if every state was searched and
    none violates one.  ``unreached`` are lines of the model that no state reached.
    """

    states: int
    seconds: float
    violation: str | None
    unreached: frozenset[int]


class Spin:
    """
    Searches the model; *folder* receives the compiled searches.

    Optimising takes 20 seconds of CPU, and halves those of each search: only long
    searches gain from it.  A search that needs more than *megabytes* fails.

    Raises:
        FileNotFoundError: ``spin`` or ``cc`` is not installed.
    """

    def __init__(
        self, folder: Path, *, optimised: bool, megabytes: int = 2_000
    ) -> None:
        use_fetched()
        for tool in ("spin", "cc"):
            if shutil.which(tool) is None:
                raise FileNotFoundError(f"{tool} is needed: run `make programs`")
        self._folder = folder
        level = "-O1" if optimised else "-O0"
        self._options = (level, f"-DMEMLIM={megabytes}")

    def compile(self) -> None:
        """Compile both searches, at the same time."""
        with ThreadPoolExecutor(len(_KINDS)) as pool:
            list(pool.map(self._compile, _KINDS))

    def _compile(self, is_live: bool) -> None:
        folder = self._folder / _KINDS[is_live]
        folder.mkdir()
        shutil.copy(MODEL, folder)
        for command in (
            (*_PREPROCESSED, *_SPIN[is_live], "-a", MODEL.name),
            ("cc", *self._options, *_CC, *_BUILD[is_live], "-o", "pan", "pan.c"),
        ):
            subprocess.run(command, cwd=folder, check=True, capture_output=True)

    def search(self, bounds: Bounds, *, is_live: bool) -> Search:
        """Search all states within *bounds*."""
        program = self._folder / _KINDS[is_live] / "pan"
        # A trail for each search, since several may run at the same time.
        name = "-".join(f"{key}{value}" for key, value in bounds.items())
        search = (str(program), *_SEARCH[is_live], f"-m{_DEPTH}", "-w22", f"-t{name}")
        environ = {key: str(value) for key, value in bounds.items()}
        output = program.with_name(f"{name}.txt")
        with output.open("w") as file:
            process = subprocess.Popen(
                ("timeout", str(_SECONDS), *search),
                cwd=program.parent,
                env={**environ, "PATH": os.environ["PATH"]},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        text = output.read_text()
        states = _STATES.search(text)
        if states is None or process.returncode or "truncated" in text:
            raise RuntimeError(f"the search did not end: {text}")
        found = _VIOLATION.search(text)
        return Search(
            int(float(states[1])),
            usage.ru_utime + usage.ru_stime,
            found[1].strip() if found else None,
            frozenset(int(line) for line in _UNREACHED.findall(text)),
        )

    def simulate(self, bounds: Bounds, seed: int) -> list[dict[str, str]]:
        """Return the events of one random run, which depends on *seed* only."""
        folder = self._folder / f"run-{os.getpid()}"
        folder.mkdir(exist_ok=True)
        given = " ".join(f"{name} = {value};" for name, value in bounds.items())
        text = f"#define SIMULATED\n#define BOUNDS {given}\n{MODEL.read_text()}"
        (folder / MODEL.name).write_text(text)
        done = subprocess.run(
            [*_PREPROCESSED, f"-n{seed}", f"-u{_STEPS}", "-T", MODEL.name],
            cwd=folder,
            timeout=_SECONDS,
            check=False,
            capture_output=True,
            text=True,
        )
        events = (
            line.split()[1:] for line in done.stdout.splitlines() if "EVENT " in line
        )
        return [
            {"name": name, **dict(field.split("=") for field in fields)}
            for name, *fields in events
        ]
