"""
Installs SoftHSM on Debian and Ubuntu: system-wide as root, else into the project.

apt verifies the archive's signatures in both cases.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from softhsm import library
from softhsm.layout import Layout


_PACKAGE = "libsofthsm2"

# apt gets no other variable, since one may hold a PIN.
_INHERITED = ("PATH", "HOME", "TMPDIR", "http_proxy", "https_proxy", "no_proxy")

Report = Callable[[str], None]


def install(layout: Layout, report: Report, *, is_root: bool | None = None) -> Path:
    """
    Install SoftHSM, and return the path of its module.

    *report* is called with each line of progress.

    Raises:
        ConfigurationError: SoftHSM cannot be installed (``softhsm-missing``); the
            message has the command to run instead.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise library.missing_error(library.install_command())
    if os.geteuid() == 0 if is_root is None else is_root:
        return _install_on_system(report)
    return _install_in_project(layout, report)


def _install_on_system(report: Report) -> Path:
    report("Installing SoftHSM with apt")
    _run(["apt-get", "update", "-qq"])
    _run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", _PACKAGE])
    return _require_module(library.find_installed())


def _install_in_project(layout: Layout, report: Report) -> Path:
    """
    Download the package and its missing dependencies, and unpack them.

    The folder is renamed to its final name when it is complete.
    """
    apt = layout.root / "apt"
    partial = layout.root / "lib.partial"
    for folder in (apt, partial, layout.lib):
        shutil.rmtree(folder, ignore_errors=True)
    for name in ("lists/partial", "cache/archives/partial", "log"):
        (apt / name).mkdir(parents=True)
    report("Reading the package lists, into the project (this takes a moment)")
    _run([*_apt_get(apt), "update"])
    report("Downloading SoftHSM")
    flags = ["-y", "--download-only", "--reinstall", "--no-install-recommends"]
    _run([*_apt_get(apt), "install", *flags, _PACKAGE])
    report("Unpacking it")
    for package in sorted((apt / "cache/archives").glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(partial)])
    shutil.rmtree(apt)
    partial.rename(layout.lib)
    return _require_module(library.find_fetched(layout))


def _require_module(module: Path | None) -> Path:
    if module is None:
        raise library.missing_error(library.install_command())
    return module


def _apt_get(state: Path) -> list[str]:
    """Return an apt-get command with its own lists and cache: it needs no root."""
    options = {
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": "/var/lib/dpkg/status",  # What the system has already.
        "Dir::Cache": state / "cache",
        "Dir::Log": state / "log",
        "APT::Sandbox::User": "",
        "Debug::NoLocking": "true",
    }
    flags = [f"-o{name}={value}" for name, value in options.items()]
    return ["apt-get", "-qq", *flags]


def _run(command: Sequence[str]) -> None:
    """Run *command*; print its output only if it fails."""
    try:
        subprocess.run(  # noqa: S603  Fixed programs; no argument comes from a caller.
            command,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_apt_environment(),
        )
    except (OSError, subprocess.CalledProcessError) as e:
        sys.stderr.buffer.write(getattr(e, "output", None) or b"")
        raise library.missing_error(library.install_command()) from None


def _apt_environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**kept, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
