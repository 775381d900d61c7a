"""Where tests put files that need not outlive the machine: in memory, if it can."""

import shutil
from pathlib import Path


_SHARED_MEMORY = Path("/dev/shm")
_ROOM = 2 * 1024**3


def memory_folder() -> Path | None:
    """
    Return a folder that no disk slows down; None where there is none large enough.

    A process that is killed loses nothing of what it wrote there, so that tests which
    kill processes prove the same.  Only the death of the machine would differ.
    """
    if not _SHARED_MEMORY.is_dir() or shutil.disk_usage(_SHARED_MEMORY).free < _ROOM:
        return None
    return _SHARED_MEMORY
