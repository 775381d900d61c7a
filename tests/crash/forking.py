"""Children that end with whoever forked them."""

import os
import sys
import traceback
from collections.abc import Callable

from dev.with_parent import die_with_parent


def forked(work: Callable[[], None]) -> int:
    """Do *work* in a child, and return its id."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        die_with_parent(parent)
        work()
    except SystemExit as e:
        # Gunicorn's master, which forks as well, reads it from its children.
        status = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:  # noqa: BLE001  It is told, and the process ends.
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)
