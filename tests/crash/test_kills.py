"""Two hundred kills on each database (G1, G2, R5)."""

from tests.crash.conftest import Open
from tests.crash.kills import POINTS, survives


def test_survives_every_named_point_and_random_kills(
    open_laboratory: Open, empty_url: str
) -> None:
    """Each of 20 refunds in flight is paid once, wherever a process dies."""
    survives(open_laboratory(empty_url, crash_at=POINTS), 200)
