"""
Workers of pytest-xdist as forks of one process that has collected the tests.

A worker imports for five seconds of CPU before its first test, a fork for two.  What is
run as a program collects, and then forks for each worker; it knows nothing of xdist.  A
worker that finds no such process is a new interpreter, as is one that replaces another.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import coverage
import pytest


_ROOT = Path(__file__).parents[2]
_COLLECTED = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)

# It passes its files to the process that forks, and ends when the fork ends.
_WORKER = """\
#!{python} -IS
import contextlib, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    with contextlib.suppress(OSError):
        server.connect("{path}")
        socket.send_fds(server, [sys.argv[-1].encode()], [0, 1, 2])
        if server.recv(1):
            os.closerange(0, 3)
            sys.exit(server.recv(1) != b"")
os.execv("{python}", ["{python}", *sys.argv[1:]])
"""


def fork_workers(config: pytest.Config) -> None:
    """Let the workers of *config* be forks, except while coverage is measured."""
    # Coverage counts the lines that run during the imports.
    if config.pluginmanager.has_plugin("_cov") or {*config.option.tx} != {"popen"}:
        return
    folder = tempfile.TemporaryDirectory()
    config.add_cleanup(folder.cleanup)
    path = Path(folder.name) / "socket"
    worker = Path(folder.name) / "worker"
    worker.write_text(_WORKER.format(python=sys.executable, path=path), "utf-8")
    worker.chmod(0o755)
    count = len(config.option.tx)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(count)
        descriptor = server.fileno()
        process = subprocess.Popen(
            [
                *(sys.executable, _ROOT / "dev" / "with_parent.py", str(os.getpid())),
                *(sys.executable, "-P", __file__, str(descriptor), str(count)),
                *config.invocation_params.args,
            ],
            cwd=config.invocation_params.dir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[descriptor],
        )
    config.option.tx = [f"popen//python={worker}"] * count

    def end() -> None:
        process.terminate()  # It may still wait for a worker.
        process.wait()

    config.add_cleanup(end)


def _serve(descriptor: int, count: int, arguments: Sequence[str]) -> None:
    """Collect the tests of *arguments*, and fork for *count* workers."""
    if "CORE_COVERAGE" in os.environ:
        coverage.Coverage().start()
    options = ("-n0", "--dist=no", "--junitxml=", "--collect-only", "-q")
    # After a failed import a second one would find the module, without its tests.
    if pytest.main([*arguments, *options]) not in _COLLECTED:
        return
    with socket.socket(fileno=descriptor) as server:
        for _ in range(count):
            connection, _ = server.accept()
            code, files, _, _ = socket.recv_fds(connection, 4096, 3)
            if os.fork() == 0:
                server.close()
                _become_worker(connection, code.decode(), files)
            connection.close()
            for each in files:
                os.close(each)
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def _become_worker(
    connection: socket.socket, code: str, files: Sequence[int]
) -> NoReturn:
    """Run *code* as ``python -c`` does, and end."""
    for number, each in enumerate(files):
        os.dup2(each, number)
        os.close(each)
    sys.argv = ["-c"]
    connection.send(b"+")
    exec(code, {"__name__": "__main__"})
    sys.exit()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
