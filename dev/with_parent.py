"""
Run a program that ends together with its parent process.

::

    python dev/with_parent.py PARENT_PID PROGRAM [ARGUMENT ...]

On Linux the kernel kills PROGRAM when its parent dies, kill -9 included
(``PR_SET_PDEATHSIG``, prctl(2)).  The setting survives execve, so the parent needs no
``preexec_fn``.  "Parent" is the *thread* that started this process: start long-lived
programs from a thread that lives as long.  On other systems PROGRAM simply runs, and
an orphan must be ended by hand.
"""

import ctypes
import os
import signal
import sys


_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """
    Have this process killed when *parent*, which started it, ends.

    Raises:
        SystemExit: The parent has ended already.
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
