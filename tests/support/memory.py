"""A folder in memory for the files of tests."""

import shutil
from pathlib import Path


_SHARED_MEMORY = Path("/dev/shm")
_ROOM = 2 * 1024**3


def memory_folder() -> Path | None:
    """
    Return a folder in memory, or None if there is none that is large enough.

    Files there survive the death of a process, so tests may kill processes.
    """
    if not _SHARED_MEMORY.is_dir() or shutil.disk_usage(_SHARED_MEMORY).free < _ROOM:
        return None
    return _SHARED_MEMORY
