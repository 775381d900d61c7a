"""
Recovers a token that SoftHSM damages if its process is killed during a login.

At each login SoftHSM rewrites ``token.object``, which holds the key that wraps all keys
of the token.  It truncates the file, releases its lock, and only then writes (2.6.1,
seen with strace).  A process that is killed in between leaves an empty file, and a
token that cannot be opened again.  Only a flag for wrong PINs ever changes in the file,
so an older copy is as good.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from signer.errors import ConfigurationError, Refusal
from signer.private_files import write_whole
from softhsm.layout import Layout


_OBJECT = "token.object"
_COPY = "token.object.copy"

_ATTEMPTS = 20
_PAUSE_SECONDS = 0.01


def back_up(tokens: Path) -> None:
    """Copy each ``token.object`` beside it, unless there is a copy."""
    for token in _folders(tokens):
        if not (token / _COPY).exists():
            content = (token / _OBJECT).read_bytes()
            if content:
                write_whole(token / _COPY, content)


def restore(layout: Layout) -> None:
    """
    Replace empty ``token.object`` files by their copies.

    If another process has truncated the file and is slow to write it, it writes to the
    unlinked file, and nothing is lost.

    Raises:
        ConfigurationError: A file is empty and has no copy (``softhsm-damaged``).
    """
    for token in _folders(layout.tokens):
        if not _stays_empty(token / _OBJECT):
            continue
        if not (token / _COPY).exists():
            raise ConfigurationError(
                Refusal(
                    "softhsm-damaged",
                    "a token's file is empty, and has no copy: restore the token from"
                    " a backup, or delete it and its key permanently",
                )
            )
        write_whole(token / _OBJECT, (token / _COPY).read_bytes())


def _folders(tokens: Path) -> Iterator[Path]:
    if tokens.is_dir():
        yield from (entry for entry in tokens.iterdir() if entry.is_dir())


def _stays_empty(path: Path) -> bool:
    for _ in range(_ATTEMPTS):
        if path.exists() and path.stat().st_size:
            return False
        time.sleep(_PAUSE_SECONDS)
    return True
