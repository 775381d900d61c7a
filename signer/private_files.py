"""Files that appear whole or not at all, wherever the process dies."""

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


Publish = Callable[[Path, Path], object]
"""How a file gets its name: ``os.replace``, or ``os.link``, which replaces nothing."""

_PRIVATE = 0o600


@contextmanager
def appearing(
    path: Path, publish: Publish = os.replace, *, mode: int = _PRIVATE
) -> Iterator[BinaryIO]:
    """
    Yield a file that gets the name *path* once it is complete, and on the disk.

    Until then, and if anything fails, *path* is what it was.  Who is killed leaves the
    draft behind, beside it, with a dot before its name.

    Raises:
        OSError: It cannot be written, or *publish* does not give it the name.
    """
    # mkstemp's files are their owner's alone from the start.
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as e:
        e.filename = str(path)  # Nobody asked for the draft.
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
    Write *content* to *path*, at once or not at all, for its owner's eyes only.

    Raises:
        OSError: As ``appearing``.
    """
    with appearing(path, publish, mode=mode) as file:
        file.write(content)


def is_private(descriptor: int) -> bool:
    """Say whether nobody but its owner may read or write an open file."""
    return not os.fstat(descriptor).st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def sync(folder: Path) -> None:
    """Make renames in *folder* durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
