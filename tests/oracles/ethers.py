"""Runs ethers in one node process for many transactions."""

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any


_PROGRAM = Path(__file__).with_name("ethers_transactions.mjs")


def ask_ethers(requests: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what ethers makes of each request; see the program."""
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    finished = subprocess.run(
        ["node", str(_PROGRAM)],
        input=lines,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return [json.loads(line) for line in finished.stdout.splitlines()]
