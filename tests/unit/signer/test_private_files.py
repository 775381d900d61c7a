"""Files that appear whole or not at all, and keep what is already there."""

import stat
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from signer.errors import ConfigurationError
from signer.private_files import (
    create_in_home,
    create_once,
    open_atomic,
    write_whole,
)


def test_creates_a_file_that_only_its_owner_may_access(tmp_path: Path) -> None:
    """A new file has mode 0600 and the content of *make*."""
    path = tmp_path / "key"

    assert create_once(path, lambda: b"secret")
    assert path.read_bytes() == b"secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_keeps_an_existing_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"first")

    assert not create_once(path, lambda: b"second")
    assert path.read_bytes() == b"first"


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
