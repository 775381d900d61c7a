"""The WSGI entry point of ``hotwallet serve``."""

from api.http.app import App, create_app
from api.server import gunicorn_conf
from api.server.config_check import require_our_gunicorn
from signer.config.settings import Role


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
    from api.background_threads import start_threads  # noqa: PLC0415
    from api.bootstrap import open_container, record_start  # noqa: PLC0415  As above.

    container = open_container()
    role = container.settings.serve_role
    process = "api" if role is Role.ALL else role
    record_start(container, process)
    start_threads(container, process)
    return create_app(container)
