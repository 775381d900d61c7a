"""A port for a server that must know it before it starts."""

import atexit
import contextlib
import secrets
import socket
from collections import deque


# The kernel gives connections the ports above, before a server listens.
_SERVER_PORTS = range(20_000, 32_000)

_STARTING = 16

_reserved: deque[socket.socket] = deque()


@atexit.register
def _release() -> None:
    while _reserved:
        _reserved.pop().close()


def free_port() -> int:
    """
    Return a port of 127.0.0.1 that no server uses.

    No other process gets it while the next few servers of this one start.  Otherwise
    two servers could start with it, and the client of one be answered by the other.
    """
    while True:
        port = secrets.choice(_SERVER_PORTS)
        # The port of UDP with the same number, which no server needs, is the lock.
        lock = socket.socket(type=socket.SOCK_DGRAM)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            lock.bind(("127.0.0.1", port))
            _reserved.append(lock)
            if len(_reserved) > _STARTING:
                _reserved.popleft().close()
            return port
        lock.close()
