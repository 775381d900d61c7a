"""A port for a server that must know it before it starts."""

import contextlib
import secrets
import socket


# The kernel gives connections the ports above, before a server listens.
_SERVER_PORTS = range(20_000, 32_000)


def free_port() -> int:
    """Return a port of 127.0.0.1 that no server uses."""
    while True:
        port = secrets.choice(_SERVER_PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
