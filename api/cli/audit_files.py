"""The files of ``hotwallet audit``, and what may be wrong with them."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from signer.audit.checkpoint_files import kept_notes
from signer.audit.checkpoints import CheckpointKey, Verifier
from signer.audit.export_format import MAX_LINE
from signer.errors import ConfigurationError, InvalidInputError
from signer.private_files import write_whole


_EXPECTED = (
    "expected notes as `hotwallet audit checkpoint` prints them, or log lines with the"
    " event audit-checkpoint, signed by a key of --public-key"
)


def lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines, none of which is longer than a line of ours can be."""
    while line := file.readline(MAX_LINE):
        yield line


def kept(path: Path, verifier: Verifier) -> Sequence[str]:
    """
    Return the notes of a file of checkpoints, which *verifier* believes.

    Raises:
        InvalidInputError: There is none in it, or one that is none.
        OSError: It cannot be read.
    """
    try:
        notes = kept_notes(path.read_bytes().decode(errors="replace"))
        for note in notes:
            verifier.verify(note)
    except InvalidInputError as e:
        problem = str(e)
    else:
        return notes
    raise InvalidInputError(f"{path}: {problem}; {_EXPECTED}")


def make_key(out: Path) -> str:
    """
    Write a key for checkpoints to *out*, and its public key beside it; say what was.

    Of a key that is there, the public key is made again if it is missing.

    Raises:
        InvalidInputError: There is a file that is not written over.
        OSError: Something cannot be written.
    """
    public = out.with_name(f"{out.name}.pub.pem")
    if public.exists():
        there = f"{out} and {public} are" if out.exists() else f"{public} is"
        raise InvalidInputError(
            f"{there} there already, and no key is written over: name another file"
        )
    key = CheckpointKey.generate()
    told = f"wrote {out} and {public}"
    try:
        write_whole(out, key.private_pem(), os.link)
    except FileExistsError:
        key = _present(out)
        told = f"{out} was there already, and stays; wrote {public}"
    write_whole(public, key.public_pem(), os.link, mode=0o644)
    return told


def _present(path: Path) -> CheckpointKey:
    try:
        return CheckpointKey.load(path)
    except ConfigurationError as e:
        problem = e.refusals[0].message.partition(": ")[2]
    raise InvalidInputError(
        f"{path} is there already, and is no key that can be used ({problem}):"
        " mend that, or name another file"
    )
