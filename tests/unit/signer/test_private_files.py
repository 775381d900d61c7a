"""Files that appear whole or not at all, and keep what is already there."""

import stat
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

from signer.private_files import create_once


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
