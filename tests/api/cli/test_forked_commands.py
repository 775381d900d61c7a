"""A command in a fork does what a new interpreter does."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from dev.anvil import ROOT
from tests.support.forked_commands import ForkedCommand, run_command
from tests.support.waiting import eventually


HOTWALLET = str(Path(sys.executable).with_name("hotwallet"))
ENVIRON = {"PATH": os.environ["PATH"], "HOTWALLET_NO_ENV_FILE": "1"}


@pytest.mark.parametrize("command", [["serve"], ["guard", "--no-such-option"]])
def test_status_and_output_are_the_same(command: Sequence[str]) -> None:
    """Also of ``serve``, whose process becomes gunicorn's and runs the guard."""
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
