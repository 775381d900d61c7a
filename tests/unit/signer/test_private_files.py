"""Files that appear whole or not at all, and keep what is already there."""

import os
import stat
import struct
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from signer.errors import ConfigurationError
from signer.private_files import (
    create_in_home,
    create_once,
    is_private,
    open_atomic,
    write_whole,
)


def test_creates_a_file_that_only_its_owner_may_access(tmp_path: Path) -> None:
    """A new file has mode 0600 and the content of *make*."""
    path = tmp_path / "key"

    assert create_once(path, lambda: b"secret")
    assert path.read_bytes() == b"secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not create_once(path, lambda: b"second")
    assert path.read_bytes() == b"secret"


def test_keeps_a_file_that_appears_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "key"

    def slow() -> bytes:
        path.write_bytes(b"theirs")
        return b"ours"

    assert not create_once(path, slow)
    assert path.read_bytes() == b"theirs"
    assert [*tmp_path.iterdir()] == [path]


def test_one_of_many_callers_creates_the_file(tmp_path: Path) -> None:
    path, numbers = tmp_path / "key", count()
    with ThreadPoolExecutor(8) as pool:
        created = pool.map(
            lambda _: create_once(path, lambda: b"%d" % next(numbers)), range(8)
        )

        assert sorted(created) == [False] * 7 + [True]


def test_a_missing_directory_is_reported_with_the_path_of_the_file(
    tmp_path: Path,
) -> None:
    """The caller does not know the name of the temporary file."""
    path = tmp_path / "missing" / "key"

    with pytest.raises(FileNotFoundError) as raised:
        write_whole(path, b"secret")
    assert raised.value.filename == str(path)


def test_a_write_that_fails_changes_nothing(tmp_path: Path) -> None:
    """The file stays as it was, and no temporary file with half a key is left."""
    path = tmp_path / "key"
    path.write_bytes(b"first")

    def fill_disk() -> None:
        with open_atomic(path) as file:
            file.write(b"half")
            raise OSError(28, "disk full")

    with pytest.raises(OSError, match="disk full"):
        fill_disk()
    assert path.read_bytes() == b"first"
    assert [*tmp_path.iterdir()] == [path]


def test_a_missing_file_of_home_is_created_once(tmp_path: Path) -> None:
    """With its directory; the second process keeps the file of the first."""
    path = tmp_path / "home" / "key.pem"

    create_in_home(path, lambda: b"first", code="key", variable="KEY")
    create_in_home(path, lambda: b"second", code="key", variable="KEY")

    assert path.read_bytes() == b"first"


def test_a_home_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_bytes(b"no directory")

    with pytest.raises(ConfigurationError, match=r"key\.pem cannot be created.*KEY"):
        create_in_home(home / "key.pem", lambda: b"", code="key", variable="KEY")


# acl(5): tags of entries in an access control list, and an id for those without one.
OWNER, USER, GROUP, NAMED_GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
READ, NONE = 4, 0
NO_ID = 0xFFFFFFFF
US = os.geteuid()

# As systemd writes it for a service with a user of its own.
OURS = [
    (OWNER, READ, NO_ID),
    (USER, READ, US),
    (GROUP, NONE, NO_ID),
    (MASK, READ, NO_ID),
    (OTHER, NONE, NO_ID),
]


def _listed(path: Path, entries: list[tuple[int, int, int]]) -> bool:
    """Give a file an access control list; return whether it is private."""
    path.write_bytes(b"secret")
    packed = b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(path, "system.posix_acl_access", struct.pack("<I", 2) + packed)
    with path.open("rb") as file:
        return is_private(file.fileno())


def test_a_credential_of_systemd_is_private(tmp_path: Path) -> None:
    """Its mode has the rights of the group: that is the mask of the list."""
    path = tmp_path / "mac.key"

    assert _listed(path, OURS)
    assert stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXG == stat.S_IRGRP


@pytest.mark.parametrize(
    "entries",
    [
        [*OURS[:1], (USER, READ, US + 1), *OURS[2:]],
        [*OURS[:2], (GROUP, READ, NO_ID), *OURS[3:]],
        [*OURS[:3], (NAMED_GROUP, READ, 1), *OURS[3:]],
        [*OURS[:4], (OTHER, READ, NO_ID)],
    ],
    ids=["another user", "the group", "another group", "others"],
)
def test_a_list_with_others_is_not_private(
    tmp_path: Path, entries: list[tuple[int, int, int]]
) -> None:
    assert not _listed(tmp_path / "mac.key", entries)


def test_systems_without_such_lists_go_by_the_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "getxattr")

    path = tmp_path / "mac.key"
    assert not _listed(path, OURS)
    os.removexattr(path, "system.posix_acl_access")
    for mode in (0o640, 0o604, 0o620, 0o601, 0o600):
        path.chmod(mode)
        with path.open("rb") as file:
            assert is_private(file.fileno()) is (mode == 0o600)
