"""
Describes exceptions by their classes and code locations alone.

Messages, local variables and source lines are left out: they may contain secrets.  It
imports nothing that takes long, so that it works from the first line of a process.
"""

import json
import sys
import threading
import traceback
from collections.abc import Iterator


_MAX_CAUSES = 8


def watch_uncaught() -> None:
    """Report uncaught exceptions on standard error; Python would print their text."""
    sys.excepthook = lambda kind, error, trace: _uncaught("uncaught", error)
    threading.excepthook = lambda died: _uncaught("thread-died", died.exc_value)
    sys.unraisablehook = lambda lost: _uncaught("unraisable", lost.exc_value)


def outline(error: BaseException | None) -> list[dict[str, object]]:
    """Return the class and the code locations of *error* and of each of its causes."""
    return [
        {
            "class": f"{type(link).__module__}.{type(link).__qualname__}",
            "frames": [
                f"{frame.f_globals.get('__name__', '?')}:{line} {frame.f_code.co_name}"
                for frame, line in traceback.walk_tb(link.__traceback__)
            ],
        }
        for link in _chain(error)
    ]


def _uncaught(event: str, error: BaseException | None) -> None:
    line = {"event": event, "exception": outline(error), "level": "critical"}
    sys.stderr.write(json.dumps(line, sort_keys=True) + "\n")


def _chain(link: BaseException | None) -> Iterator[BaseException]:
    for _ in range(_MAX_CAUSES):
        if link is None:
            return
        yield link
        hidden = link.__suppress_context__
        link = link.__cause__ or (None if hidden else link.__context__)
