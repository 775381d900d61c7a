"""
Processes like new interpreters, each a fork of one that has imported everything.

Importing takes half a second of CPU or more, and most commands take a tenth of it.  A
fork runs a command from ``main`` to its exit, with its own environment, arguments,
output, signals and ``atexit``, and without open files or connections of the parent.
gunicorn runs in the process of ``serve``; only its guard is a new interpreter.  ``ps``
shows the name of the fork server.
"""

import atexit
import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingUnixStreamServer
from tempfile import TemporaryDirectory
from threading import Thread
from typing import IO, NoReturn

from api.cli.__main__ import main
from dev.anvil import ROOT
from dev.stack import Process
from dev.with_parent import die_with_parent
from tests.support.forkserver import FORK_SERVER


_SECONDS = 120.0


class ForkedProcess:
    """
    ``work(*arguments)`` as a process that leads a group.

    It writes to *stdout* and *stderr*, reads nothing or *stdin*, and ends with this
    process.
    """

    def __init__(
        self,
        work: Callable[..., object],
        arguments: Sequence[object],
        environ: Mapping[str, str],
        *,
        stdout: IO[bytes],
        stderr: IO[bytes],
        stdin: IO[bytes] | None = None,
        cwd: Path = ROOT,
    ) -> None:
        files = {
            number: Connection(os.dup(file.fileno()))
            for number, file in enumerate((stdin, stdout, stderr))
            if file
        }
        self._process = FORK_SERVER.Process(
            target=_run,
            args=(files, cwd, dict(environ), work, arguments),
            daemon=True,
        )
        self._process.start()
        for each in files.values():
            each.close()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid
        return pid

    @property
    def sentinel(self) -> int:
        """A descriptor that is ready once it has ended."""
        return self._process.sentinel

    def poll(self) -> int | None:
        """
        Return the exit status if it has ended.

        A signal that killed it is a negative number.
        """
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """
        Wait until it has ended; return the exit status.

        Raises:
            subprocess.TimeoutExpired: It still runs after *timeout* seconds.
        """
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return status

    def send_signal(self, number: int, /) -> None:
        """Send it a signal, unless it has ended."""
        # The fork server knows of its end before this process.
        with contextlib.suppress(ProcessLookupError):
            if self.poll() is None:
                os.kill(self.pid, number)


class ForkedCommand(ForkedProcess):
    """``hotwallet ARGUMENTS``."""

    def __init__(
        self,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        *,
        stdout: IO[bytes],
        stderr: IO[bytes],
    ) -> None:
        super().__init__(_hotwallet, arguments, environ, stdout=stdout, stderr=stderr)


def start_interpreter(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    *,
    stdout: IO[bytes],
    stderr: IO[bytes],
    root: Path = ROOT,
) -> Process:
    """Start a command of *root* as an interpreter, which has its own command line."""
    return subprocess.Popen(
        [
            sys.executable,
            ROOT / "dev" / "with_parent.py",
            str(os.getpid()),
            *(sys.executable, "-m", "api.cli", *arguments),
        ],
        cwd=root,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        process_group=0,
    )


def run_command(
    arguments: Sequence[str], environ: Mapping[str, str], timeout: float = _SECONDS
) -> subprocess.CompletedProcess[str]:
    """Run ``hotwallet ARGUMENTS`` to its end; return status and output."""
    return _finished(_hotwallet, arguments, environ, timeout)


def run_module(
    module: str, *arguments: str, environ: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m MODULE ARGUMENTS`` to its end; return status and output."""
    command = ("-m", module, *arguments)
    return _finished(_become, ("", command), environ, _SECONDS)


def _finished(
    work: Callable[..., object],
    arguments: Sequence[object],
    environ: Mapping[str, str],
    timeout: float,
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = ForkedProcess(work, arguments, environ, stdout=stdout, stderr=stderr)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess([*map(str, arguments)], status, *texts)


class ForkedHotWallet:
    """A ``Launcher`` for ``dev.stack``."""

    def run(
        self, arguments: Sequence[str], environ: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run ``hotwallet ARGUMENTS`` to its end; return status and output."""
        return run_command(arguments, environ)

    def start(
        self, arguments: Sequence[str], environ: Mapping[str, str], log: IO[bytes]
    ) -> Process:
        return ForkedCommand(arguments, environ, stdout=log, stderr=log)


def run_commands(
    commands: Iterable[tuple[Sequence[str], Mapping[str, str]]],
) -> list[subprocess.CompletedProcess[str]]:
    """Run commands in their environments, three at once."""
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(lambda each: run_command(*each), commands))


@contextmanager
def command_for_shells() -> Iterator[Path]:
    """
    Yield a folder with a program ``hotwallet``, whose work a fork does.

    The program passes its arguments, variables, folder and files to this process, and
    ends with the status of the fork.  The fork ends with the program.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        program = folder / "hotwallet"
        program.write_text(
            _PROGRAM.format(python=sys.executable, path=folder / "socket"), "utf-8"
        )
        program.chmod(0o755)
        with _ShellServer(str(folder / "socket"), _ShellHandler) as server:
            thread = Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            try:
                yield folder
            finally:
                server.shutdown()
                thread.join()


_PROGRAM = """\
#!{python} -IS
import json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect("{path}")
    # The fork then ends; its port is free when this program has ended.
    signal.signal(signal.SIGTERM, lambda *_: server.shutdown(socket.SHUT_WR))
    asked = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(server, [b"%08d" % len(asked)], [0, 1, 2])
    server.sendall(asked)
    sys.exit(int(server.recv(4) or 1))
"""


class _ShellServer(ThreadingUnixStreamServer):
    daemon_threads = True


class _ShellHandler(StreamRequestHandler):
    def handle(self) -> None:
        """Run a command until it or the program ends."""
        connection: socket.socket = self.connection
        size, descriptors, _, _ = socket.recv_fds(connection, 8, 3)
        arguments, environ, cwd = json.loads(self.rfile.read(int(size)))
        with ExitStack() as files:
            stdin, stdout, stderr = (
                files.enter_context(os.fdopen(each, mode))
                for each, mode in zip(descriptors, ("rb", "wb", "wb"), strict=True)
            )
            process = ForkedProcess(
                _hotwallet,
                arguments,
                environ,
                stdout=stdout,
                stderr=stderr,
                stdin=stdin,
                cwd=Path(cwd),
            )
        wait_for([connection, process.sentinel])
        process.send_signal(signal.SIGTERM)  # Unless it has ended.
        status = process.wait(_SECONDS)
        with contextlib.suppress(BrokenPipeError):
            connection.sendall(str(status).encode())


def _run(
    files: Mapping[int, Connection],
    cwd: Path,
    environ: Mapping[str, str],
    work: Callable[..., object],
    arguments: Sequence[object],
) -> None:
    die_with_parent(os.getppid())
    os.setpgid(0, 0)
    for number, file in files.items():
        os.dup2(file.fileno(), number)
        file.close()
    if 0 in files:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    try:
        work(*arguments)
    except SystemExit:
        raise
    except BaseException:  # noqa: BLE001  As an interpreter does.
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    finally:
        # multiprocessing ends its processes without these.
        atexit._run_exitfuncs()


def _hotwallet(*arguments: str) -> None:
    os.execvp = _become  # type: ignore[assignment]  # `serve` becomes gunicorn.
    sys.argv = ["hotwallet", *arguments]
    main()


def _become(_: str, command: Sequence[str]) -> NoReturn:
    """Run ``python -P -m MODULE ARGUMENTS`` in this process."""
    after = command.index("-m") + 1
    module, *arguments = command[after:]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit(0)
