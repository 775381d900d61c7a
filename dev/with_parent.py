"""
Run a program that does not outlive the process which asked for it.

::

    python dev/with_parent.py PARENT_PID PROGRAM [ARGUMENT ...]

On Linux the kernel kills PROGRAM when its parent dies, kill -9 included
(``PR_SET_PDEATHSIG``, prctl(2)); the setting survives execve, so that nothing
must run between fork and exec of the parent itself.  "Parent" is the *thread* that
started us: start long-lived programs from a thread that lives as long.
Elsewhere PROGRAM just runs, and an orphan must be ended by hand.
"""

import ctypes
import os
import signal
import sys


_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """
    Let this process be killed when *parent*, which started it, is gone.

    Raises:
        SystemExit: The parent is gone already.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before the line above took effect.
    if os.getppid() != parent:
        raise SystemExit("the parent is gone")


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606  # Become the program.
