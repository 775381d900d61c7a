"""
The client's own record of its requests and responses, synced before it acts on them.

One JSON object per line.  The service does not know of it; the invariants read it.
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

    A client writes ``asked`` before it sends a request, and then ``answered``, or
    ``failed`` without a response: the service may or may not have acted.
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
        """Append an entry durably; return its time on the monotonic clock."""
        with self._lock:
            at = time.monotonic()
            line = json.dumps({"event": event, "at": at, **fields})
            os.write(self._descriptor, line.encode() + b"\n")
            os.fdatasync(self._descriptor)
            return at


def read_journal(path: Path) -> Iterator[Entry]:
    """
    Yield the entries, oldest first.

    An unfinished last line does not count: its writer was killed before it acted on it.
    """
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            entry: Entry = json.loads(line)
            yield entry
