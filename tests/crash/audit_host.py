"""
A host of writers and sealers alone, which are replaced when they die.

``python -m tests.crash.audit_host writer writer sealer`` imports the libraries once and
forks; nothing is opened before the fork.
"""

import os
import sys
import time
from functools import partial
from typing import NoReturn

import psycopg

import backends.sql
from api.logs import install
from tests.crash.audit_processes import ROLES, Orders
from tests.crash.forking import forked


_PRELOADED = (backends.sql, psycopg)


def main(roles: list[str]) -> NoReturn:
    """Keep a process in each of *roles* alive, until somebody kills this host."""
    assert all(_PRELOADED)
    install(debug=False, stream=sys.stdout)
    orders = Orders.of(os.environ)
    living = dict[int, str]()
    missing = roles
    while True:
        for role in missing:
            living[forked(partial(ROLES[role], orders))] = role
        pid, _ = os.wait()
        missing = [living.pop(pid)]
        time.sleep(0.01)  # What cannot start must not be started without end.


if __name__ == "__main__":
    main(sys.argv[1:])
