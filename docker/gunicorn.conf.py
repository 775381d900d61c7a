"""gunicorn's settings for the image; ``api/server/gunicorn_conf.py`` has them all."""

from api.server.gunicorn_conf import *  # noqa: F403  This file is that file.
