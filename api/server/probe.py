"""
Asks the server of this host one question, for health checks.

It runs every few seconds, so it loads neither the settings nor an HTTP library.
"""

import http.client
import re
import socket


_DEFAULT_PORT = 8000  # gunicorn's, if the address has none.
_LARGEST_ANSWER = 16 * 1024

_ADDRESS = re.compile(r"(?:tcp://)?(?:\[([^\]]*)\]|([^:\[\]]*))(?::(\d+))?")

# A server on all addresses is asked on loopback.
_LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def ask(bind: str, path: str, timeout: float) -> tuple[int, str]:
    """
    Return status and body of ``GET`` *path* from the server that listens at *bind*.

    *bind* has the form of ``BIND``; *timeout* is in seconds, for each step.

    Raises:
        OSError: There was no answer.
        ValueError: *bind* is not an address.
    """
    connection = _Connection(bind, timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(_LARGEST_ANSWER).decode("utf-8", "replace")
    except http.client.HTTPException as e:
        raise ConnectionError(f"not an HTTP server: {type(e).__name__}") from None
    finally:
        connection.close()
    return response.status, body


class _Connection(http.client.HTTPConnection):
    """A connection to a host and port, or to a Unix socket."""

    def __init__(self, bind: str, timeout: float) -> None:
        self._path = bind.removeprefix("unix:") if bind.startswith("unix:") else None
        host, port = connect_address(bind) if self._path is None else ("localhost", 0)
        super().__init__(host, port, timeout=timeout)

    def connect(self) -> None:
        if self._path is None:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def connect_address(bind: str) -> tuple[str, int]:
    """
    Return where a process on this host connects to a server that listens at *bind*.

    >>> connect_address("0.0.0.0:8080"), connect_address("[::]:80")
    (('127.0.0.1', 8080), ('::1', 80))

    Raises:
        ValueError: *bind* is not an address.
    """
    match = _ADDRESS.fullmatch(bind)
    if match is None:
        raise ValueError("not HOST:PORT or unix:PATH")
    host = match[1] or match[2] or ""
    return _LOOPBACK.get(host, host), int(match[3] or _DEFAULT_PORT)
