"""
Reads checkpoints that were kept outside the database: note files, or log files.

A log line is a JSON object of our logger, perhaps after a prefix that a log collector
added.  Files may come back from mail or Windows, so CRLF, a byte order mark and a
missing last line feed are accepted.
"""

import json
from collections.abc import Sequence

from signer.audit.checkpoint_notes import KIND, parse, split
from signer.errors import InvalidInputError


_EVENT = "audit-checkpoint"
_QUOTED = f'"{_EVENT}"'
_OBJECT_START = '{"'

_DECODER = json.JSONDecoder()


def read_notes(text: str) -> Sequence[str]:
    """
    Return the notes in *text*, without verifying their signatures.

    In a log, other lines are skipped.  Without any log line, *text* must contain only
    notes, so that a damaged note is reported.  If there is no checkpoint, or it is
    malformed, this raises ``InvalidInputError``.
    """
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    if not any(_OBJECT_START in line for line in lines):
        return split("\n".join(lines).rstrip("\n") + "\n")
    if any(KIND in line and _OBJECT_START not in line for line in lines):
        raise InvalidInputError(
            "the file mixes notes and log lines: put them into separate files"
        )
    notes = [note for note in map(_read_line, lines) if note is not None]
    if not notes:
        raise InvalidInputError("the log contains no checkpoint")
    for note in notes:
        parse(note)
    return notes


def _read_line(line: str) -> str | None:
    """Return the note in a log line; None if the line is about something else."""
    if _QUOTED not in line:
        return None
    try:
        fields, _ = _DECODER.raw_decode(line, line.find(_OBJECT_START))
    except (ValueError, RecursionError):
        raise InvalidInputError(
            "a log line with a checkpoint is cut off: copy the log again"
        ) from None
    return str(fields.get("note")) if fields.get("event") == _EVENT else None
