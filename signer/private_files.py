"""Writes files atomically and privately, and makes them durable."""

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


Publish = Callable[[Path, Path], object]
"""Names the finished file: ``os.replace``, or ``os.link``, which never overwrites."""

_PRIVATE = 0o600


@contextmanager
def open_atomic(
    path: Path, publish: Publish = os.replace, *, mode: int = _PRIVATE
) -> Iterator[BinaryIO]:
    """
    Yield a temporary file that becomes *path* once it is complete and on disk.

    If the block or the write fails, *path* is unchanged.  A process that is killed
    leaves the temporary file in the same folder, under a name that begins with a dot.

    Raises:
        OSError: The file cannot be written, or *publish* fails.
    """
    # mkstemp creates files that only their owner may read.
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as e:
        e.filename = str(path)  # The caller does not know the temporary file.
        raise
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        publish(draft, path)
        sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def write_whole(
    path: Path, content: bytes, publish: Publish = os.replace, *, mode: int = _PRIVATE
) -> None:
    """
    Write *content* to *path* atomically; by default only its owner may read it.

    Raises:
        OSError: As ``open_atomic``.
    """
    with open_atomic(path, publish, mode=mode) as file:
        file.write(content)


def is_private(descriptor: int) -> bool:
    """Return whether only its owner may read or write an open file."""
    return not os.fstat(descriptor).st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def sync(folder: Path) -> None:
    """Make file names that changed in *folder* durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
