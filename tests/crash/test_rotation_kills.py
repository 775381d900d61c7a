"""A process dies at each step of a rotation (O1, A4)."""

from tests.crash.conftest import Open, Stack
from tests.crash.rotating import SETTINGS
from tests.crash.rotation_kills import POINTS, resumes


def test_a_repeated_request_completes_the_rotation(
    open_laboratory: Open, stack: Stack
) -> None:
    """Asking again rotates once, and one key is active."""
    resumes(
        open_laboratory(
            stack.database_url,
            use_kms=stack.use_kms,
            crash_at=POINTS,
            spares=3,
            settings=SETTINGS,
        )
    )
