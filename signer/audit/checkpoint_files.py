"""
Checkpoints as people keep them: notes in a file, or the lines of a log that has them.

A log line is what our logger wrote, behind whatever a collector puts before it: a
container's name, a time.  Files come back from mails and from Windows, so that lines
may end as they do there, and the last one may not end at all.
"""

import json
from collections.abc import Sequence

from signer.audit.checkpoints import KIND, notes, read
from signer.errors import InvalidInputError


_EVENT = "audit-checkpoint"
_QUOTED = f'"{_EVENT}"'
_OPENING = '{"'

_READER = json.JSONDecoder()


def kept_notes(text: str) -> Sequence[str]:
    """
    Return the notes that *text* holds, none of them believed yet.

    In a log other lines are passed over.  Where there is no line of a log, there must
    be nothing but notes: one that was spoilt must not go unnoticed.

    Raises:
        InvalidInputError: It holds no checkpoint, or one that is none.
    """
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    if not any(_OPENING in line for line in lines):
        return notes("\n".join(lines).rstrip("\n") + "\n")
    if any(KIND in line and _OPENING not in line for line in lines):
        raise InvalidInputError("notes and lines of a log need a file each")
    told = [note for note in map(_told, lines) if note is not None]
    if not told:
        raise InvalidInputError("no line of the log has a checkpoint")
    for note in told:
        read(note)
    return told


def _told(line: str) -> str | None:
    """
    Return the note that a log line tells, None if it tells of something else.

    Raises:
        InvalidInputError: It was to tell one, and was cut off.
    """
    if _QUOTED not in line:
        return None
    try:
        said, _ = _READER.raw_decode(line, line.find(_OPENING))
    except (ValueError, RecursionError):
        raise InvalidInputError("a line with a checkpoint was cut off") from None
    return str(said.get("note")) if said.get("event") == _EVENT else None
