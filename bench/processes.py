"""What the kernel knows about processes: their children and their memory (proc(5))."""

from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the processes that *pid* started from its main thread."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(each) for each in text.split()]


def resident_mb(pid: int) -> float:
    """Return the memory that *pid* holds, shared pages included, in MB (2**20)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no memory any more")
