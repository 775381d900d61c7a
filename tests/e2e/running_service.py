"""
``hotwallet serve`` and ``hotwallet worker`` as processes, with all of their output.

They write to pipes, because a full disk must not suppress their output.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

from bench.processes import children
from dev.anvil import ROOT
from dev.stack import Process
from tests.support.forked_processes import ForkedCommand, start_interpreter


_START_SECONDS = 120.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.02


class RunningService:
    """
    Gunicorn and a worker of ours; they run inside of ``with``.

    With *has_interpreters* they are new interpreters instead of forks, of the code in
    *root* if it is given.  With other *names* only those commands run.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        has_interpreters: bool = False,
        root: Path = ROOT,
        names: Sequence[str] = ("serve", "worker"),
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self._begin: Callable[..., Process] = ForkedCommand
        if has_interpreters:
            self._begin = partial(start_interpreter, root=root)
        self._names = names
        self._environ = {**environ, "BIND": f"127.0.0.1:{self.port}"}
        self._output: dict[str, list[str]] = {}
        self._readers: list[threading.Thread] = []
        self.processes: dict[str, Process] = {}
        self.command_lines: set[str] = set()

    def __enter__(self) -> Self:
        """Start them, and wait until the service is ready."""
        for name in self._names:
            self._start(name)
        try:
            self._await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop them as an operator does, and read the rest of the output."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for reader in self._readers:
            reader.join(_STOP_SECONDS)

    @property
    def output(self) -> Mapping[str, str]:
        """All output so far, by process and pipe."""
        return {name: "".join(lines) for name, lines in self._output.items()}

    def mark(self) -> Mapping[str, int]:
        """Return the position in the output, for ``events``."""
        return {name: len(lines) for name, lines in self._output.items()}

    def events(self, mark: Mapping[str, int]) -> Iterator[dict[str, Any]]:
        """Yield the events that were logged since *mark*."""
        for name, lines in self._output.items():
            for line in lines[mark.get(name, 0) :]:
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if isinstance(event, dict):
                        yield event

    def members(self) -> Iterator[int]:
        """Yield the ids of the processes and of all their children."""
        waiting = [process.pid for process in self.processes.values()]
        while waiting:
            pid = waiting.pop()
            yield pid
            waiting += children(pid)

    def record_command_lines(self) -> None:
        """Record the command lines of all processes, as ``ps`` shows them."""
        for pid in self.members():
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                if line:  # An exited process has none.
                    self.command_lines.add(line.replace(b"\0", b" ").decode())

    def _start(self, name: str) -> None:
        with ExitStack() as written:
            pipes = {}
            for pipe in ("stdout", "stderr"):
                reader, writer = os.pipe()
                pipes[pipe] = written.enter_context(os.fdopen(writer, "wb"))
                lines = self._output.setdefault(f"{name}: {pipe}", [])
                thread = threading.Thread(target=_read, args=(reader, lines))
                thread.start()
                self._readers.append(thread)
            self.processes[name] = self._begin([name], self._environ, **pipes)

    def _await_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_ready():
            self.record_command_lines()
            gone = [p for p in self.processes.values() if p.poll() is not None]
            assert not gone, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(_POLL_SECONDS)

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            address = ("127.0.0.1", self.port)
            with socket.create_connection(address, 5) as connection:
                connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                return connection.recv(64).startswith(b"HTTP/1.1 200")
        return False


def _read(pipe: int, lines: list[str]) -> None:
    with open(pipe, encoding="utf-8") as stream:
        lines.extend(stream)
