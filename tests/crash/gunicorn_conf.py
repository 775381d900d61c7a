"""The shipped gunicorn settings without the guard's process: each worker runs it."""

from api.server.gunicorn_conf import *  # noqa: F403  All but the function below.


def on_starting(server: object) -> None:  # type: ignore[no-redef]  # On purpose.
    """Start at once."""
