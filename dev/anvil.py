"""
Find or obtain anvil, the local chain.

``python -m dev.anvil`` installs it from npm where it is missing: pinned in
``package.json``, hashed in ``package-lock.json``.  Tests need more of npm: `make test`.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent

_NPM_SECONDS = 300


def find_anvil(root: Path) -> Path | None:
    """
    Return an anvil that runs: ``$ANVIL``, the one under *root*, or from the PATH.

    The start script of the npm package is not used: it needs node, and an install
    script that current npm does not run.  The binary needs neither.
    """
    candidates = [
        os.environ.get("ANVIL"),
        *sorted(root.glob("node_modules/@foundry-rs/anvil-*/bin/anvil")),
        shutil.which("anvil"),
    ]
    for candidate in candidates:
        if candidate and _runs(Path(candidate)):
            return Path(candidate)
    return None


def obtain_anvil(root: Path) -> Path | None:
    """
    Return an anvil, and install it from npm into *root* if necessary.

    None if npm cannot install it; the reason is on standard error.
    """
    anvil = find_anvil(root)
    if anvil is None and install_node_modules(root):
        anvil = find_anvil(root)
    return anvil


def install_node_modules(root: Path) -> bool:
    """Install anvil alone in *root*; report on stderr, and return if it succeeded."""
    npm = shutil.which("npm")
    if npm is None:
        _report("npm is not installed: no anvil\n")
        return False
    # npm ci first deletes node_modules: two at once would delete each other's.
    with (root / "package-lock.json").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _npm_ci(npm, root)


def _npm_ci(npm: str, root: Path) -> bool:
    _report("Installing the local chain (anvil) from npm ")
    started = time.monotonic()
    quiet = ("--no-audit", "--no-fund", "--loglevel=error")
    with subprocess.Popen(
        [npm, "ci", "--omit=dev", "--ignore-scripts", *quiet],
        cwd=root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while True:
            try:
                _, errors = process.communicate(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                _report(".")
            if time.monotonic() - started > _NPM_SECONDS:
                process.terminate()
    if process.returncode != 0:
        _report(f" failed.\n{errors.strip()}\n")
        return False
    _report(f" done in {time.monotonic() - started:.0f} s.\n")
    return True


def _runs(binary: Path) -> bool:
    try:
        finished = subprocess.run(
            [binary, "--version"], capture_output=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return finished.returncode == 0


def _report(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(0 if obtain_anvil(ROOT) else 1)
