"""The kernel's facts about CPU time (proc(5)), and which processes this one started."""

import os
from collections.abc import Mapping
from pathlib import Path


_MOST_GENERATIONS = 4


def find_descendant(name: str) -> int:
    """
    Return a process with the command *name* that this process started.

    It may have been started by one of its children.

    Raises:
        LookupError: There is none.
    """
    parents = _parents()
    ours = {os.getpid()}
    for _ in range(_MOST_GENERATIONS):
        ours |= {pid for pid, parent in parents.items() if parent in ours}
    for pid in sorted(ours):
        if _command(pid) == name:
            return pid
    raise LookupError(f"no process {name} was started")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of *pid* and its children, also of those that ended."""
    pids = [pid, *(child for child, parent in _parents().items() if parent == pid)]
    # User and system time, and both of the ended children.
    ticks = sum(sum(map(int, _stat(each)[11:15])) for each in pids)
    return ticks / os.sysconf("SC_CLK_TCK")


def _parents() -> Mapping[int, int]:
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return {pid: int(fields[1]) for pid in pids if (fields := _stat(pid))}


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _stat(pid: int) -> list[str]:
    """Return the fields after the command's name; none if *pid* has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()
