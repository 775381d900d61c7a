"""The settings stand in ``api/gunicorn_conf.py``, so that every way in has them."""

from api.gunicorn_conf import *  # noqa: F403  This file is that file.
