"""
What differs between modules and cannot be found out by asking them.

The rest is tried: whether a module has locks and read-only sessions, and how it encodes
points, curves and signatures.  ``docs/how-to/hardware-hsm.md`` has both as a table.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Quirks:
    """
    The behaviour of the modules whose manufacturer or file name begins with *name*.

    *threads* sign at once; more gain nothing.  *sessions* is the number of sessions
    where ``CK_TOKEN_INFO`` does not have it.
    """

    name: str = ""
    threads: int = 8
    sessions: int | None = None
    retries_login: bool = False
    """Whether a login that failed is tried again at once: the token never locks."""

    is_serialized: bool = False
    """Whether the module gets one call at a time, although it has locks."""

    finalizes_at_exit: bool = False
    """
    Whether ``C_Finalize`` is called when the process ends.

    By default it is not: the exit handlers of libraries that the module uses may have
    run before (https://github.com/opencryptoki/opencryptoki/pull/530), and a device
    frees the sessions of a process that has ended.
    """


_QUIRKS = (
    # Its destructors use OpenSSL, which is cleaned up before them, unless it is
    # finalized (https://github.com/softhsm/SoftHSMv2/issues/729).  It signs on this
    # host's processor.
    Quirks("SoftHSM", threads=2, retries_login=True, finalizes_at_exit=True),
    # https://docs.yubico.com/software/yubihsm-2/concepts/hsm2-concept-session.html
    Quirks("Yubico", threads=1, sessions=16),
    # If the connection breaks while several threads wait for an answer, all but one
    # wait for ever (seen with 0.24.1: rpc_socket_read in p11-kit/rpc-transport.c).
    Quirks("p11-kit", threads=1, is_serialized=True),
)

_OTHERS = Quirks()


def quirks_of(manufacturer: str, path: str) -> Quirks:
    """Return the quirks of the module of *manufacturer* at *path*."""
    names = (manufacturer, Path(path).name)
    return next(
        (each for each in _QUIRKS if any(name.startswith(each.name) for name in names)),
        _OTHERS,
    )
