"""Reads and creates the files of ``hotwallet audit``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from signer.errors import ConfigurationError, InvalidInputError
from signer.private_files import create_once, write_whole


if TYPE_CHECKING:
    from signer.audit.checkpoints import Verifier


_EXPECTED = (
    "expected notes as `hotwallet audit checkpoint` prints them, or log lines with the"
    " event audit-checkpoint, signed by a key of --public-key"
)


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of an export; an overlong line is split, to bound memory."""
    from signer.audit.export import MAX_LINE

    while line := file.readline(MAX_LINE):
        yield line


def read_checkpoints(path: Path, verifier: Verifier) -> Sequence[str]:
    """
    Return the notes in a file of checkpoints, each verified by *verifier*.

    Raises:
        InvalidInputError: The file contains no checkpoint, or a bad one.
        OSError: The file cannot be read.
    """
    from signer.audit.checkpoints import read_notes

    try:
        notes = read_notes(path.read_bytes().decode(errors="replace"))
        for note in notes:
            verifier.verify(note)
    except InvalidInputError as e:
        problem = str(e)
    else:
        return notes
    raise InvalidInputError(f"{path}: {problem}; {_EXPECTED}")


def create_key(out: Path) -> tuple[Path, bool]:
    """
    Create a checkpoint key at *out*; return its public key file, and if *out* is new.

    If *out* is already a checkpoint key, only a missing public key is written.

    Raises:
        InvalidInputError: A file exists that must not be overwritten.
        OSError: A file cannot be written.
    """
    from signer.audit.checkpoints import CheckpointKey

    public = out.with_name(f"{out.name}.pub.pem")
    if public.exists():
        files = f"{out} and {public} exist" if out.exists() else f"{public} exists"
        raise InvalidInputError(
            f"{files}; keys are never overwritten: choose another name for --out"
        )
    is_new = create_once(out, lambda: CheckpointKey.generate().private_pem())
    try:
        key = CheckpointKey.load(out)
    except ConfigurationError as e:
        problem = e.refusals[0].message.partition(": ")[2]
        raise InvalidInputError(
            f"{out} exists and is not a usable checkpoint key ({problem}):"
            " fix it, or choose another name for --out"
        ) from None
    write_whole(public, key.public_pem(), os.link, mode=0o644)
    return public, is_new
