"""The shipped settings with short timeouts for clients."""

from api.server.gunicorn_worker import GunicornWorker
from tests.api.gunicorn_conf import *  # noqa: F403  All but what is below.


class Impatient(GunicornWorker):
    seconds = 0.5


worker_class = "tests.api.impatient.Impatient"
