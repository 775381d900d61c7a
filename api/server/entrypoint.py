"""The WSGI entry point of ``hotwallet serve``."""

from api.http.app import App, create_app
from api.server import gunicorn_conf
from api.server.config_check import require_our_gunicorn


def get_app() -> App:
    """
    Return the application as the environment configures it.

    gunicorn calls this in each worker after the fork, so every worker opens its own
    device, database and chain clients.

    Raises:
        ConfigurationError: As ``open_container`` and ``record_start``.
        SystemExit: As ``require_our_gunicorn``.
    """
    require_our_gunicorn(vars(gunicorn_conf))
    from api.bootstrap import (  # noqa: PLC0415  It opens the backends.
        open_container,
        record_start,
    )

    container = open_container()
    record_start(container, "api")
    container.start_sealer()
    return create_app(container)
