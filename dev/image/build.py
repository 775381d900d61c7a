"""Builds the base image from Debian's packages, and the image on it."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from dev.anvil import ROOT


SUITE = "trixie"
"""The release of Debian that ``python:3.13-slim`` is built on, with the same Python."""

BASE = "localhost/hotwallet-base"
IMAGE = "localhost/hotwallet"

# What docker/Dockerfile expects of its base.
_PACKAGES = (
    "ca-certificates",
    "passwd",
    "python-is-python3",
    "python3",
    "python3-venv",
)

_STORAGE = ROOT / ".hotwallet" / "image"

# Documentation is not needed to run, and a third of the size.
_EXCLUDED = (
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
)
_CERTIFICATES = Path("/etc/ssl/certs")


def require_tools() -> None:
    """
    Require root and the programs that build images.

    Raises:
        RuntimeError: One is missing; the message says how to get it.
    """
    missing = [name for name in ("buildah", "mmdebstrap") if not shutil.which(name)]
    if missing:
        raise RuntimeError(f"run: apt-get install {' '.join(missing)}")
    if os.geteuid() != 0:
        raise RuntimeError("run it as root: a build needs chroot and mounts")


def build_base() -> None:
    """Make the base image, unless there is one; `make clean` removes it."""
    if _has(BASE):
        return
    _STORAGE.mkdir(parents=True, exist_ok=True)
    archive = _STORAGE / "base.tar"
    subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--variant=essential", "--mode=root"),
            "--dpkgopt=force-unsafe-io",  # The disk need not survive a power cut.
            f"--include={','.join(_PACKAGES)}",
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED),
            *(SUITE, str(archive)),
        ],
        check=True,
    )
    container = _buildah("from", "scratch")
    _buildah("add", "--quiet", container, str(archive), "/")
    _buildah("commit", "--quiet", "--rm", container, BASE)
    archive.unlink()


def build_image() -> None:
    """Build ``docker/Dockerfile`` on the base image."""
    command = ["build", "--quiet", "--isolation", "chroot", "--network", "host"]
    # OCI's format has no health check.
    command += ["--format", "docker", "--pull-never", "--build-arg", f"BASE={BASE}"]
    if _CERTIFICATES.is_dir():
        # A proxy of the network may have certificates that only the host trusts.
        command += ["--volume", f"{_CERTIFICATES}:{_CERTIFICATES}:ro"]
    dockerfile = ROOT / "docker" / "Dockerfile"
    _buildah(*command, "--file", str(dockerfile), "--tag", IMAGE, str(ROOT))


def image_configuration() -> Any:
    """Return the configuration of the image: its user, command, health check ..."""
    return json.loads(_buildah("inspect", "--type", "image", IMAGE))["Docker"]


@contextmanager
def unpacked() -> Iterator[Path]:
    """Yield the folder with the files of the image."""
    container = _buildah("from", "--pull-never", IMAGE)
    try:
        yield Path(_buildah("mount", container))
    finally:
        _buildah("rm", container)


def _has(image: str) -> bool:
    return bool(_buildah("images", "--quiet", "--filter", f"reference={image}"))


def _buildah(*arguments: str) -> str:
    """Run buildah on the storage of this checkout; return its output."""
    finished = _run(_driver(), *arguments)
    if finished.returncode != 0:
        raise RuntimeError(f"buildah {arguments[0]} failed:\n{finished.stderr}")
    return finished.stdout.strip()


@cache
def _driver() -> str:
    """Return the storage driver: "vfs" copies every layer, but works everywhere."""
    return "vfs" if _run("overlay", "images").returncode else "overlay"


def _run(driver: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    storage = [
        "--root",
        f"{_STORAGE}/{driver}",
        "--runroot",
        f"{_STORAGE}/run-{driver}",
    ]
    return subprocess.run(
        ["buildah", *storage, "--storage-driver", driver, *arguments],
        check=False,
        capture_output=True,
        text=True,
    )
