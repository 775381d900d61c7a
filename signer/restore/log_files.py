"""Reads the lines of log files, plain or compressed with gzip, of any size."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from signer.errors import InvalidInputError


MAX_LINE = 1_000_000
"""A limit in bytes far above the length of any audit line."""

_GZIP = b"\x1f\x8b"


class DamagedFileError(InvalidInputError):
    """The rest of a file cannot be read; the lines before it were."""


def read_lines(path: Path) -> Iterator[bytes]:
    """
    Yield the lines of the file *path*; of an overlong one, only its beginning.

    Raises:
        DamagedFileError: The file ends early, or its disk or its gzip data are damaged.
        InvalidInputError: The file cannot be opened.
    """
    try:
        file = path.open("rb")
    except OSError as e:
        raise InvalidInputError(f"{path} cannot be read ({type(e).__name__})") from None
    with file:
        try:
            is_gzip = file.peek(len(_GZIP)).startswith(_GZIP)
            stream = gzip.GzipFile(fileobj=file) if is_gzip else file
            yield from _lines(cast("BinaryIO", stream))
        except (OSError, EOFError, zlib.error) as e:
            raise DamagedFileError(
                f"{path} is damaged or incomplete ({type(e).__name__}): copy it again"
            ) from None


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    while line := stream.readline(MAX_LINE):
        yield line
        while len(line) == MAX_LINE and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE)
