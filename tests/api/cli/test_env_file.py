"""``hotwallet`` loads ``.env`` in development, and never in production."""

import os
from pathlib import Path

import pytest

from api.cli.options import load_env_file
from tests.support.programs import run_python


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    path = tmp_path / ".env"
    path.touch(0o600)
    path.write_text(
        "# A comment.\nAPP_ENV=development\nPORT='80 80' # Another.\nA=${PORT}\nNONE\n"
    )
    return path


def test_sets_missing_variables(env_file: Path) -> None:
    """Values are taken literally."""
    environ = {"APP_ENV": "test"}

    assert load_env_file(environ, env_file) == f"loaded {env_file}"
    assert environ == {"APP_ENV": "test", "PORT": "80 80", "A": "${PORT}"}
    assert load_env_file(environ, env_file) is None


def test_an_empty_variable_counts_as_unset(env_file: Path) -> None:
    env_file.write_text("APP_ENV=development\nPORT=80\n", encoding="utf-8")
    environ = {"APP_ENV": "", "PORT": " "}

    load_env_file(environ, env_file)

    assert environ == {"APP_ENV": "development", "PORT": "80"}


def test_a_file_names_no_code(env_file: Path) -> None:
    """A file of the working directory would load a package into the signer."""
    env_file.write_text("APP_ENV=test\nHOTWALLET_EXTRAS=other\n")
    environ: dict[str, str] = {}
    load_env_file(environ, env_file)

    assert environ == {"APP_ENV": "test"}


@pytest.mark.parametrize("app_env", ["production", "Production", "prod", " staging "])
def test_loads_nothing_in_production(env_file: Path, app_env: str) -> None:
    environ = {"APP_ENV": app_env}

    assert "not loaded: APP_ENV is production" in str(load_env_file(environ, env_file))
    assert environ == {"APP_ENV": app_env}


@pytest.mark.parametrize("line", ["APP_ENV=production", "APP_ENV=", ""])
def test_loads_nothing_if_the_file_says_production(env_file: Path, line: str) -> None:
    env_file.write_text(f"{line}\nA=1\n")
    environ: dict[str, str] = {}

    assert "not loaded: APP_ENV is production" in str(load_env_file(environ, env_file))
    assert environ == {}


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_refuses_a_file_that_others_may_write(env_file: Path, mode: int) -> None:
    env_file.chmod(mode)
    environ: dict[str, str] = {}

    assert "another user may write it" in str(load_env_file(environ, env_file))
    assert environ == {}


def test_refuses_a_file_of_another_user(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)

    assert "another user may write it" in str(load_env_file({}, env_file))


def test_does_not_quote_a_file_that_is_not_text(env_file: Path) -> None:
    env_file.write_bytes(b"A=\xff\xfe")

    assert str(load_env_file({}, env_file)).endswith("not loaded: UnicodeDecodeError")


def test_a_missing_file_is_ignored(tmp_path: Path) -> None:
    assert load_env_file({}, tmp_path / ".env") is None


@pytest.mark.parametrize(
    ("options", "messages"), [((), ["loaded .env"]), (("--no-env-file",), [])]
)
def test_the_command_reports_the_file(
    env_file: Path, options: tuple[str, ...], messages: list[str]
) -> None:
    arguments = ("-m", "api.cli", *options, "token")
    finished = run_python(*arguments, environ={}, cwd=env_file.parent)
    lines = finished.stderr.splitlines()

    assert [line for line in lines if ".env" in line] == messages
    forbidden = any("dev-tokens-forbidden" in line for line in lines)
    assert forbidden == bool(options)  # Without the file, this is production.
