"""Two hundred kills on SQLite (G1, G2, R5)."""

from tests.crash.conftest import Open
from tests.crash.kills import POINTS, survives


def test_survives_every_named_point_and_random_kills(
    open_laboratory: Open, empty_sqlite_url: str
) -> None:
    """With 20 refunds in flight, each is paid once, wherever processes die."""
    survives(open_laboratory(empty_sqlite_url, crash_at=POINTS), 200)
