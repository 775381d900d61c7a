"""What gunicorn loads in the laboratory: the real application, with crash points."""

import os

from api.bootstrap import open_container
from api.http.app import App, create_app
from tests.crash.points import watched


def get_app() -> App:
    """Return the application as the environment configures it."""
    container = watched(open_container(), "api", os.environ)
    container.start_sealer()
    return create_app(container)
