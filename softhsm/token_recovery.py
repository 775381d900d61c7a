"""
Keeps a token alive that SoftHSM would lose to a ``kill -9``.

At each login SoftHSM rewrites ``token.object``, which holds the key that all the
token's keys are wrapped with.  It truncates the file, lets go of its lock, and only
then writes (2.6.1, seen with strace).  A process that is killed in between leaves
an empty file, and a token that nobody can ever open again.  Nothing in the file
changes but a flag for wrong PINs, so a copy from any other moment is as good.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from signer.errors import ConfigurationError, Refusal
from signer.private_files import write_whole
from softhsm.layout import Layout


_OBJECT = "token.object"
_COPY = "token.object.copy"

_LOOKS = 20
_PAUSE = 0.01


def keep(tokens: Path) -> None:
    """Copy what must not be lost, unless there is a copy; SoftHSM does not mind."""
    for token in _folders(tokens):
        if not (token / _COPY).exists():
            content = (token / _OBJECT).read_bytes()
            if content:
                write_whole(token / _COPY, content)


def restore(layout: Layout) -> None:
    """
    Put the copies back in the place of empty files.

    If another process is only about to write, and very slowly, it will write to a
    file that has no name any more, and nothing is lost either.

    Raises:
        ConfigurationError: ``softhsm-damaged``: there is no copy.
    """
    for token in _folders(layout.tokens):
        if not _stays_empty(token / _OBJECT):
            continue
        if not (token / _COPY).exists():
            raise ConfigurationError(
                Refusal(
                    "softhsm-damaged",
                    "a token's file is empty, and there is no copy of it: restore "
                    "the token from a backup, or delete it and its key for good",
                )
            )
        write_whole(token / _OBJECT, (token / _COPY).read_bytes())


def _folders(tokens: Path) -> Iterator[Path]:
    if tokens.is_dir():
        yield from (entry for entry in tokens.iterdir() if entry.is_dir())


def _stays_empty(path: Path) -> bool:
    for _ in range(_LOOKS):
        if path.exists() and path.stat().st_size:
            return False
        time.sleep(_PAUSE)
    return True
