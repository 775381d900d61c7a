"""
What differs between modules and cannot be found out by asking them.

The rest is tried: whether a module has locks and read-only sessions, and how it encodes
points, curves and signatures.  ``docs/how-to/hardware-hsm.md`` has both as a table.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quirks:
    """
    The behaviour of the modules whose manufacturer in ``CK_INFO`` begins like this.

    *threads* sign at once; more gain nothing.  *sessions* is the number of sessions
    where ``CK_TOKEN_INFO`` does not have it.
    """

    manufacturer: str = ""
    threads: int = 8
    sessions: int | None = None
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
    Quirks("SoftHSM", threads=2, finalizes_at_exit=True),
    # https://docs.yubico.com/software/yubihsm-2/concepts/hsm2-concept-session.html
    Quirks("Yubico", threads=1, sessions=16),
)

_OTHERS = Quirks()


def quirks_of(manufacturer: str) -> Quirks:
    """Return the quirks of the modules of *manufacturer*."""
    return next(
        (each for each in _QUIRKS if manufacturer.startswith(each.manufacturer)),
        _OTHERS,
    )
