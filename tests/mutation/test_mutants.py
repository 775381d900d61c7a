"""The tests of the core notice changes of it."""

import re
import subprocess
import sys

import pytest


_LEAST = 0.9
"""The part of the changes that a test notices; some of the rest change nothing."""


@pytest.mark.soak
def test_changes_of_the_core_are_noticed() -> None:
    """Of 500 places that a seed chose; the output has those that were not noticed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutation"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    found = re.search(r"\n(\d+) of (\d+) changes were noticed", done.stdout)

    assert found is not None, done.stdout
    assert int(found[1]) >= _LEAST * int(found[2]), done.stdout
