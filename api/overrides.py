"""
What gunicorn was told beside ``api/gunicorn_conf.py``, which would win over it.

The guard judges our own settings.  A ``-b`` on the command line, or in
``GUNICORN_CMD_ARGS``, would have the service listen where the guard never looked;
another worker class would lose its patience; ``--preload`` would open the key before
the fork.
"""

import os
from collections.abc import Iterator, Mapping

from gunicorn.config import Config  # type: ignore[import-untyped]

from signer.errors import Refusal


_SOCKETS_OF_SYSTEMD = "LISTEN_FDS"


def override_refusals(
    effective: Config, ours: Mapping[str, object], environ: Mapping[str, str]
) -> Iterator[Refusal]:
    """
    Yield why gunicorn may not start as *effective* says.

    *ours* are the values of the settings file, by name; others in it are passed over.
    """
    told = sorted(_differing(effective, ours))
    # systemd(3), sd_listen_fds: the sockets are for this process, or for nobody here.
    if environ.get("LISTEN_PID") == str(os.getpid()) and _SOCKETS_OF_SYSTEMD in environ:
        told.append(_SOCKETS_OF_SYSTEMD)
    if told:
        yield Refusal(
            "gunicorn-overridden",
            f"gunicorn was told otherwise than api/gunicorn_conf.py: {', '.join(told)};"
            " set BIND, WEB_CONCURRENCY and WEB_THREADS instead",
        )


def _differing(effective: Config, ours: Mapping[str, object]) -> Iterator[str]:
    expected = Config()
    for name in expected.settings.keys() & ours.keys():
        expected.set(name, ours[name])
        if expected.settings[name].get() != effective.settings[name].get():
            yield name
