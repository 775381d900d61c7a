"""
The server from which tests fork processes.

A fork inherits no connection, lock or cache: the server has only imported modules, and
opened nothing.  A process of the tests has one such server.
"""

import multiprocessing


FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(
    [
        "pytest",
        "tests.fixtures.ledger",
        "tests.fixtures.races",
        "tests.support.ring",
        "tests.crash.preloaded",
    ]
)
