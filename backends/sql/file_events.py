"""Waits until a file is written, with inotify(7) of Linux."""

import ctypes
import os
import select
import struct
from contextlib import suppress
from pathlib import Path
from typing import Self


_MODIFY, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x80, 0x100, 0x200
_EVENT = struct.Struct("iIII")  # Watch, mask, cookie, length of the name.
_BYTES = 64 * 1024


class FileEvents:
    """
    Reports that a file, or another one whose name begins with its name, was changed.

    SQLite's log is such a file.  Changes through a memory map are not reported.
    """

    def __init__(self, path: Path) -> None:
        """
        Begin to watch the folder of *path*.

        Raises:
            OSError: The system has no inotify, or allows no more watches.
        """
        self._name = os.fsencode(path.name)
        self._file = _open(path.parent)
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def wait(self, seconds: float) -> bool:
        """
        Return whether the file was changed since the last call, or is in *seconds*.

        It may return False early, after a change of another file of the folder.
        """
        if not self._poll.poll(seconds * 1000):
            return False
        with suppress(BlockingIOError):
            return self._is_named(os.read(self._file, _BYTES))
        return False

    def _is_named(self, events: bytes) -> bool:
        start = 0
        while start < len(events):
            watch, _, _, length = _EVENT.unpack_from(events, start)
            start += _EVENT.size
            # There is no watch if events were lost.
            if watch < 0 or events[start : start + length].startswith(self._name):
                return True
            start += length
        return False


def _open(folder: Path) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "inotify_init1"):
        raise OSError("there is no inotify")
    file: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    changes = _MODIFY | _MOVED_TO | _CREATE | _DELETE
    if file >= 0 and libc.inotify_add_watch(file, os.fsencode(folder), changes) >= 0:
        return file
    error = OSError(ctypes.get_errno(), "inotify")
    if file >= 0:
        os.close(file)
    raise error
