"""A monotonic timer that a test sets."""


class Timer:
    """A monotonic timer that a test advances by setting ``now``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return ``now``, in seconds."""
        return self.now
