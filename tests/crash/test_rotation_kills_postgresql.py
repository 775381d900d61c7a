"""Deaths at each step of a rotation, in a KMS, on PostgreSQL (O1, A4)."""

from tests.crash.conftest import Open
from tests.crash.rotating import SETTINGS
from tests.crash.rotation_kills import POINTS, resumes


def test_resumes_wherever_it_dies(
    open_laboratory: Open, empty_postgresql_url: str
) -> None:
    """Asking again rotates once, and one key is active."""
    resumes(
        open_laboratory(
            empty_postgresql_url,
            crash_at=POINTS,
            use_kms=True,
            spares=3,
            settings=SETTINGS,
        )
    )
