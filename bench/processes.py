"""What the kernel knows about processes: their children and their memory (proc(5))."""

from contextlib import suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the processes that *pid* started; none if it has ended."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):  # The thread ended meanwhile.
                found += map(int, (thread / "children").read_text().split())
    return found


def resident_mb(pid: int) -> float:
    """
    Return the memory that *pid* holds, shared pages included, in MB (2**20).

    Raises:
        RuntimeError: It has ended.
    """
    found = _memory_mb(pid, "VmRSS:")
    if found is None:
        raise RuntimeError(f"process {pid} has no memory any more")
    return found


def peak_resident_mb(pid: int) -> float:
    """Return the most that *pid* held so far, as ``resident_mb``; 0 if it has ended."""
    return _memory_mb(pid, "VmHWM:") or 0.0


def _memory_mb(pid: int, name: str) -> float | None:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    return None
