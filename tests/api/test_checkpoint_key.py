"""The checkpoint key is created once and then reused."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from api.key_files import load_or_create_key


def test_processes_create_one_key(tmp_path: Path) -> None:
    """Eight processes that start at once share one key that only its owner may read."""
    path = tmp_path / "home" / "audit.pem"

    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: load_or_create_key(path).public_pem(), range(8)))

    assert len(set(keys)) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [*path.parent.iterdir()] == [path]
