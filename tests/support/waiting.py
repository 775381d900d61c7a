"""Waiting until a condition is true."""

import time
from collections.abc import Callable
from typing import TypeVar


T = TypeVar("T")


def eventually(condition: Callable[[], T], patience: float = 10.0) -> T:
    """Return the first true value of *condition*, or its value after *patience* s."""
    deadline = time.monotonic() + patience
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return value
