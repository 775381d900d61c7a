"""
The server from which tests fork processes.

A fork inherits no connection, lock or cache: the server has only imported modules, and
opened nothing.  A process of the tests has one such server.
"""

import multiprocessing

from api.cli.__main__ import cli


_COMMANDS = (
    *(command.target.partition(":")[0] for command in cli.lazy.values()),
    "api.background_threads",
    "api.http.administration",
    "api.http.app",
    "api.http.signing_routes",
    "api.server.gunicorn_worker",
    "backends.webhook",
    "softhsm.doctor",
    "tests.support.forked_commands",
)

FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(
    [
        "pytest",
        "tests.fixtures.ledger",
        "tests.fixtures.races",
        "tests.support.ring",
        *_COMMANDS,
        "tests.crash.preloaded",  # It ends the preparation.
    ]
)
