"""``hotwallet`` loads ``.env`` in development, and never in production."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from api.cli.env_file import load_env_file


ROOT = Path(__file__).parents[3]


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    """A file that only its owner may write."""
    path = tmp_path / ".env"
    path.touch(0o600)
    path.write_text(
        "# A comment.\nAPP_ENV=development\nPORT='80 80' # Another.\nA=${PORT}\nNONE\n"
    )
    return path


def test_variables_that_are_not_set(env_file: Path) -> None:
    """Variables of the environment win; values are taken as they are written."""
    environ = {"APP_ENV": "test"}

    assert load_env_file(environ, env_file) == f"loaded {env_file}"
    assert environ == {"APP_ENV": "test", "PORT": "80 80", "A": "${PORT}"}
    assert load_env_file(environ, env_file) is None


def test_an_empty_variable_counts_as_unset(env_file: Path) -> None:
    """Else the file would be read for development, and production would run with it."""
    env_file.write_text("APP_ENV=development\nPORT=80\n", encoding="utf-8")
    environ = {"APP_ENV": "", "PORT": " "}

    load_env_file(environ, env_file)

    assert environ == {"APP_ENV": "development", "PORT": "80"}


@pytest.mark.parametrize("app_env", ["production", "Production", "prod", " staging "])
def test_production_in_the_environment(env_file: Path, app_env: str) -> None:
    """In production, and so in an unknown environment, nothing is loaded."""
    environ = {"APP_ENV": app_env}

    assert "not loaded: APP_ENV is production" in str(load_env_file(environ, env_file))
    assert environ == {"APP_ENV": app_env}


@pytest.mark.parametrize("line", ["APP_ENV=production", "APP_ENV=", ""])
def test_production_in_the_file(env_file: Path, line: str) -> None:
    """Without APP_ENV in the environment, that of the file decides."""
    env_file.write_text(f"{line}\nA=1\n")
    environ: dict[str, str] = {}

    assert "not loaded: APP_ENV is production" in str(load_env_file(environ, env_file))
    assert environ == {}


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_may_write(env_file: Path, mode: int) -> None:
    """Another user could otherwise change the settings."""
    env_file.chmod(mode)
    environ: dict[str, str] = {}

    assert "another user may write it" in str(load_env_file(environ, env_file))
    assert environ == {}


def test_a_file_of_another_user(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in another user's folder is not ours to trust."""
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)

    assert "another user may write it" in str(load_env_file({}, env_file))


def test_a_file_that_is_not_text(env_file: Path) -> None:
    """The warning does not quote the file."""
    env_file.write_bytes(b"A=\xff\xfe")

    assert str(load_env_file({}, env_file)).endswith("not loaded: UnicodeDecodeError")


def test_no_file(tmp_path: Path) -> None:
    """Nothing is said where there is no file."""
    assert load_env_file({}, tmp_path / ".env") is None


@pytest.mark.parametrize(
    ("options", "messages"), [((), ["loaded .env"]), (("--no-env-file",), [])]
)
def test_the_command(
    env_file: Path, options: tuple[str, ...], messages: list[str]
) -> None:
    """One line on standard error says that the file was loaded; an option skips it."""
    finished = subprocess.run(
        [sys.executable, "-m", "api.cli", *options, "token"],
        cwd=env_file.parent,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = finished.stderr.splitlines()

    assert [line for line in lines if ".env" in line] == messages
    forbidden = any("dev-tokens-forbidden" in line for line in lines)
    assert forbidden == bool(options)  # Without the file, this is production.
