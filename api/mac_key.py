"""Loads the key of the ledger's row MACs; outside production, creates it."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from signer.config.settings import Settings
from signer.errors import InvalidInputError
from signer.private_files import create_in_home, create_once, write_whole
from signer.row_macs import RowMACs, key_number


def open_row_macs(settings: Settings) -> RowMACs | None:
    """
    Return what makes and verifies the MACs of rows; None if there is no key.

    Outside production a missing key is created in ``HOTWALLET_HOME``.  Any number of
    processes may call this at once: they all return the same key.
    """
    path = settings.mac_key_file
    if path is None and settings.is_production:
        return None  # The guard reports it.
    if path is None:
        path = settings.home / "mac.key"
        create_in_home(
            path, RowMACs.generate, code="mac-key-invalid", variable="MAC_KEY_FILE"
        )
    return RowMACs.load(path)


class MACKeyChange(NamedTuple):
    """
    What was done to a key file.

    ``action`` is created, added, activated or unchanged, ``key_id`` the key it is
    about, and ``active_id`` the key that makes new MACs.
    """

    action: str
    key_id: str
    active_id: str


def create_mac_key(out: Path) -> MACKeyChange:
    """Create a file with one MAC key at *out*."""
    new = RowMACs.generate()
    if not create_once(out, lambda: new):
        raise InvalidInputError(f"{out} exists: --add adds a new key to it")
    return MACKeyChange("created", _key_id(new), _key_id(new))


def add_mac_key(out: Path) -> MACKeyChange:
    """
    Append a new key to *out*, with a higher number than the others.

    The key only verifies MACs until ``activate_mac_key``.
    """
    with _locked(out):
        lines = _read_lines(out)
        new = RowMACs.generate(max(map(_number, lines)) + 1)
        write_whole(out, b"".join([*lines, new]))
    return MACKeyChange("added", _key_id(new), _key_id(lines[0]))


def activate_mac_key(out: Path) -> MACKeyChange:
    """
    Move the newest key of *out* to the first line, so it makes new MACs.

    If the key is there already, nothing is changed, so this can be repeated.  Every
    host must have loaded the file with the added key before.  A host that has not
    declares genuine audit records of the others forged.
    """
    action = "unchanged"
    with _locked(out):
        lines = _read_lines(out)
        newest = _find_newest(out, lines)
        if lines[0] != newest:
            action = "activated"
            others = [line for line in lines if line != newest]
            write_whole(out, b"".join([newest, *others]))
    return MACKeyChange(action, _key_id(newest), _key_id(newest))


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Let one process of this host at a time change *out*, so that no key is lost."""
    # The lock is on the directory, because each change replaces the file.
    directory = os.open(out.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _find_newest(out: Path, lines: Sequence[bytes]) -> bytes:
    """Return the line with the highest number, which is the key that was added last."""
    highest = max(map(_number, lines))
    newest = [line for line in lines if _number(line) == highest]
    if len(newest) > 1:
        raise InvalidInputError(
            f"the ids in {out} do not show which of {len(newest)} keys is the newest:"
            " add another one with --add"
        )
    return newest[0]


def _read_lines(out: Path) -> list[bytes]:
    """Return the lines of a valid file; each ends with a line feed."""
    if not out.exists():
        raise InvalidInputError(
            f"{out} does not exist: create it without --add and --activate"
        )
    RowMACs.load(out)
    text = out.read_text(encoding="ascii")
    return [f"{line}\n".encode() for line in text.splitlines()]


def _key_id(line: bytes) -> str:
    return line.decode().partition(" ")[0]


def _number(line: bytes) -> int:
    return key_number(_key_id(line))
