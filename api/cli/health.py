"""
``hotwallet health``: whether the API on this host answers, for supervisors.

It runs every few seconds as the health check of a container, so it loads neither the
settings nor an HTTP client.
"""

import http.client
import os
import re
import socket
import sys

import click


_DEFAULT_BIND = "127.0.0.1:8080"
_DEFAULT_PORT = 8000  # gunicorn's, if BIND has none.
_TIMEOUT_SECONDS = 2.0

_ADDRESS = re.compile(r"(?:tcp://)?(?:\[([^\]]*)\]|([^:\[\]]*))(?::(\d+))?")

# A server on all addresses is asked on loopback.
_LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


class _Connection(http.client.HTTPConnection):
    """A connection to a host and port, or to a Unix socket."""

    def __init__(self, bind: str) -> None:
        self._path = bind.removeprefix("unix:") if bind.startswith("unix:") else None
        host, port = _listen_address(bind) if self._path is None else ("localhost", 0)
        super().__init__(host, port, timeout=_TIMEOUT_SECONDS)

    def connect(self) -> None:
        if self._path is None:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT_SECONDS)
        self.sock.connect(self._path)


@click.command()
@click.option(
    "--ready", is_flag=True, help="Ask /readyz: also database, key, nodes and worker."
)
def health(ready: bool) -> None:
    """
    Ask the API of this host, at BIND, whether it answers.

    Exits with 1 if it does not, or answers another status than 200, within 2 seconds.  A
    worker listens nowhere: /readyz of the API reports it.

    Example: hotwallet health --ready
    """
    path = "/readyz" if ready else "/healthz"
    bind = os.environ.get("BIND", "").strip() or _DEFAULT_BIND
    try:
        connection = _Connection(bind)
        connection.request("GET", path)
        response = connection.getresponse()
        answer = response.read(4096).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as e:
        click.echo(f"{bind} does not answer: {type(e).__name__}", err=True)
        sys.exit(1)
    click.echo(answer)
    if response.status != http.client.OK:
        sys.exit(1)


def _listen_address(bind: str) -> tuple[str, int]:
    """
    Return where a process on this host connects to a server at *bind*.

    >>> _listen_address("0.0.0.0:8080"), _listen_address("[::]:80")
    (('127.0.0.1', 8080), ('::1', 80))
    """
    match = _ADDRESS.fullmatch(bind)
    if match is None:
        raise click.UsageError("BIND is not an address: use HOST:PORT or unix:PATH")
    host = match[1] or match[2] or ""
    return _LOOPBACK.get(host, host), int(match[3] or _DEFAULT_PORT)
