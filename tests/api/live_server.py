"""A real gunicorn on a real socket, and a client that sends arbitrary bytes."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, Self

from gunicorn.app.wsgiapp import run as run_gunicorn  # type: ignore[import-untyped]

from api.auth.dev_tokens import provide_signing_key
from bench.processes import children
from dev.stack import Process
from tests.api.wsgi import BROKEN
from tests.support.forked_processes import ForkedProcess


ROOT = Path(__file__).parents[2]

# The query makes it no probe, so that it gets one of the threads all requests share.
PING = b"GET /healthz? HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

_PATIENCE = 60.0  # Starting takes long on a loaded machine.


@dataclass(frozen=True)
class Answer:
    """A response; the names of *headers* are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def service_environ(folder: Path, ledger: Path | None = None) -> dict[str, str]:
    """Return the environment of a service with keys and a copy of *ledger*."""
    provide_signing_key(folder / "private.pem", folder / "public.pem")
    if ledger is not None:
        (folder / "hotwallet.db").write_bytes(ledger.read_bytes())
    return {
        "APP_ENV": "test",
        "HOTWALLET_HOME": str(folder),
        "DATABASE_URL": "",
        "JWT_PUBLIC_KEY_FILE": str(folder / "public.pem"),
        "JWT_SIGNING_KEY_FILE": str(folder / "private.pem"),
        "WEB_CONCURRENCY": "1",
        BROKEN: str(folder / "broken"),
    }


class Server:
    """
    ``with Server(environ) as server: server.ask(b"GET / HTTP/1.1...")``.

    It is a new interpreter if *program* names its arguments, and a fork otherwise.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        app: str = "tests.api.wsgi:get_app()",
        config: str = "python:tests.api.gunicorn_conf",
        *,
        program: Sequence[str] | None = None,
        cwd: Path = ROOT,
    ) -> None:
        self._files = ExitStack()
        self._listener = self._files.enter_context(
            socket.create_server(("127.0.0.1", 0))
        )
        self._output = self._files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  The stack closes it.
        self._errors = self._files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  The stack closes it.
        self.process: Process = (
            self._fork(environ, config, app)
            if program is None
            else self._start([*program, "-c", config, app], environ, cwd)
        )

    def _fork(self, environ: Mapping[str, str], config: str, app: str) -> Process:
        return ForkedProcess(
            _run_gunicorn,
            (self._listener, config, app),
            {**os.environ, **environ},
            stdout=self._output,
            stderr=self._errors,
        )

    def _start(
        self, arguments: Sequence[str], environ: Mapping[str, str], cwd: Path
    ) -> Process:
        number = self._listener.fileno()
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd,
            env={**os.environ, "BIND": f"fd://{number}", **environ},
            stdout=self._output,
            stderr=self._errors,
            pass_fds=[number],
            process_group=0,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._files:
            if self.process.poll() is None:
                # Its group at once: when the master dies, the kernel forgets whose
                # children the workers were, and the fork server forgets the master.
                with suppress(ProcessLookupError):  # It leads no group yet.
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.send_signal(signal.SIGKILL)
            self.process.wait(_PATIENCE)

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def connect(self) -> socket.socket:
        """Return a connection; the first one waits for a worker."""
        return socket.create_connection(self._listener.getsockname(), _PATIENCE)

    def ask(self, *parts: bytes) -> Answer:
        with self.connect() as connection:
            return exchange(connection, parts)

    def workers(self) -> list[int]:
        return children(self.process.pid)

    def peak_memory(self) -> int:
        """Return the most bytes that the only worker ever had in memory."""
        (worker,) = self.workers()
        status = Path(f"/proc/{worker}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_PATIENCE)

    def output(self) -> str:
        return _content(self._output)

    def errors(self) -> str:
        return _content(self._errors)


def _run_gunicorn(listener: socket.socket, config: str, app: str) -> None:
    os.environ.setdefault("BIND", f"fd://{listener.fileno()}")
    sys.argv = ["gunicorn", "-c", config, app]
    run_gunicorn()


def exchange(connection: socket.socket, parts: Iterable[bytes]) -> Answer:
    """Send *parts* until an answer arrives; return it."""
    for part in parts:
        if not _sent(connection, part):
            break
    with HTTPResponse(connection) as response:
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())


def _sent(connection: socket.socket, part: bytes) -> bool:
    rest = memoryview(part)
    while rest:
        answered, _, _ = select.select([connection], [connection], [], _PATIENCE)
        if answered:
            return False
        rest = rest[connection.send(rest) :]
    return True


def _content(file: Any) -> str:
    # Not read(): the file's position is shared with the process that writes.
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode()
