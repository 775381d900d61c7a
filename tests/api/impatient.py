"""The shipped settings with short timeouts for clients."""

from api.server.gunicorn_worker import Worker
from tests.api.gunicorn_conf import *  # noqa: F403  All but what is below.


class Impatient(Worker):
    """The shipped worker with short timeouts for clients."""

    seconds = 0.5


worker_class = "tests.api.impatient.Impatient"
