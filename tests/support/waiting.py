"""Waits for conditions."""

import time
from collections.abc import Callable


def eventually(condition: Callable[[], object], patience: float = 10.0) -> bool:
    """Return whether *condition* becomes true within *patience* seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False
