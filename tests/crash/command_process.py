"""The ``hotwallet`` command as a process, forked with its modules imported."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from api.cli.__main__ import main


def run_command(arguments: Sequence[str], out: Path) -> None:
    """Run ``hotwallet`` with *arguments*; its result goes to *out*."""
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(descriptor, 1)
    sys.argv = ["hotwallet", *arguments]
    main()
