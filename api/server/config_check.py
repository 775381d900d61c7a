"""
Refuses gunicorn options that override ``api/server/gunicorn_conf.py``.

The guard checks this service's own settings.  An option on the command line or in
``GUNICORN_CMD_ARGS`` would bypass it: ``--bind`` changes the listen address,
``--proxy-protocol`` trusts the address that a client claims, another worker class has
no client deadlines, and ``--preload`` opens the key before the fork.  So every setting
that the file does not set must have gunicorn's default.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import NoReturn

from gunicorn import systemd  # type: ignore[import-untyped]
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from gunicorn.config import Config  # type: ignore[import-untyped]

from signer.errors import ConfigurationError, Refusal
from signer.startup.guard import EXIT_STATUS


# ``config`` is the name of the settings file, whose content is checked.  ``chdir`` is
# not harmless: gunicorn's own command imports from that directory.
_HARMLESS = frozenset({"config", "wsgi_app", "default_proc_name", "pidfile"})

serving: ContextVar[Config | None] = ContextVar("serving", default=None)
"""The settings with which our worker class creates the application."""


def refuse_overrides(effective: Config, expected: Mapping[str, object]) -> None:
    """
    Refuse to serve if *effective* differs from the settings file.

    *expected* are the values of the file by name; names that are not gunicorn settings
    are ignored.
    """
    names = [*sorted(_differing(effective, expected)), *_inherited()]
    if names:
        problem = (
            "these settings differ from api/server/gunicorn_conf.py:"
            f" {', '.join(names)}; set BIND, WEB_CONCURRENCY and WEB_THREADS instead"
        )
        raise ConfigurationError(Refusal("gunicorn-overridden", problem))


def _differing(effective: Config, expected: Mapping[str, object]) -> Iterator[str]:
    reference = Config()
    for name in reference.settings.keys() - _HARMLESS:
        if name in expected:
            reference.set(name, expected[name])
        if reference.settings[name].get() != effective.settings[name].get():
            yield name


def _inherited() -> Iterator[str]:
    """Yield the variables that make gunicorn use inherited sockets."""
    if systemd.listen_fds(unset_environment=False):
        yield "LISTEN_FDS"
    # Set by a master that starts its replacement (SIGUSR2).
    if {"GUNICORN_PID", "GUNICORN_FD"} <= os.environ.keys():
        yield "GUNICORN_FD"


def require_our_gunicorn(expected: Mapping[str, object]) -> None:
    """
    Refuse to create the application unless gunicorn runs with the *expected* settings.
    """
    effective = serving.get()
    if effective is not None:
        refuse_overrides(effective, expected)
        return
    # gunicorn restarts a worker that exits with any other status.
    is_gunicorn = os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn/")
    refuse_loading(int(Arbiter.WORKER_BOOT_ERROR) if is_gunicorn else EXIT_STATUS)


def refuse_loading(status: int = EXIT_STATUS) -> NoReturn:
    """End the process, which would open the key unchecked or before the fork."""
    sys.stderr.write(
        "refused: gunicorn-overridden: gunicorn loads the application without"
        f" api/server/gunicorn_conf.py, or before its workers; {_cure()}\n"
    )
    raise SystemExit(status)


def _cure() -> str:
    if os.environ.get("GUNICORN_CMD_ARGS", "").strip():
        return "unset GUNICORN_CMD_ARGS, and run: hotwallet serve"
    return "run: hotwallet serve"
