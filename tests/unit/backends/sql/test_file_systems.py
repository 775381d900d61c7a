"""Network file systems, on which SQLite's write-ahead log is not safe."""

import os
from pathlib import Path

import pytest

from backends.sql.sqlite import network_file_system


def _mounts(folder: Path, device: int, kind: str) -> Path:
    """Write a file as proc(5) describes, with a mount of *device*."""
    number = f"{os.major(device)}:{os.minor(device)}"
    path = folder / "mountinfo"
    path.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        f"36 22 {number} / /my\\040ledger rw shared:9 master:2 - {kind} host:/x rw\n"
    )
    return path


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_a_network_file_system_is_found(tmp_path: Path, kind: str) -> None:
    mounts = _mounts(tmp_path, tmp_path.stat().st_dev, kind)

    assert network_file_system(tmp_path, mounts) == kind


@pytest.mark.parametrize("kind", ["ext4", "tmpfs", "unheard-of"])
def test_other_file_systems_are_allowed(tmp_path: Path, kind: str) -> None:
    mounts = _mounts(tmp_path, tmp_path.stat().st_dev, kind)

    assert network_file_system(tmp_path, mounts) is None


def test_a_network_mount_of_other_files_is_allowed(tmp_path: Path) -> None:
    mounts = _mounts(tmp_path, tmp_path.stat().st_dev + 1, "nfs")

    assert network_file_system(tmp_path, mounts) is None


def test_an_unreadable_table_of_mounts_allows_all(tmp_path: Path) -> None:
    """As on macOS, which has none."""
    assert network_file_system(tmp_path, tmp_path / "none") is None
    assert network_file_system(tmp_path / "none") is None


def test_the_file_system_of_this_test_is_local(tmp_path: Path) -> None:
    """The kernel's own table is read."""
    assert network_file_system(tmp_path) is None
