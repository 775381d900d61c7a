"""Detects network file systems (Linux only)."""

import os
from pathlib import Path


# Hosts that share such a file share no memory, which SQLite's write-ahead log needs.
_NETWORK = frozenset(
    {
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse.glusterfs",
        "fuse.sshfs",
        "gfs2",
        "glusterfs",
        "lustre",
        "nfs",
        "nfs4",
        "ocfs2",
        "smb3",
        "smbfs",
    }
)
_MOUNTS = Path("/proc/self/mountinfo")


def network_file_system(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """
    Return the type of *path*'s file system if hosts share it over a network.

    Return None for local and unknown ones, and where *mounts* cannot be read.  Its
    format is that of proc(5), ``/proc/pid/mountinfo``.
    """
    try:
        device = path.stat().st_dev
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        mount, _, kind = line.partition(" - ")
        if mount.split(" ")[2:3] == [number] and kind.split(" ")[0] in _NETWORK:
            return kind.split(" ")[0]
    return None
