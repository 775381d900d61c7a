"""
The client's truth: what it asked for and what it was told, on disk before it acts.

One JSON object a line, appended and synced.  Only the driver writes it and only
the invariants read it; the service does not know that it exists.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self


Entry = dict[str, Any]


class Journal:
    """
    An append-only file of entries; threads may share it.

    ``asked`` is written before a request's first byte, ``answered`` after the last
    byte of its answer, and ``failed`` where there was none: such a request is
    *indeterminate*, it may have been served or not.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._descriptor = os.open(path, flags, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def write(self, event: str, **fields: Any) -> float:
        """Append one entry, durably; return its time on the monotonic clock."""
        with self._lock:
            at = time.monotonic()
            line = json.dumps({"event": event, "at": at, **fields})
            os.write(self._descriptor, line.encode() + b"\n")
            os.fdatasync(self._descriptor)
            return at


def read_journal(path: Path) -> Iterator[Entry]:
    """
    Yield the entries, oldest first.

    The driver may have been killed while it wrote the last line, which then does
    not count: nothing was sent, or nothing was believed, on its strength.
    """
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            entry: Entry = json.loads(line)
            yield entry
