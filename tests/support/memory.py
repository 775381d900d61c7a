"""A folder in memory for temporary files of tests."""

import shutil
from pathlib import Path


_SHARED_MEMORY = Path("/dev/shm")
_ROOM = 2 * 1024**3


def memory_folder() -> Path | None:
    """
    Return a folder in memory, or None if there is none with enough space.

    Files in it survive their process, so tests that kill processes are still valid.
    """
    if not _SHARED_MEMORY.is_dir() or shutil.disk_usage(_SHARED_MEMORY).free < _ROOM:
        return None
    return _SHARED_MEMORY
