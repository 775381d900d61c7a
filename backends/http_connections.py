"""
urllib3's connections, with one timeout for a whole response, and one send per request.

urllib3 applies its read timeout to each read from the socket, so a peer that sends a
byte now and then keeps its client waiting without end.  ``BoundedResponse`` applies the
timeout to the whole response: status line, headers and body.
"""

import http.client
import io
import socket
import time
from collections.abc import Mapping
from typing import Any


class BoundedResponse(http.client.HTTPResponse):
    """A response with one read timeout for the status line, headers and body."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        timeout = sock.gettimeout()
        if timeout is not None:
            self.fp = io.BufferedReader(_BoundedReader(self.fp.detach(), sock, timeout))


class _BoundedReader(io.RawIOBase):
    """Reads *raw*, the file of *sock*, for at most *timeout* seconds in total."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, timeout: float) -> None:
        self._raw = raw
        self._sock = sock
        self._timeout = timeout
        self._end = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read the available bytes; raise ``TimeoutError`` after the deadline."""
        now = time.monotonic()
        if self._end:
            if now >= self._end:
                raise TimeoutError
            self._sock.settimeout(self._end - now)
        else:
            # The first and usually only read: the socket has the timeout already.
            self._end = now + self._timeout
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _SingleSend:
    """
    Sends a request in one piece; a mixin for urllib3's connections.

    http.client sends headers and body apart: two system calls, two TLS records, two
    packets, and a server that is woken twice.
    """

    _pieces: list[bytes] | None = None

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Send a request whose body is bytes."""
        pieces = self._pieces = []
        parent: Any = super()
        try:
            parent.request(*args, **kwargs)
        finally:
            self._pieces = None
        parent.send(b"".join(pieces))

    def send(self, data: bytes) -> None:
        """Send *data*, or keep it until the request is complete."""
        if self._pieces is not None:
            self._pieces.append(data)
            return
        parent: Any = super()
        parent.send(data)


def bound_responses(pools: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the connection pool classes by scheme, with ``BoundedResponse``.

    Their connections also send each request in one piece.

    *pools* has subclasses of urllib3's ``HTTPConnectionPool``.
    """
    bounded = {}
    for scheme, pool in pools.items():
        connection = type(
            f"Bounded{pool.ConnectionCls.__name__}",
            (_SingleSend, pool.ConnectionCls),
            {"response_class": BoundedResponse},
        )
        bounded[scheme] = type(
            f"Bounded{pool.__name__}", (pool,), {"ConnectionCls": connection}
        )
    return bounded
