"""
The settings that are shipped, without the guard's own process.

Each worker lays its foundation, and so asks the guard, itself.
"""

from api.server.gunicorn_conf import *  # noqa: F403  All but the function below.


def on_starting(server: object) -> None:  # type: ignore[no-redef]  # On purpose.
    """Start at once."""
