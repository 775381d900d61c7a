"""What gunicorn loads in the laboratory: the real application, with crash points."""

import os

from api.bootstrap import lay_foundation
from api.container import Parts
from api.http.app import App, create_app
from tests.crash.points import watched


def get_app() -> App:
    """Return the application as the environment configures it."""
    found = watched(lay_foundation(os.environ), "api", os.environ)
    parts = Parts(found)
    parts.seal()
    return create_app(parts.services)
