"""Runs tests in a fork in which one module has other code."""

import importlib.abc
import importlib.machinery
import importlib.util
import io
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest


KILLED, SURVIVED, TIMEOUT, BROKEN = "killed", "survived", "timeout", "not importable"

_NOT_IMPORTABLE = 99
_RESULTS = {
    pytest.ExitCode.OK: SURVIVED,
    pytest.ExitCode.TESTS_FAILED: KILLED,
    # A test, a fixture or a plugin cannot be imported.
    pytest.ExitCode.INTERRUPTED: KILLED,
    pytest.ExitCode.INTERNAL_ERROR: KILLED,
    pytest.ExitCode.USAGE_ERROR: KILLED,
    _NOT_IMPORTABLE: BROKEN,
}
_OPTIONS = (
    *("-x", "-q", "-p", "no:cacheprovider"),
    # Plugins were imported before the fork.
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)

_OURS = {"signer", "backends", "api", "softhsm", "tests", "dev", "bench"}


class _OtherCode(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from other code."""

    def __init__(self, file: str, code: str) -> None:
        self._name = file.removesuffix(".py").replace("/", ".")
        self._file, self._code = file, code

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(
            fullname, Path(self._file).resolve(), loader=self
        )

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._code, self._file, "exec"), module.__dict__)


class _Selection:
    """Runs these tests only, in this order; their ids may hold any character."""

    def __init__(self, tests: Sequence[str]) -> None:
        self._places = {test: place for place, test in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        found = [each for each in items if each.nodeid in self._places]
        items[:] = sorted(found, key=lambda each: self._places[each.nodeid])


def preload() -> None:
    """Import what the tests import of other projects, once for all forks."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        with redirect_stdout(io.StringIO()):
            pytest.main(["--collect-only", "-q", "tests/unit/signer", "tests/contract"])
        os.write(writer, "\n".join([*sys.modules]).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as names:
        for name in names.read().split():
            if name.partition(".")[0] not in _OURS and "pytest" not in name:
                try:
                    importlib.import_module(name)
                except Exception:  # noqa: BLE001  Some import only in their order.
                    continue
    os.wait()


def run(file: str, changed: str, tests: Sequence[str], seconds: float) -> str:
    """
    Return what becomes of *tests* when *file* has *code*.

    They have *seconds* of CPU time, and ten times as long to wait on a busy machine.
    """
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
        _work(file, changed, tests)
    deadline = time.monotonic() + 10 * seconds
    handle = os.pidfd_open(pid)
    ended, _, _ = select.select([handle], [], [], max(0, deadline - time.monotonic()))
    os.close(handle)
    if not ended:
        os.killpg(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if not ended:
        return TIMEOUT
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL:
        return TIMEOUT
    if code in _RESULTS:
        return _RESULTS[code]
    raise RuntimeError(f"pytest ended with {code} on {file}: {tests[:3]} ...")


def _work(file: str, code: str, tests: Sequence[str]) -> NoReturn:
    os.setpgid(0, 0)
    result = int(pytest.ExitCode.INTERNAL_ERROR)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    sys.meta_path.insert(0, _OtherCode(file, code))
    try:
        importlib.import_module(file.removesuffix(".py").replace("/", "."))
    except BaseException:  # noqa: BLE001  Whatever the changed code raises.
        os._exit(_NOT_IMPORTABLE)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            files = {test.partition("::")[0]: None for test in tests}
            result = int(pytest.main([*_OPTIONS, *files], [_Selection(tests)]))
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    os._exit(result)
