"""
Gets SoftHSM on Debian and Ubuntu: by apt with root, into the project without.

apt checks the signatures of the archive either way.
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

# The rest is none of apt's business: there may be a PIN in it.
_INHERITED = ("PATH", "HOME", "TMPDIR", "http_proxy", "https_proxy", "no_proxy")

Say = Callable[[str], None]


def obtain(layout: Layout, say: Say, *, is_root: bool | None = None) -> Path:
    """
    Install or fetch SoftHSM; return its module.

    Raises:
        ConfigurationError: ``softhsm-missing``, with the line to run instead.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise library.missing(library.install_line())
    if os.geteuid() == 0 if is_root is None else is_root:
        return _install(say)
    return _fetch(layout, say)


def _install(say: Say) -> Path:
    say("Installing SoftHSM with apt")
    _run(["apt-get", "update", "-qq"])
    _run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", _PACKAGE])
    return _found(library.installed())


def _fetch(layout: Layout, say: Say) -> Path:
    """
    Download the package, and what it needs that the system lacks, and unpack.

    The folder appears under its name when it is complete, and not before.
    """
    apt = layout.root / "apt"
    partial = layout.root / "lib.partial"
    for folder in (apt, partial, layout.lib):
        shutil.rmtree(folder, ignore_errors=True)
    for name in ("lists/partial", "cache/archives/partial", "log"):
        (apt / name).mkdir(parents=True)
    say("Reading the package lists, into the project (this takes a moment)")
    _run([*_apt_get(apt), "update"])
    say("Downloading SoftHSM")
    _run(
        [
            *_apt_get(apt),
            "install",
            "-y",
            "--download-only",
            "--reinstall",
            "--no-install-recommends",
            _PACKAGE,
        ]
    )
    say("Unpacking it")
    for package in sorted((apt / "cache/archives").glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(partial)])
    shutil.rmtree(apt)
    partial.rename(layout.lib)
    return _found(library.fetched(layout))


def _found(module: Path | None) -> Path:
    if module is None:
        raise library.missing(library.install_line())
    return module


def _apt_get(state: Path) -> list[str]:
    """Return apt-get with lists, cache and logs of its own: it needs no root."""
    options = {
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": "/var/lib/dpkg/status",  # What there is already.
        "Dir::Cache": state / "cache",
        "Dir::Log": state / "log",
        "APT::Sandbox::User": "",
        "Debug::NoLocking": "true",
    }
    flags = [f"-o{name}={value}" for name, value in options.items()]
    return ["apt-get", "-qq", *flags]


def _run(command: Sequence[str]) -> None:
    """Run *command*, and be silent about it unless it fails."""
    try:
        subprocess.run(  # noqa: S603  Programs of the system, no caller's words.
            command,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(),
        )
    except (OSError, subprocess.CalledProcessError) as e:
        sys.stderr.buffer.write(getattr(e, "output", None) or b"")
        raise library.missing(library.install_line()) from None


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**kept, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
