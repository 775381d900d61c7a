"""Files that appear whole or not at all, even if the process is killed."""

import os
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from signer.errors import ConfigurationError, Refusal


Publish = Callable[[Path, Path], object]
"""How a file gets its name: ``os.replace``, or ``os.link``, which never replaces."""

_PRIVATE = 0o600

# acl(5), and linux/posix_acl_xattr.h.
_OWNER, _USER, _MASK = 0x01, 0x02, 0x10
_VERSION_SIZE, _ENTRY = 4, struct.Struct("<HHI")


@contextmanager
def open_atomic(
    path: Path, publish: Publish = os.replace, *, mode: int = _PRIVATE
) -> Iterator[BinaryIO]:
    """
    Yield a file that gets the name *path* once it is complete and synced to disk.

    Until then, and if anything fails, *path* does not change.  A killed process leaves
    a temporary file in the same directory, with a dot before its name.
    """
    # mkstemp creates files with mode 0600.
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as e:
        e.filename = str(path)  # The caller does not know the temporary name.
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
    with open_atomic(path, publish, mode=mode) as file:
        file.write(content)


def create_once(path: Path, make: Callable[[], bytes]) -> bool:
    """
    Create *path* with the content of *make*; return whether this call created it.

    An existing file stays as it is.  Any number of processes may call this at once:
    one of them creates the file.
    """
    if path.exists():
        return False
    try:
        # os.replace would overwrite the key of another process; os.link fails.
        write_whole(path, make(), os.link)
    except FileExistsError:
        return False
    return True


def is_private(descriptor: int) -> bool:
    """
    Return whether only its owner may read or write an open file, or this user as well.

    systemd gives a service its credentials by an access control list, whose mask looks
    like rights of the group (https://github.com/systemd/systemd/issues/29435).
    """
    mode = os.fstat(descriptor).st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    return not mode or _is_listed_for_this_user(descriptor)


def _is_listed_for_this_user(descriptor: int) -> bool:
    """Return whether a list has rights for the owner and this user, and no others."""
    if not hasattr(os, "getxattr"):  # Linux has it.
        return False
    try:
        rights = os.getxattr(descriptor, "system.posix_acl_access")
    except OSError:
        return False
    entries = list(_ENTRY.iter_unpack(rights[_VERSION_SIZE:]))
    return bool(entries) and all(
        not permission
        or tag in {_OWNER, _MASK}
        or (tag == _USER and user == os.geteuid())
        for tag, permission, user in entries
    )


def sync(directory: Path) -> None:
    """Make renames in *directory* durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create_in_home(
    path: Path, make: Callable[[], bytes], *, code: str, variable: str
) -> None:
    """
    Create the file *path* of HOTWALLET_HOME with what *make* returns, if it is missing.

    Any number of processes may call this at once: the file of one of them stays.

    Raises:
        ConfigurationError: *code*: it cannot be created; *variable* names another file.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        create_once(path, make)
    except OSError as e:
        problem = (
            f"{path.name} cannot be created in HOTWALLET_HOME ({type(e).__name__}):"
            f" make the directory writable, or set {variable}"
        )
        raise ConfigurationError(Refusal(code, problem)) from None
