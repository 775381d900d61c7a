"""The shipped settings, and a worker that is a twentieth as patient."""

from api.server.gunicorn_worker import Worker
from tests.api.gunicorn_conf import *  # noqa: F403  All but what is below.


class Impatient(Worker):
    """The shipped worker, for tests that cannot wait as long as it does."""

    seconds = 0.5


worker_class = "tests.api.impatient.Impatient"
