"""CPU time and descendants, as the kernel counts them."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.cpu_time import cpu_seconds, find_descendant
from bench.processes import children


BUSY = """
import subprocess, sys, time
worker = "import time\\nwhile time.process_time() < 0.3: pass"
subprocess.run([sys.executable, "-c", worker])
asleep = subprocess.Popen(["sleep", "60"])
print("ready", flush=True)
sys.stdin.read()
asleep.kill()
"""


@contextmanager
def _running() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", BUSY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


def test_a_descendant_is_found_by_its_command() -> None:
    """It is the child of a child of this process; ended ones count."""
    with _running() as process:
        assert cpu_seconds(process.pid) > 0.25  # The kernel counts in ticks.
        (child,) = children(process.pid)
        assert find_descendant("sleep") == child != process.pid
        with pytest.raises(LookupError, match="no process absent"):
            find_descendant("absent")

    assert children(process.pid) == []
