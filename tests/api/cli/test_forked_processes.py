"""A command in a fork does what a new interpreter does."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from dev.anvil import ROOT
from tests.support.forked_processes import ForkedCommand, ForkedProcess, run_command
from tests.support.waiting import eventually


HOTWALLET = str(Path(sys.executable).with_name("hotwallet"))
ENVIRON = {"PATH": os.environ["PATH"], "HOTWALLET_NO_ENV_FILE": "1"}


@pytest.mark.parametrize("command", [["serve"], ["guard", "--no-such-option"]])
def test_status_and_output_are_the_same(command: Sequence[str]) -> None:
    """Also of ``serve``: its process becomes gunicorn's and runs the guard."""
    forked = run_command(command, ENVIRON)
    expected = subprocess.run(
        [HOTWALLET, *command],
        env=ENVIRON,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert forked.returncode == expected.returncode != 0
    assert forked.stderr == expected.stderr != ""
    assert ("gunicorn" in forked.stdout) == ("gunicorn" in expected.stdout)


def test_a_killed_command_has_the_signal_as_its_status() -> None:
    with tempfile.TemporaryFile() as output:
        environ = {**ENVIRON, "APP_ENV": "development"}
        process = ForkedCommand(
            ["listen", "--port", "0"], environ, stdout=output, stderr=output
        )
        assert eventually(lambda: os.fstat(output.fileno()).st_size > 0)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)

        assert process.wait(20) == -signal.SIGKILL
        process.send_signal(signal.SIGKILL)  # It does nothing.


def _check_what_processes_share() -> None:
    maps = Path("/proc/self/maps").read_text().splitlines()
    assert [line for line in maps if "rw-s" in line] == []
    assert threading.enumerate() == [threading.main_thread()]


def test_processes_share_no_memory_and_inherit_no_thread() -> None:
    """Servers share the memory that a module opens, if the fork server imported it."""
    with tempfile.TemporaryFile() as output:
        process = ForkedProcess(
            _check_what_processes_share, (), ENVIRON, stdout=output, stderr=output
        )

        assert process.wait(60) == 0, output.seek(0) or output.read()
