"""The key for checkpoints is made once, whoever comes first."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from api.checkpoint_key import provided


def test_a_key_is_made_once(tmp_path: Path) -> None:
    """Eight who start at once share one key, which only its owner may read."""
    path = tmp_path / "home" / "audit.pem"

    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: provided(path).public_pem(), range(8)))

    assert len(set(keys)) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [*path.parent.iterdir()] == [path]


def test_a_key_stays(tmp_path: Path) -> None:
    """Whoever comes later has the same one."""
    path = tmp_path / "audit.pem"

    assert provided(path).public_pem() == provided(path).public_pem()
