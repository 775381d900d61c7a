"""
The server from which tests fork processes.

A fork inherits no connection, lock or cache: the server has only imported modules, and
opened nothing.  A process of the tests has one such server.
"""

import multiprocessing

from api.cli.__main__ import cli


# Not ``api.server.gunicorn_worker``: all servers would share the memory that it opens.
_PROGRAMS = (
    *(command.target.partition(":")[0] for command in cli.lazy.values()),
    "api.background_threads",
    "api.http.administration",
    "api.http.app",
    "api.extras.signing_api.routes",
    "backends.alert_webhook",
    "softhsm.doctor",
    "tests.api.fuzzed_app",
    "tests.api.live_server",
    "tests.support.forked_processes",
)

FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(
    [
        "pytest",
        "tests.fixtures.ledger",
        "tests.fixtures.races",
        "tests.support.ring",
        *_PROGRAMS,
        "tests.crash.preloaded",  # It ends the preparation.
    ]
)
