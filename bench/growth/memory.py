"""The largest memory of one run of a ``hotwallet`` command."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.processes import peak_resident_mb
from dev.anvil import ROOT


def peak_mb(arguments: Sequence[str], environ: Mapping[str, str], log: Path) -> float:
    """
    Return the largest resident memory of ``hotwallet ARGUMENTS``, in MB (2**20).

    What it prints goes to *log*.

    Raises:
        RuntimeError: The command failed; the message is what it printed.
    """
    command = [sys.executable, "-m", "api.cli", *arguments]
    given = {"PATH": os.environ["PATH"], "HOTWALLET_NO_ENV_FILE": "1", **environ}
    peak = 0.0
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, cwd=ROOT, env=given, stdout=output, stderr=output
        ) as process,
    ):
        while process.poll() is None:
            # The kernel counts the memory of the parent in ``ru_maxrss`` too (exec).
            peak = max(peak, peak_resident_mb(process.pid))
            time.sleep(0.02)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{log.read_text()}")
    return peak
