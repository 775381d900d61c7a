"""
What gunicorn was told beside ``api/server/gunicorn_conf.py``, which would win over it.

The guard judges our own settings.  A ``-b`` on the command line, or in
``GUNICORN_CMD_ARGS``, would have the service listen where the guard never looked;
``--proxy-protocol`` would have it believe anybody where he comes from; another worker
class would lose its patience; ``--preload`` would open the key before the fork.  So
whatever our file does not say must be as gunicorn has it by itself.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from gunicorn import systemd  # type: ignore[import-untyped]
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from gunicorn.config import Config  # type: ignore[import-untyped]

from signer.errors import ConfigurationError, Refusal
from signer.startup.guard import EXIT_STATUS


_HARMLESS = frozenset(
    {
        "config",  # Which file it was, which is judged by what it says.
        "wsgi_app",
        "default_proc_name",  # The application's name once more.
        "pidfile",
    }
)
# Not chdir, though a supervisor may begin anywhere: this process has imported us from
# here, and the guard and those that it starts later would be imported from there.

_serving: ContextVar[Config | None] = ContextVar("serving", default=None)


def override_refusals(
    effective: Config, ours: Mapping[str, object]
) -> Iterator[Refusal]:
    """
    Yield why gunicorn may not start as *effective* says.

    *ours* are the values of the settings file, by name; others in it are passed over.
    """
    told = [*sorted(_differing(effective, ours)), *_inherited()]
    if told:
        yield Refusal(
            "gunicorn-overridden",
            "these settings differ from api/server/gunicorn_conf.py:"
            f" {', '.join(told)}; set BIND, WEB_CONCURRENCY and WEB_THREADS instead",
        )


def _differing(effective: Config, ours: Mapping[str, object]) -> Iterator[str]:
    expected = Config()
    for name in expected.settings.keys() - _HARMLESS:
        if name in ours:
            expected.set(name, ours[name])
        if expected.settings[name].get() != effective.settings[name].get():
            yield name


def _inherited() -> Iterator[str]:
    """Yield by which variables gunicorn would take sockets that are open already."""
    if systemd.listen_fds(unset_environment=False):
        yield "LISTEN_FDS"
    # From the master that this one is to replace (SIGUSR2), or who says to be that.
    if {"GUNICORN_PID", "GUNICORN_FD"} <= os.environ.keys():
        yield "GUNICORN_FD"


@contextmanager
def serving(effective: Config) -> Iterator[None]:
    """Say that our worker makes the application now, as *effective* has it."""
    before = _serving.set(effective)
    try:
        yield
    finally:
        _serving.reset(before)


def require_our_gunicorn(ours: Mapping[str, object]) -> None:
    """
    Refuse to build the application unless gunicorn runs with the settings *ours*.

    Raises:
        ConfigurationError: ``gunicorn-overridden``; our worker class reports it.
        SystemExit: Another server or worker class loads the application.  The refusal
            is written to standard error first.
    """
    effective = _serving.get()
    if effective is None:
        sys.stderr.write(
            "refused: gunicorn-overridden: gunicorn does not run with"
            " api/server/gunicorn_conf.py; run: hotwallet serve\n"
        )
        raise SystemExit(_status())
    refusals = list(override_refusals(effective, ours))
    if refusals:
        raise ConfigurationError(*refusals)


def _status() -> int:
    # Of whatever else a worker ends with, gunicorn makes the next worker.
    if os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn/"):
        return int(Arbiter.WORKER_BOOT_ERROR)
    return EXIT_STATUS
