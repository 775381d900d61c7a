"""
The tests of ``called_routes.py``, with few random requests or many.

They run in a process of their own: preparing the requests takes two seconds, which each
process that collects tests would spend.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest


PLUGIN = "schemathesis.pytest.plugin"
CASES = Path(__file__).with_name("called_routes.py")


@pytest.mark.parametrize("examples", [2, pytest.param(200, marks=pytest.mark.soak)])
def test_every_operation_is_called(examples: int) -> None:
    """With so many random requests for each, beside those of each rule."""
    own = {name: text for name, text in os.environ.items() if "PYTEST" not in name}
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", PLUGIN, CASES],
        env={**own, "SCHEMATHESIS_EXAMPLES": str(examples)},
        check=True,
    )
