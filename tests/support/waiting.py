"""Waiting for what happens in its own time."""

import time
from collections.abc import Callable


def eventually(condition: Callable[[], object], patience: float = 10.0) -> bool:
    """Say whether *condition* comes true in time."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False
