"""What gunicorn loads in the laboratory: the real application, with crash points."""

import os

from api.app import App, create_app
from api.bootstrap import assemble_services, lay_foundation
from tests.crash.points import watched


def get_app() -> App:
    """Return the application as the environment configures it."""
    return create_app(
        assemble_services(watched(lay_foundation(os.environ), "api", os.environ))
    )
