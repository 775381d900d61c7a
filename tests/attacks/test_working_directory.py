"""The directory in which the service and the commands are started."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.live_server import PING, ROOT, Server, service_environ


HOTWALLET = str(Path(sys.executable).with_name("hotwallet"))

MODULES = (
    "structlog.py",
    "click.py",
    "falcon.py",
    "gunicorn.py",
    "json.py",
    "pydantic.py",
    "sitecustomize.py",
    "sqlalchemy.py",
    "gunicorn.conf.py",
    "api/__init__.py",
    "backends/__init__.py",
    "signer/__init__.py",
    "softhsm/__init__.py",
)
"""What the service imports, and gunicorn's default configuration file."""

PLANTED = 99
"""The exit status of a process that imports a planted module."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with modules that end the process that imports one of them."""
    for name in MODULES:
        planted = tmp_path / "planted" / name
        planted.parent.mkdir(parents=True, exist_ok=True)
        planted.write_text(f"import os; os.write(2, b'imported'); os._exit({PLANTED})")
    return tmp_path / "planted"


@pytest.fixture
def environ(tmp_path: Path, _sqlite_template: Path) -> dict[str, str]:
    """The environment of a service that starts."""
    return service_environ(tmp_path, _sqlite_template) | {"PYTHONPATH": str(ROOT)}


def _run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env={
            "APP_ENV": "test",
            "HOTWALLET_HOME": str(folder / "home"),
            "NETWORKS_FILE": str(folder / "missing.toml"),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_planted_modules_would_be_imported(folder: Path) -> None:
    """By Python's own way to start a package."""
    assert _run(folder, sys.executable, "-m", "api.cli", "guard").returncode == PLANTED


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("serve", 78),
        ("worker", 78),
        ("guard", 78),
        ("doctor", 1),
        ("db upgrade", 0),
        ("keys list", 0),
        ("token --role admin", 78),
        ("softhsm doctor", 1),
        ("explain-code chain-unavailable", 0),
    ],
)
def test_a_command_imports_nothing_from_there(
    folder: Path, command: str, status: int
) -> None:
    """Also the guard that ``serve`` starts as a process of its own."""
    finished = _run(folder, HOTWALLET, *command.split())

    assert "imported" not in finished.stderr
    assert finished.returncode == status, finished.stderr


@pytest.mark.parametrize(
    ("program", "is_attacked"),
    [(("-P", "-m", "api.server"), False), (("-m", "gunicorn"), True)],
)
def test_a_serving_process_imports_nothing_from_there(
    *,
    folder: Path,
    environ: dict[str, str],
    program: tuple[str, ...],
    is_attacked: bool,
) -> None:
    """Nor do the workers that ``hotwallet serve`` forks; gunicorn's command does."""
    with Server(environ, program=program, cwd=folder) as server:
        if is_attacked:
            assert server.process.wait(60) == PLANTED
        else:
            assert server.ask(PING).status == 200
            assert server.stop() == 0
        assert ("imported" in server.errors()) == is_attacked
