"""The machine and the versions that figures belong to."""

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import apsw

from dev.anvil import ROOT, find_anvil


def describe_machine() -> Mapping[str, str]:
    """
    Return facts about the machine, without its name or its paths.

    ``requirements/dev.txt`` of a figure's commit has the versions of the libraries.
    """
    return {
        "cores": str(os.cpu_count()),
        "processor": _processor(),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": platform.python_version(),
        "SQLite": apsw.sqlite_lib_version(),
        "anvil": _output(str(find_anvil(ROOT) or "anvil"), "--version").split()[-1],
        "node": _output("node", "--version"),
    }


def describe_moment() -> Mapping[str, str]:
    """Return the time, the commit, and how busy the machine is."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _output("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"),
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _memory() -> str:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{size / 2**30:.0f} GiB"


def _output(*command: str) -> str:
    """Return the first line that *command* prints."""
    if shutil.which(command[0]) is None:
        return "absent"
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    return (finished.stdout.splitlines() or ["unknown"])[0]
