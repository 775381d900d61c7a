"""The shipped settings without the guard, because there is no device."""

from api.server.gunicorn_conf import *  # noqa: F403  All but the function below.


def on_starting(server: object) -> None:  # type: ignore[no-redef]  # On purpose.
    """Start without the guard."""
